"""How to train, as numbers."""

from __future__ import annotations

import dataclasses

from fastgen.common.checks import (
    check_choice,
    check_integer,
    check_nonnegative,
    check_positive,
    check_range,
)
from fastgen.common.display import displayed


@displayed
@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train.

    steps: number of gradient steps; batch: samples in each. learning_rate: rises linearly over
    ``warm_up`` steps and, with decay="cosine", falls to 0 at the end ("constant" does not).
    weight_decay, betas: of AdamW. clip: largest norm of the gradient, or None. average: decay of
    the moving average of the weights (0: the weights themselves), smaller at first. bfloat16:
    autocast of the network and the loss. label_dropout: share of labels replaced by "none given",
    so that one network serves classifier-free guidance. balanced: classes come equally often,
    whatever their sizes. flip: half of the samples, drawn anew each time, are mirrored along their
    last axis. seed: of data order, times and noise.
    """

    steps: int = 1000
    batch: int = 128
    learning_rate: float = 1e-3
    warm_up: int = 100
    decay: str = "cosine"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None
    average: float = 0.998
    bfloat16: bool = False
    label_dropout: float = 0.1
    balanced: bool = False
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        positive = {"steps": self.steps, "batch": self.batch, "learning_rate": self.learning_rate}
        for name, value in positive.items():
            check_positive(name, value)
        object.__setattr__(self, "steps", check_integer("steps", self.steps))
        object.__setattr__(self, "batch", check_integer("batch", self.batch))
        for name, share in {"average": self.average, "label_dropout": self.label_dropout}.items():
            if not 0 <= share < 1:
                raise ValueError(f"{name}={share!r}: expected 0 <= {name} < 1")
        check_choice("decay", self.decay, ("cosine", "constant"))
        if self.clip is not None:
            check_positive("clip", self.clip, "None does not clip", infinite=True)
        object.__setattr__(self, "seed", check_range("seed", self.seed, 31))
        check_nonnegative("warm_up", self.warm_up)
        check_nonnegative("weight_decay", self.weight_decay)
