"""How far a run is: a line now and then, with the rate and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


class Progress:
    """Says on stderr how many samples are there, of all processes; the rate is since the start.

    Args:
        count: of samples in all.
        done: how many are there, of whoever drew them.
        every: seconds between lines.
    """

    def __init__(self, count: int, done: Callable[[], int], every: float = 10.0) -> None:
        self._count, self._done, self._every = count, done, every
        self._begin = self._said = time.monotonic()
        self._before = done()
        if self._before:
            print(f"{self._before} of {count} samples are there", file=sys.stderr, flush=True)

    def shown(self, last: bool = False) -> None:
        """Say it, if it is time to or this is the last."""
        now = time.monotonic()
        if not last and now - self._said < self._every:
            return
        self._said = now
        print(self.line(self._done(), now - self._begin), file=sys.stderr, flush=True)

    def line(self, done: int, seconds: float) -> str:
        """What is said after so many seconds."""
        rate = (done - self._before) / max(seconds, 1e-9)
        left = self._count - done
        end = f", {clock(left / rate)} left" if rate and left else ""
        return f"{done} of {self._count} samples, {rate:.4g} a second{end}"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds as 1:02:03, or 02:03."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    ends = f"{minutes:02d}:{whole % 60:02d}"
    return f"{hours}:{ends}" if hours else ends
