"""What was observed of a sample: a part of it, a linear map of it, or any function of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_dense, check_floating, check_function
from fastgen.common.derivatives import Pullback, directional
from fastgen.common.display import displayed
from fastgen.observations.noise import Noise, noise_of
from fastgen.observations.operator import Map, Operator, check_adjoint, check_linear, check_map


@displayed
@dataclass(frozen=True)
class Local:
    """An observation near one data prediction x: y - A(x) and the linear map there.

    Attributes:
        residual: y - A(x), [B, ...].
        variance: of the noise, broadcastable to the residual.
        forward: v to A v, [B, sample...] to [B, observed...].
        transpose: w to A^T w.
        inverse: w to A^+ w, or None where nobody gave one.
        weights: of a soft mask, how much of each number is known; None elsewhere.
    """

    residual: Tensor
    variance: Tensor
    forward: Map
    transpose: Map
    inverse: Map | None = None
    weights: Tensor | None = None


class Observation(ABC):
    """What was observed: a `Mask`, a `Linear` map or a `Nonlinear` function of the sample.

    Attributes:
        noise: of the observation.
        linear: whether it is a linear map of the sample.
    """

    noise: Noise
    linear: bool = True

    @property
    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What was observed, by name: tensors [B, ...] or [1, ...]."""

    @abstractmethod
    def near(self, data: Tensor) -> Local:
        """The observation at a data prediction [B, ...]."""

    @abstractmethod
    def check_shape(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        """Raise a ValueError where it is none of samples of the shape [B, ...]."""

    def finish(self, x: Tensor) -> Tensor:
        """A sample [B, ...] with what is known of it exactly."""
        return x

    def of(self, tensors: Mapping[str, Tensor], like: Tensor) -> Observation:
        """The same kind of observation of other tensors, in the dtype and place of a state."""
        own = self.tensors
        if not isinstance(tensors, Mapping) or tensors.keys() != own.keys():
            raise ValueError(f"observed: expected a dictionary of {list(own)}, got {tensors!r}")
        device, dtype, count = like.device, like.dtype, len(like)
        other = object.__new__(type(self))  # once for each evaluation: without copy's protocol
        values = other.__dict__
        values.update(self.__dict__)
        for name, value in tensors.items():
            if not isinstance(value, Tensor) or value.shape[1:] != own[name].shape[1:]:
                found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(
                    f"observed[{name!r}]: expected [B, ...] like {list(own[name].shape)}, got "
                    f"{found}"
                )
            if value.shape[0] not in (1, count):
                raise ValueError(
                    f"observed[{name!r}]: {value.shape[0]} rows for a batch of {count}; pass "
                    "one row for all, or one for each sample as observed={...} in net_kwargs"
                )
            same = value.dtype == dtype and value.device == device
            values[name] = value if same else value.to(device=device, dtype=dtype)
        return other

    def rows(self, batch: int) -> dict[str, dict[str, Tensor]]:
        """The network's argument ``observed`` with a row for each of B samples.

        For `Sampler.serve`, where each request may bring its own observation.
        """
        found = {name: x.expand(batch, *x.shape[1:]) for name, x in self.tensors.items()}
        return {"observed": found}


def _observed(name: str, value: Any) -> Tensor:
    """A tensor of finite numbers with a batch axis, or an error."""
    x = check_dense(name, value)
    if not x.is_floating_point():
        x = x.to(torch.get_default_dtype())
    if x.ndim < 2:
        raise ValueError(
            f"{name}: expected [B, ...] or [1, ...] with a batch axis, got {list(x.shape)}"
        )
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name}: expected finite numbers; mask out what is missing")
    return x


@displayed
@dataclass(frozen=True, eq=False, init=False)
class Mask(Observation):
    """Some numbers of the sample are known: inpainting, prefixes of trajectories and of sound.

    Args:
        known: [B, ...] or [1, ...], samples of which the masked numbers are used.
        mask: True or 1 where a number is known, broadcastable to ``known``. Numbers between 0
            and 1 are soft: the share of the way from the prediction to what is known.
        noise: standard deviation of the known numbers, or a `Noise`.

    Raises:
        ValueError: for shapes that do not fit, weights outside of [0, 1] and NaN where it is known.
    """

    known: Tensor
    mask: Tensor
    noise: Noise

    def __init__(self, known: Tensor, mask: Tensor, noise: Noise | float | Tensor = 0.0) -> None:
        known, mask = check_floating("known", known, axes=2), check_dense("mask", mask)
        weights = mask.to(known.dtype)
        if not bool(((weights >= 0) & (weights <= 1)).all()):
            raise ValueError("mask: expected True, False or weights in [0, 1]")
        try:
            batch = (known + weights).shape
        except RuntimeError:
            batch = torch.Size()
        if batch[1:] != known.shape[1:] or weights.ndim > known.ndim:
            raise ValueError(
                f"mask: expected a shape that broadcasts to known {list(known.shape)}, got "
                f"{list(mask.shape)}"
            )
        weights = weights.reshape((1,) * (known.ndim - weights.ndim) + tuple(weights.shape))
        weights = weights.expand(weights.shape[0], *known.shape[1:])
        # What is not known may be anything, NaN too.
        known = torch.where(weights > 0, known, 0)
        values = {"known": _observed("known", known), "mask": weights}
        for name, value in (values | {"noise": noise_of(noise)}).items():
            object.__setattr__(self, name, value)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """See `Observation.tensors`."""
        return {"known": self.known, "mask": self.mask}

    @property
    def soft(self) -> bool:
        """Whether a weight is neither 0 nor 1."""
        return bool(((self.mask > 0) & (self.mask < 1)).any())

    def near(self, data: Tensor) -> Local:
        """See `Observation.near`."""
        where = (self.mask > 0).to(data.dtype)

        def chosen(v: Tensor) -> Tensor:
            return where * v

        residual = where * (self.known - data)
        variance = self.noise.variance(data)
        return Local(residual, variance, chosen, chosen, chosen, self.mask)

    def check_shape(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        """See `Observation.check_shape`."""
        if tuple(shape[1:]) != tuple(self.known.shape[1:]):
            raise ValueError(
                f"observation: known is {list(self.known.shape)}, the samples are {list(shape)}"
            )

    def finish(self, x: Tensor) -> Tensor:
        """See `Observation.finish`."""
        if not self.noise.none:
            return x
        return torch.where((self.mask == 1).to(x.device), self.known.to(x), x)


@displayed
@dataclass(frozen=True, eq=False, init=False)
class Linear(Observation):
    """y = A x + noise for a linear map A of callables.

    ``Linear(fastgen.observations.average_pool(2), y=y, noise=0.05)``, or with functions of your
    own, ``Linear(A, A_transpose, y=y)``.

    Args:
        A: an `Operator` of `fastgen.observations`, or a function of batches [B, sample...].
        A_transpose: its transpose, of batches [B, observed...]; None takes it from autograd.
        y: what was observed, [B, ...] or [1, ...].
        noise: standard deviation, or a `Noise`.
        pseudo_inverse: A^+, for methods that ask for it; None solves for it.

    Raises:
        ValueError: for a transpose that is none, <A x, w> = <x, A^T w> being wrong for random x
            and w, and for NaN.
    """

    operator: Operator
    y: Tensor
    noise: Noise

    def __init__(
        self,
        A: Operator | Map,
        A_transpose: Map | None = None,
        *,
        y: Tensor,
        noise: Noise | float | Tensor = 0.0,
        pseudo_inverse: Map | None = None,
    ) -> None:
        given = A if isinstance(A, Operator) else Operator(A, name=getattr(A, "__name__", "A"))
        transpose = given.transpose if A_transpose is None else A_transpose
        inverse = given.pseudo_inverse if pseudo_inverse is None else pseudo_inverse
        operator = Operator(given.forward, transpose, inverse, given.name)
        values = {"operator": operator, "y": _observed("y", y), "noise": noise_of(noise)}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if transpose is not None:
            check_adjoint(operator, self.y)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """See `Observation.tensors`."""
        return {"y": self.y}

    def near(self, data: Tensor) -> Local:
        """See `Observation.near`."""
        operator, transpose = self.operator, self.operator.transpose
        if transpose is None:
            # Without a graph to the network: its own derivative is taken apart.
            pull = Pullback(operator.forward, data, "A")
            predicted, transpose = pull.value, pull.one
            predicted = predicted if pull.tracked else predicted.detach()
        else:
            predicted = operator.forward(data)
        variance = self.noise.variance(predicted)
        inverse = operator.pseudo_inverse
        return Local(self.y - predicted, variance, operator.forward, transpose, inverse)

    def check_shape(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        """See `Observation.check_shape`."""
        check_map("A", self.operator.forward, self.y, shape, dtype, device)
        check_linear(self.operator, shape, dtype, device)


@displayed
@dataclass(frozen=True, eq=False, init=False)
class Nonlinear(Observation):
    """y = f(x) + noise for any differentiable function, such as phase retrieval or JPEG's.

    Methods use its derivative at the prediction: it counts as linear there.

    Args:
        f: a function of batches [B, sample...] that autograd records.
        y: what was observed, [B, ...] or [1, ...].
        noise: standard deviation, or a `Noise`.
    """

    f: Map
    y: Tensor
    noise: Noise
    linear = False

    def __init__(self, f: Map, y: Tensor, noise: Noise | float | Tensor = 0.0) -> None:
        check_function("f", f)
        values = {"f": f, "y": _observed("y", y), "noise": noise_of(noise)}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """See `Observation.tensors`."""
        return {"y": self.y}

    def near(self, data: Tensor) -> Local:
        """See `Observation.near`."""
        pull = Pullback(self.f, data, "f")
        predicted = pull.value if pull.tracked else pull.value.detach()

        def forward(v: Tensor) -> Tensor:
            return directional(self.f, (data,), (v,), "f")[1]

        return Local(self.y - predicted, self.noise.variance(predicted), forward, pull.one)

    def check_shape(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        """See `Observation.check_shape`."""
        check_map("f", self.f, self.y, shape, dtype, device)


def check_observation(value: Any) -> Observation:
    """The value, or a TypeError for something else than an observation."""
    if not isinstance(value, Observation):
        raise TypeError(
            f"observation: expected a Mask, Linear or Nonlinear of fastgen.observations, got "
            f"{type(value).__name__}"
        )
    return value
