"""What the options of solvers may be; each refusal names the option, its value and the remedy."""

from collections.abc import Collection

from fastgen.common.errors import nearest


def check_choice(name: str, value: str, choices: Collection[str]) -> str:
    """The value, or a ValueError that names the nearest choice."""
    if value not in choices:
        raise ValueError(f"{name}={value!r}: {nearest(str(value), choices)}")
    return value


def check_nonnegative(name: str, value: float) -> None:
    """Raise a ValueError for an option that must be a finite number >= 0."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}={value!r}: expected a finite number >= 0")


def check_fraction(name: str, value: float) -> None:
    """Raise a ValueError for an option that must lie in (0, 1]."""
    if not 0 < value <= 1:
        raise ValueError(f"{name}={value!r}: expected 0 < {name} <= 1")


def check_whole(name: str, value: int, least: int, most: int | None = None) -> int:
    """The value, or a ValueError if it is not a whole number from ``least`` to ``most``."""
    if not isinstance(value, int) or value < least or (most is not None and value > most):
        allowed = f">= {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={value!r}: expected a whole number {allowed}")
    return value
