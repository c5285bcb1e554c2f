"""Keyword arguments that nobody knows are refused with the nearest one that somebody does."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, ParamSpec, TypeVar

from fastgen.common.errors import nearest

P = ParamSpec("P")
R = TypeVar("R")


def known_arguments(**objects: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: unknown keyword arguments are a TypeError that says what was meant.

    Args:
        **objects: for arguments that take an object of numbers, its dataclass, or several. A field
            of it that is given to the function itself is shown its place.
    """
    places: dict[str, str] = {}
    for argument, kinds in objects.items():
        for kind in kinds if isinstance(kinds, tuple) else (kinds,):
            for part in fields(kind):
                places.setdefault(part.name, f"{argument}={kind.__name__}({part.name}=...)")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names = frozenset(inspect.signature(function).parameters)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in names:
                    place = places.get(name)
                    hint = f"give it as {place}" if place else nearest(name, names)
                    raise TypeError(
                        f"{function.__name__}() got an unexpected keyword argument {name!r}: {hint}"
                    )
            return function(*args, **kwargs)

        return checked

    return decorate
