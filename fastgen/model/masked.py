"""A model of which a part of the data is known: what it is without that, and what is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from fastgen.kernels import Known
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model


class Masked(NamedTuple):
    """What a sampler needs to keep what is known in its stages instead of in the network.

    prior: the model without it. guidance: of the prior. argument: of the network, by which a call
    says what is known. known: (that argument or None, a state [B, ...]) to what is known, in the
    state's dtype.
    """

    prior: Model
    guidance: Guidance | None
    argument: str
    known: Callable[[Any, Tensor], Known]

    def split(self, arguments: Mapping[str, Any], like: Tensor) -> tuple[dict[str, Any], Known]:
        """The prior's own arguments, and what is known of states like this one."""
        rest = {name: value for name, value in arguments.items() if name != self.argument}
        return rest, self.known(arguments.get(self.argument), like)


class MaskedModel(Model):
    """A model of which a part of the data may be known."""

    @property
    def masked(self) -> Masked | None:
        """What it is where numbers that are known take the place of predictions, and nothing else
        happens; None elsewhere.
        """
        raise NotImplementedError
