"""Training with Hugging Face's accelerate: the engine of `fastgen.training.Trainer` on any devices.

accelerate places, synchronises, shards, casts, accumulates and tells trackers; the trainer brings
the loss, the order, the noise, the rate and the checkpoints. Needs
``pip install 'fastgen-torch[accelerate]'``.
"""

from fastgen.integrations.accelerate.engine import Accelerated

__all__ = ["Accelerated"]
