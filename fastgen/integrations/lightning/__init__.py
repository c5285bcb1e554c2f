"""Training with Lightning: objectives of `fastgen.training` as a LightningModule.

Lightning makes the loop, the devices, precision, checkpoints and logging; fastgen the loss, the
rate, the average of the weights and the samples. Needs ``pip install 'fastgen-torch[lightning]'``.
"""

from fastgen.integrations.lightning.module import TrainingModule
from fastgen.integrations.lightning.samples import SampleSheets

__all__ = ["SampleSheets", "TrainingModule"]
