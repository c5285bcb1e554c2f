"""Results that are kept because the same are asked for again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Memo(Generic[Result]):
    """The last ``limit`` results by key; nobody may write to them. Safe between threads."""

    def __init__(self, limit: int) -> None:
        self._limit, self._lock = limit, Lock()
        self._known: OrderedDict[Hashable, Result] = OrderedDict()

    def __call__(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """The result for a key, made where it is not there."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        found = make()
        with self._lock:
            self._known[key] = found
            while len(self._known) > self._limit:
                self._known.popitem(last=False)
        return found

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._known.clear()
