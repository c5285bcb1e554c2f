"""Which process this is of how many, and which shard it draws next.

Any process can draw any shard, and twice the same: so nothing has to be locked. What is done lies
on the disk; the queue only keeps processes from doing the same work at the same time.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from fastgen.common.display import displayed

# How a launcher tells a process its place: rank, number of processes, place on its machine.
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "SLURM": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
}


class Store(Protocol):
    """What is asked of a c10d store (`torch.distributed.Store`)."""

    def add(self, key: str, amount: int) -> int:
        """Add to a number that all processes share, and read it."""


@displayed
@dataclass(frozen=True)
class Place:
    """One process of several that draw one set.

    rank: from 0 to world - 1. local: its number on its machine, which chooses a GPU. store: what
    the processes count on together; None where they have only the folder in common.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    store: Store | None = None

    def __post_init__(self) -> None:
        if self.world < 1 or not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} of {self.world}: expected 0 <= rank < world")

    @staticmethod
    def found(environment: Mapping[str, str] = os.environ) -> Place:
        """The place that torchrun, or srun, gave this process; alone without them.

        Raises:
            ValueError: for variables that are not numbers, naming them.
        """
        for launcher, names in LAUNCHERS.items():
            # SLURM sets its variables in a batch script too: in steps of several tasks they count.
            if names[0] not in environment or names[1] not in environment:
                continue
            numbers = [_number(name, environment.get(name, "0")) for name in names]
            if launcher == "SLURM" and numbers[1] == 1:
                continue
            store = _store(environment) if launcher == "torchrun" else None
            rank, world, local = numbers
            return Place(rank, world, local, store)
        return Place()


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"\d+", text):
        raise ValueError(f"{name}={text!r} in the environment: expected a whole number")
    return int(text)


def _store(environment: Mapping[str, str]) -> Store | None:
    """The store of torchrun's agent; None where this is another launcher with torch's names."""
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    import torch.distributed as dist

    host, port = environment["MASTER_ADDR"], _number("MASTER_PORT", environment["MASTER_PORT"])
    c10d: Any = dist
    store = c10d.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=60))
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    found: Store = c10d.PrefixStore(f"fastgen/{attempt}", store)
    return found


def shards(
    place: Place,
    count: int,
    missing: Callable[[int, bool], bool],
    begun: Callable[[int], bool],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[int]:
    """The shards that this process draws, one after another, until all lie on the disk.

    With a store, the next shard is the next value of a counter: who is slow takes fewer. Without
    one, process r begins in the r-th part of all shards, and goes on from the far end of the
    others' parts, past shards that somebody has begun. Shards that are not there after that are
    waited for one and a half times as long as a shard has taken here, and then drawn here too: of a
    process that was lost nothing remains open, and one that is merely slow has its work done by
    whoever is idle (Dean and Ghemawat 2004, section 3.6). Drawn twice, a shard is the same.

    Args:
        place: of this process.
        count: number of shards.
        missing: whether a shard is not on the disk, or damaged there; its second argument asks for
            a look at every byte, which happens once to each shard.
        begun: whether some process has said in the folder that it draws a shard.
        sleep: between looks at the disk.
    """
    spent: list[float] = []
    for turn in range(1, 1 << 30):
        alone = place.store is not None or place.world == 1 or turn > 1
        for k, closely in _turn(place, count, turn):
            if missing(k, closely) and (alone or not begun(k)):
                begin = time.monotonic()
                yield k
                spent.append(time.monotonic() - begin)
        left = [k for k in range(count) if missing(k, False)]
        if not left:
            return
        patience = 1.5 * sum(spent) / len(spent) if spent else 0.0
        end = time.monotonic() + patience
        while time.monotonic() < end:
            sleep(min(0.2, max(patience / 10, 0.01)))
            left = [k for k in left if missing(k, False)]
            if not left:
                return


def _turn(place: Place, count: int, turn: int) -> Iterator[tuple[int, bool]]:
    """Every shard once, over all processes with a store; over this one without.

    Beside each whether it is this process's part to look at it closely.
    """
    if place.store is not None:
        with suppress(RuntimeError):  # who held the store is gone: the folder is enough
            while (k := place.store.add(f"turn/{turn}", 1) - 1) < count:
                yield k, turn == 1
            return
    bounds = [count * r // place.world for r in range(place.world + 1)]
    parts = [range(bounds[r], bounds[r + 1]) for r in range(place.world)]
    yield from ((k, turn == 1) for k in parts[place.rank])
    for other in range(1, place.world):
        yield from ((k, False) for k in reversed(parts[(place.rank + other) % place.world]))
