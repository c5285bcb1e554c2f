"""Base classes of equations: modules that say which noise and which integral they have."""

from __future__ import annotations

from torch import nn

from fastgen.common.checks import check_choice
from fastgen.integrations.torchsde.settings import NOISE_TYPES, SDE_TYPES


class BaseSDE(nn.Module):
    """A module with f and g, a kind of noise and one of integral.

    Args:
        noise_type: "general", "diagonal", "scalar" or "additive".
        sde_type: "ito" or "stratonovich".

    Raises:
        ValueError: for other names.
    """

    def __init__(self, noise_type: str, sde_type: str) -> None:
        super().__init__()
        check_choice("noise_type", noise_type, NOISE_TYPES.all())
        check_choice("sde_type", sde_type, SDE_TYPES.all())
        self.noise_type, self.sde_type = noise_type, sde_type


class SDEIto(BaseSDE):
    """An equation of Ito's integral."""

    def __init__(self, noise_type: str) -> None:
        super().__init__(noise_type, "ito")


class SDEStratonovich(BaseSDE):
    """An equation of Stratonovich's integral."""

    def __init__(self, noise_type: str) -> None:
        super().__init__(noise_type, "stratonovich")
