"""Buffers of runs that are over, kept for the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any, Generic, TypeVar

from fastgen.common.kept import passing

Key = TypeVar("Key", bound=Hashable)
Work = TypeVar("Work")


class Idle(Generic[Key, Work]):
    """Buffers of runs that are over, for the next run with the same key. Safe between threads.

    Copies of it are empty: buffers belong to one holder, and calls hold their addresses.
    """

    def __init__(self, limit: int) -> None:
        self._kept: deque[tuple[Key, Work]] = deque(maxlen=limit)

    def __reduce__(self) -> Any:
        return Idle, (self._kept.maxlen,)

    def take(self, key: Key) -> Work | None:
        """Buffers of that key, which are then the caller's alone."""
        if passing():
            return None
        for _ in range(len(self._kept)):
            try:
                other, work = self._kept.popleft()
            except IndexError:  # another thread took it
                break
            if other == key:
                return work
            self._kept.append((other, work))
        return None

    def keep(self, key: Key, work: Work) -> None:
        """Give buffers back; the oldest go where there are too many."""
        if passing():
            return
        self._kept.append((key, work))

    def drain(self) -> Iterator[Work]:
        """All of them, one by one; they are then the caller's."""
        while self._kept:
            yield self._kept.popleft()[1]

    def clear(self) -> None:
        """Let all of them go."""
        self._kept.clear()
