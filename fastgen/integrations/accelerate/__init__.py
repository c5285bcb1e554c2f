"""Training with Hugging Face's accelerate: objectives of `fastgen.training` on any devices.

accelerate places, synchronises, scales and saves; fastgen gives the loss, the rate and the average
of the weights. Needs ``pip install 'fastgen-torch[accelerate]'``.
"""

from fastgen.integrations.accelerate.trainer import AcceleratedTrainer

__all__ = ["AcceleratedTrainer"]
