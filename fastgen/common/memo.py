"""Results that are kept because the same are asked for again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Request(Generic[Result]):
    key: Hashable
    make: Callable[[], Result] = field(compare=False)


class Memo(Generic[Result]):
    """The last ``limit`` results by key; nobody may write to them. Safe between threads."""

    def __init__(self, limit: int) -> None:
        def made(request: _Request[Result]) -> Result:
            return request.make()

        self._made = lru_cache(limit)(made)
        self.clear = self._made.cache_clear

    def __call__(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """The result for a key, made where it is not there."""
        return self._made(_Request(key, make))
