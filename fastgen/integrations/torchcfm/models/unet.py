"""`torchcfm.models.unet`: a network, which is torchcfm's own."""

from fastgen.integrations.common.names import Refused

__all__: list[str] = []

__getattr__ = Refused(
    __name__,
    {
        "UNetModel": "a network, not a solver, and torchcfm's own: keep `from torchcfm.models.unet "
        "import UNetModel`; flow matchers and solvers here take it as it is"
    },
)
