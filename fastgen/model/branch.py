"""One further output that guidance asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fastgen.common.display import displayed
from fastgen.common.typed import typed_fields

Network = Callable[..., Tensor]


@displayed
@dataclass(frozen=True, eq=False)
class Branch:
    """One further output that guidance asks for.

    Args:
        arguments: keyword arguments that replace the call's.
        network: the network, if it is another one: weaker, or perturbed.
        against: the branch that this one is compared with; None is the call's own output. In
            ``{"text": {...}, "image": Branch({...}, against="text")}`` the scale "image" is that of
            the difference between the branches "text" and "image".
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    network: Network | None = None
    against: str | None = None

    def __post_init__(self) -> None:
        typed_fields(self)
        check_arguments("arguments", self.arguments)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"arguments": self.arguments} if self.arguments else {}
        facts |= {"network": self.network} if self.network is not None else {}
        return facts | ({"against": self.against} if self.against is not None else {})


def check_arguments(name: str, value: Any) -> None:
    """Raise a TypeError for something else than a dictionary by names."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(
            f"{name}={value!r}: expected a dictionary of the network's arguments, such as "
            "{'label': null}"
        )
