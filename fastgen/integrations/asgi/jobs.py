"""What is asked for over HTTP: read strictly, within limits."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from fastgen.common.checks import check_choice, check_range, check_whole
from fastgen.common.display import displayed
from fastgen.common.errors import nearest

FORMATS = ("npy", "png", "json")
KEYS = (
    *("seed", "ids", "first", "count", "plan", "guidance", "label", "labels", "format"),
    *("deadline", "stream", "previews"),
)


class FullError(RuntimeError):
    """There is no room for a request: come again after ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the queue is full; come again in {math.ceil(seconds)} seconds")
        self.seconds = max(1, math.ceil(seconds))


@displayed
@dataclass(frozen=True)
class Limits:
    """What a server takes on.

    queue: samples that wait, at most; above them requests are refused. count: samples of one
    request. body: bytes of one. deadline: seconds that a request may take, unless it asks for
    fewer.
    """

    queue: int = 256
    count: int = 64
    body: int = 65536
    deadline: float = 120.0

    def __post_init__(self) -> None:
        for name in ("queue", "count", "body"):
            check_whole(name, getattr(self, name), 1)
        if not self.deadline > 0:
            raise ValueError(f"deadline={self.deadline!r}: expected seconds > 0")


class Offer(NamedTuple):
    """What a server has: plans by name, classes of labels, and whether it is guided."""

    plans: tuple[str, ...]
    classes: int | None
    guided: bool


class Asked(NamedTuple):
    """One request, read: which samples, how, and as what they are to come back."""

    seed: int
    ids: tuple[int, ...]
    plan: str
    guidance: float | None
    labels: tuple[int, ...] | None
    format: str
    deadline: float
    stream: bool
    previews: int


def read(body: bytes, offer: Offer, limits: Limits) -> Asked:
    """A request's JSON.

    Raises:
        ValueError, TypeError: naming the key, its value and what was expected.
    """
    try:
        told = json.loads(body) if body else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON ({error})") from None
    if not isinstance(told, dict):
        raise ValueError(f"the body: expected a JSON object, got {type(told).__name__}")
    for key in told:
        if key not in KEYS:
            raise ValueError(f"unknown key {key!r}: {nearest(key, KEYS)}")
    ids = _ids(told, limits.count)
    deadline = _number(told.get("deadline", limits.deadline), "deadline")
    if not 0 < deadline <= limits.deadline:
        raise ValueError(f"deadline={deadline}: expected seconds in (0, {limits.deadline:g}]")
    guidance = told.get("guidance")
    if guidance is not None:
        if not offer.guided:
            raise ValueError("guidance: this server has none")
        guidance = _number(guidance, "guidance")
    stream, previews = told.get("stream", False), told.get("previews", 0)
    if not isinstance(stream, bool):
        raise TypeError(f"stream={stream!r}: expected true or false")
    if previews and not stream:
        raise ValueError("previews: they come as a stream; give stream: true")
    return Asked(
        check_range("seed", told.get("seed", 0), 63),
        ids,
        check_choice("plan", told.get("plan", offer.plans[0]), offer.plans),
        guidance,
        _labels(told, len(ids), offer.classes),
        check_choice("format", told.get("format", "npy"), FORMATS),
        deadline,
        stream,
        check_whole("previews", previews, 0),
    )


def _ids(told: Mapping[str, Any], most: int) -> tuple[int, ...]:
    if "ids" in told:
        if "first" in told or "count" in told:
            raise ValueError("ids: give either ids, or first and count")
        ids = told["ids"]
        if not isinstance(ids, list) or not ids:
            raise TypeError(f"ids={str(ids)[:40]}: expected a list of whole numbers, not empty")
    else:
        first = check_range("first", told.get("first", 0), 47)
        count = check_whole("count", told.get("count", 1), 1, most)
        ids = range(first, first + count)
    if len(ids) > most:
        raise ValueError(f"ids: {len(ids)} samples; a request may ask for {most}")
    return tuple([check_range("ids", i, 48) for i in ids])


def _labels(told: Mapping[str, Any], count: int, classes: int | None) -> tuple[int, ...] | None:
    given = [key for key in ("label", "labels") if key in told]
    if classes is None:
        if given:
            raise ValueError(f"{given[0]}: this server's network takes no labels")
        return None
    if len(given) != 1:
        raise ValueError("label, labels: give one of them, a label for all or one for each sample")
    labels = told[given[0]] if given == ["labels"] else [told["label"]] * count
    if not isinstance(labels, list) or len(labels) != count:
        raise ValueError(f"labels: expected a list of {count}, one for each sample")
    return tuple([check_whole(given[0], label, 0, classes - 1) for label in labels])


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{name}={value!r}: expected a finite number")
    return float(value)


class Event(NamedTuple):
    """What a job says on its way: "preview", "sample", "done", or "failed" with the reason.

    number: which of its samples. done, of: evaluations that it has had, and has in all.
    """

    kind: str
    number: int = 0
    value: Tensor | None = None
    done: int = 0
    of: int = 0
    error: Exception | None = None


@dataclass(eq=False)
class Job:
    """A request under way; everything but `cancel` is the engine's thread's."""

    asked: Asked
    tell: Callable[[Event], None]
    begun: float = field(default_factory=time.monotonic)
    waiting: list[int] = field(default_factory=list)
    tickets: dict[int, int] = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.waiting = list(range(len(self.asked.ids)))[::-1]

    @property
    def over(self) -> bool:
        """Whether no sample of it waits or is drawn."""
        return not self.waiting and not self.tickets

    @property
    def late(self) -> bool:
        """Whether its deadline has passed."""
        return time.monotonic() > self.begun + self.asked.deadline
