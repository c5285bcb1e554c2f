"""Rows of a table that carry options: solvers, time grids, error-controlled methods.

A row is called with options by name and gives itself with these bound: ``ddim(eta=0.5)``.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from types import MappingProxyType
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

from fastgen.common.display import html_of
from fastgen.common.errors import nearest

P = ParamSpec("P")
Row = TypeVar("Row", bound="Configurable[...]")

NOTHING: Mapping[str, Any] = MappingProxyType({})


class _Doc:
    """The class's text on the class; on a row the options, what its function says, its facts."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def __get__(self, row: Configurable[...] | None, owner: type) -> str | None:
        return self.text if row is None else row._text()


@dataclass(frozen=True, eq=False, repr=False)
class Configurable(Generic[P]):
    """A row of a table: a name, a function and the values of some of its options.

    name: in the table. build: a function whose keyword-only arguments are the options. given:
    those that have been given, in that order. Rows are values: equal where name, function and
    given options are.
    """

    name: str
    build: Callable[..., Any]
    given: Mapping[str, Any] = field(default_factory=lambda: NOTHING, kw_only=True)

    def __init_subclass__(cls) -> None:
        cls.__doc__ = _Doc(cls.__doc__)  # type: ignore[assignment]

    @property
    def options(self) -> dict[str, Any]:
        """The values of all options, which are defaults where none were given."""
        return {**keywords(self.build), **self.given}

    @property
    def bare(self: Row) -> Row:
        """The row without the options that were given to it."""
        return replace(self, given=NOTHING) if self.given else self

    def with_options(self: Row, arguments: tuple[Any, ...], options: dict[str, Any]) -> Row:
        """The row with more options bound.

        Raises:
            TypeError: for an unknown option, naming the nearest one; for one that was given
                before; and for a value of another type than the option's.
        """
        if arguments:
            raise TypeError(
                f"{self.name}: its options are given by name, such as "
                f"{self.name}({next(iter(keywords(self.build)), 'option')}=...)"
            )
        known = keywords(self.build)
        for name in options:
            if name not in known and not takes_any(self.build):
                raise TypeError(f"{self.name}() has no option {name!r}: {nearest(name, known)}")
        check_given_once(self, options)
        _check_types(self.build, options, self._names())
        fixed = {name: _fixed(value) for name, value in options.items()}
        return replace(self, given=MappingProxyType({**self.given, **fixed})) if fixed else self

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={value!r}" for name, value in self.given.items())
        return f"{self.name}({listed})" if listed else self.name

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other) or not isinstance(other, Configurable):
            return NotImplemented
        same = self.name == other.name and self.build == other.build
        return same and dict(self.given) == dict(other.given)

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.given)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "given": dict(self.given)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        given = state["given"]
        self.__dict__.update(state | {"given": MappingProxyType(given) if given else NOTHING})

    @property
    def __name__(self) -> str:
        return self.name

    @property
    def __signature__(self) -> inspect.Signature:
        """Of a call: the options, with the values that they now have."""
        parameters = [
            p.replace(default=self.given.get(p.name, p.default))
            for p in inspect.signature(self.build).parameters.values()
            if p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD)
        ]
        return inspect.Signature(parameters)

    def _names(self) -> dict[str, Any]:
        """What names in the function's annotations mean that its module has for types only."""
        return {}

    def _facts(self) -> dict[str, Any]:
        """What a notebook's table shows: the options, and what the table of rows says."""
        own = ("name", "build", "given")
        facts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in own}
        return {"name": self.name, "options": self.options, **facts}

    def _repr_html_(self) -> str:
        return html_of(self)

    def _remarks(self) -> str:
        """What the table says of the row, for its text."""
        return ""

    def _text(self) -> str:
        parts = [f"{self.name}{_shown(self.__signature__)}"]
        parts += filter(None, (inspect.getdoc(self.build), self._remarks()))
        return "\n\n".join(parts)


Configurable.__doc__ = _Doc(Configurable.__doc__)  # type: ignore[assignment]


def check_given_once(row: Configurable[...], options: Mapping[str, Any]) -> None:
    """Raise a TypeError for an option that the row has been given already."""
    if not row.given:
        return
    for name, value in options.items():
        if name in row.given:
            raise TypeError(
                f"{name}={value!r}: {row!r} has been given {name!r} already; give it once"
            )


@cache
def keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only arguments of a function and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@cache
def takes_any(function: Callable[..., Any]) -> bool:
    """Whether a function takes any keyword."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def _check_types(
    function: Callable[..., Any], options: Mapping[str, Any], names: dict[str, Any]
) -> None:
    """Hold options against the function's annotations, where those can be read."""
    if not options:
        return
    from fastgen.common.typed import check_argument  # which needs torch

    try:
        hints = typing.get_type_hints(function, localns=names)
    except (NameError, TypeError, AttributeError):  # a user's, of names that are not there
        return
    for name, value in options.items():
        if name in hints:
            check_argument(name, value, hints[name])


def _fixed(value: Any) -> Any:
    """The value; of a list or an array a tuple, which nobody can write to."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(map(_fixed, value)) if isinstance(value, (list, tuple)) else value


def _shown(signature: inspect.Signature) -> str:
    """A signature with annotations as they are written, whether or not they are texts."""

    def shown(annotation: Any) -> Any:
        if isinstance(annotation, str) or annotation is inspect.Parameter.empty:
            return annotation
        return inspect.formatannotation(annotation).replace("collections.abc.", "")

    parts = []
    for p in signature.parameters.values():
        if p.kind is p.VAR_KEYWORD:
            parts.append(f"**{p.name}")
            continue
        kind = shown(p.annotation)
        head = p.name if kind is p.empty else f"{p.name}: {kind}"
        parts.append(head if p.default is p.empty else f"{head} = {p.default!r}")
    return f"(*, {', '.join(parts)})" if parts else "()"
