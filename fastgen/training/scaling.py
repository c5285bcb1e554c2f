"""Data of any scale: shifted and scaled to that of the noise for training, and back at sampling."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_choice, check_floating
from fastgen.common.display import displayed
from fastgen.common.files import replacing
from fastgen.common.hub import SCALING, BesideModel
from fastgen.model.model import Model
from fastgen.sampling.sample import AnySolver, sample
from fastgen.training.feed import ON_CORRUPT, Reader

LOOKED_AT = 2000  # samples that are looked at for a warning
FAR = 10.0  # times the noise's deviation, from which data are told to be of another scale


@displayed
class Scaling(BesideModel):
    """x = (data - mean) / deviation for each channel; `decode` undoes it.

    A path from noise N(0, 1) to data of deviation 1e4 is almost nothing but data, one to data of
    1e-3 almost nothing but noise: a network learns neither. EDM (Karras et al. 2022, arXiv
    2206.00364) asks for data of one known deviation for the same reason.

    A channel is the axis after the first: of points [N, D] each coordinate, of images [N, C, H, W]
    each colour. ``Trainer(..., scaling=Scaling.of(data))`` trains on x and stores the numbers with
    its checkpoints; what `fastgen sample` and `Trained.sample` draw of those is decoded. Densities:
    log p(data) = log p(x) - (elements of a channel) * sum of log deviation.

    Args:
        mean, deviation: [C] each, or one number for all channels; deviations > 0.

    Raises:
        ValueError: naming what is not finite or not positive.
    """

    _file, _what = SCALING, "the scaling of the data"
    _absent = "the model there is not of scaled data"

    def __init__(
        self, mean: Sequence[float] | Tensor | float, deviation: Sequence[float] | Tensor | float
    ) -> None:
        self.mean, self.deviation = _numbers("mean", mean), _numbers("deviation", deviation)
        if len(self.mean) != len(self.deviation) or not len(self.mean):
            raise ValueError(
                f"mean, deviation: expected one number of each for every channel, got "
                f"{len(self.mean)} and {len(self.deviation)}"
            )
        if not bool(self.mean.isfinite().all()):
            raise ValueError(f"mean={mean!r}: expected finite numbers")
        if not bool((self.deviation.isfinite() & (self.deviation > 0)).all()):
            raise ValueError(f"deviation={deviation!r}: expected positive numbers")
        self.shape: tuple[int, ...] | None = None

    def _facts(self) -> dict[str, Any]:
        return {"mean": self.mean, "deviation": self.deviation}

    @classmethod
    def of(
        cls,
        data: Any,
        *,
        most: int | None = None,
        block: int = 4096,
        on_corrupt: str = "raise",
    ) -> Scaling:
        """With each channel's mean and deviation, from one pass over the data.

        Means and squares of blocks are merged in float64 (Chan, Golub and LeVeque 1979), which does
        not cancel where a mean is far larger than a deviation. A constant channel has deviation 1.

        Args:
            data: [N, ...]: a tensor, or a set of `fastgen.datasets` that lies on a disk.
            most: samples that are looked at, spread evenly over the data; None: all.
            block: samples that are in memory at once.
            on_corrupt: "raise", or "skip": of a set, the next sample takes the place of one that
                cannot be read, as in training.

        Raises:
            ValueError: for data that are empty, and for samples that are not finite or cannot be
                read, naming the first.
        """
        count, mean, squares = (
            0,
            torch.zeros(1, device="cpu").double(),
            torch.zeros(1, device="cpu").double(),
        )
        shape: tuple[int, ...] | None = None
        for x in _blocks(data, most, block, on_corrupt):
            shape, channels = tuple(x.shape[1:]), x.shape[1] if x.ndim > 1 else 1
            values = x.double().cpu().reshape(len(x), channels, -1)
            size, m = values.numel() // channels, values.mean((0, 2))
            s = (values - m[:, None]).square().sum((0, 2))
            if not bool(s.isfinite().all()):
                raise ValueError(
                    "data: squares of them are infinite; divide them by a number first"
                )
            total = count + size
            step = m - mean
            mean = mean + step * (size / total)
            squares = squares + s + step.square() * (count * size / total)
            count = total
        if not count:
            raise ValueError("data: expected at least one sample, got none")
        deviation = (squares / count).sqrt()
        # What a constant channel's sums leave is rounding of its mean.
        dead = deviation <= 1e-12 * mean.abs()
        found = cls(mean, torch.where(dead, 1.0, deviation))
        found.shape = shape
        return found

    def encode(self, data: Tensor) -> Tensor:
        """(data - mean) / deviation, [N, ...], in float64 and rounded to the data's dtype."""
        mean, deviation = self._like(data)
        return ((data.to(mean.dtype) - mean) / deviation).to(data.dtype)

    def decode(self, x: Tensor) -> Tensor:
        """mean + deviation * x, [N, ...]."""
        mean, deviation = self._like(x)
        return (x.to(mean.dtype) * deviation + mean).to(x.dtype)

    def sample(
        self,
        model: Model,
        count_or_state: int | Tensor,
        solver: AnySolver = "auto",
        steps: int | None = None,
        **options: Any,
    ) -> Tensor:
        """``decode(fastgen.sample(model, ...))``, data of their own scale.

        Args:
            model: trained on what `encode` gives.
            count_or_state: how many samples, or the initial state [B, ...].
            solver, steps, options: as for `fastgen.sample`: seed, guidance, net_kwargs ...

        Raises:
            ValueError: if the shape of a sample is unknown, or for trajectory=True.
        """
        if options.get("trajectory"):
            raise ValueError("trajectory: sample with fastgen.sample, then decode its states")
        start: Sequence[int] | Tensor
        if isinstance(count_or_state, Tensor):
            start = count_or_state
        elif self.shape is None:
            raise ValueError(
                "count_or_state: the shape is unknown; set scaling.shape to a sample's"
            )
        else:
            start = (count_or_state, *self.shape)
        return self.decode(sample(model, start, solver, steps, **options))

    def to_config(self) -> dict[str, list[float]]:
        """For JSON; nothing is rounded."""
        return {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], shape: Sequence[int] | None = None) -> Scaling:
        """What `to_config` gave.

        Raises:
            ValueError: for something else.
        """
        try:
            found = cls(config["mean"], config["deviation"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"scaling={config!r}: expected mean and deviation") from error
        found.shape = None if shape is None else tuple(map(int, shape))
        return found

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write scaling.json beside a model of scaled data; ``fastgen sample`` then decodes.

        Args:
            save_directory: the folder of `Model.save_pretrained`.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        facts = {**self.to_config(), "shape": None if self.shape is None else list(self.shape)}
        with replacing(folder / SCALING) as file:
            file.write((json.dumps(facts, indent=2) + "\n").encode())

    @classmethod
    def _read(cls, path: Path) -> Scaling:
        text = path.read_bytes()
        try:
            facts = json.loads(text)
            return cls.from_config(facts, facts["shape"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: damaged ({error}); save it again") from error

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation that broadcast against [N, ...]."""
        check_floating("data", x, "[N, ...]")
        channels = x.shape[1] if x.ndim > 1 else 1
        if len(self.mean) not in (1, channels):
            raise ValueError(
                f"data: expected {len(self.mean)} channels on axis 1, got {list(x.shape)}"
            )
        shape = (1, -1, *([1] * (x.ndim - 2))) if x.ndim > 1 else (-1,)
        # Apple's GPUs have no float64.
        kind: dict[str, Any] = {
            "device": x.device,
            "dtype": torch.float32 if x.is_mps else torch.float64,
        }
        return self.mean.reshape(shape).to(**kind), self.deviation.reshape(shape).to(**kind)


def _numbers(name: str, values: Any) -> Tensor:
    """Of each channel, float64 [C]."""
    try:
        found = torch.as_tensor(values, device="cpu")
        real = not found.is_complex() and found.dtype is not torch.bool
    except (TypeError, ValueError, RuntimeError):
        real = False
    if not real:
        raise TypeError(f"{name}={values!r}: expected a number, or one for each channel")
    return torch.as_tensor(values, dtype=torch.float64, device="cpu").reshape(-1)


def far(scaling: Scaling) -> str | None:
    """What to say where a channel is far from the scale of the noise, N(0, 1)."""
    mean, deviation = scaling.mean, scaling.deviation
    if not bool(((mean.abs() > FAR) | (deviation > FAR) | (deviation < 1 / FAR)).any()):
        return None
    return (
        f"means from {float(mean.min()):.3g} to {float(mean.max()):.3g}, standard deviations from "
        f"{float(deviation.min()):.3g} to {float(deviation.max()):.3g}"
    )


def warn_if_far(data: Any, loss: Any, on_corrupt: str) -> None:
    """Warn where an objective learns data that are far from the noise's scale as they are.

    Of a loss of the user's own, which may scale them itself, nothing is known.
    """
    if not hasattr(getattr(loss, "__self__", None), "model") or not len(data):
        return
    note = far(Scaling.of(data, most=LOOKED_AT, on_corrupt=on_corrupt))
    if note is not None:
        warnings.warn(
            f"data: {note}, far from the noise's, N(0, 1), between which a path is learned badly; "
            "give Trainer(..., scaling=Scaling.of(data)), which is undone on samples",
            stacklevel=3,
        )


def _blocks(data: Any, most: int | None, block: int, on_corrupt: str) -> Iterable[Tensor]:
    check_choice("on_corrupt", on_corrupt, ON_CORRUPT)
    if isinstance(data, Tensor):
        check_floating("data", data, "[N, ...]")
    count = len(data)
    numbers = torch.arange(count, device="cpu")
    if most is not None and most < count:
        numbers = numbers[:most] * (count - 1) // max(1, most - 1)
    cuts = tuple(range(block, len(numbers), block))
    for part in numbers.tensor_split(cuts) if count else ():
        if not isinstance(data, Tensor):
            yield Reader(data, on_corrupt).__getitems__(part.tolist()).data
            continue
        x = data[part.to(data.device)]
        bad = ~x.isfinite().reshape(len(x), -1).all(1)
        if bool(bad.any()):
            number = int(part[int(bad.nonzero()[0])])
            raise ValueError(f"data: NaN or infinity in sample {number}; leave such samples out")
        yield x
