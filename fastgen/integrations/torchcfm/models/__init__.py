"""torchcfm's small networks; its U-Net is torchcfm's own (`torchcfm.models.unet`)."""

from fastgen.integrations.torchcfm.models.models import MLP

__all__ = ["MLP"]
