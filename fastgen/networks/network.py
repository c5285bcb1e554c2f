"""What all networks are: modules that their configuration rebuilds, found by name."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from fastgen.common.errors import nearest

_registry: dict[str, type[Network]] = {}
N = TypeVar("N", bound="type[Network]")


class Network(nn.Module):
    """A network net(x, t, labels=None) that its configuration rebuilds.

    A subclass keeps its arguments in ``config``. classes: number of labels; label ``classes`` means
    that none is given, as does labels=None.
    """

    config: dict[str, Any]
    classes: int = 0


def register(cls: N) -> N:
    """Class decorator: lets `from_config` find a network by its class name."""
    _registry[cls.__name__] = cls
    return cls


def names() -> tuple[str, ...]:
    """Names of the networks, sorted."""
    return tuple(sorted(_registry))


def is_registered(network: nn.Module) -> bool:
    """Whether `from_config` makes networks of this class: of the very class, not of its name."""
    return _registry.get(type(network).__name__) is type(network)


def from_config(config: dict[str, Any]) -> Network:
    """The network {"name": class, **arguments}, with fresh weights.

    Raises:
        ValueError: for an unknown name.
        TypeError: for an unknown argument.
    """
    name = str(config.get("name"))
    if name not in _registry:
        raise ValueError(f"network {name!r}: {nearest(name, _registry)}")
    return _registry[name](**{k: v for k, v in config.items() if k != "name"})


def to_config(network: Network) -> dict[str, Any]:
    """The dictionary from which `from_config` makes the same network."""
    return {"name": type(network).__name__, **network.config}
