"""DDRM: each singular direction of what is observed has its own way from noise to data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_number, rows_of
from fastgen.common.display import displayed
from fastgen.common.modes import unrecorded
from fastgen.common.transforms import BACKWARD, untransformed
from fastgen.kernels import Stream
from fastgen.model.model import Model
from fastgen.noise.keys import id_tensor, seed_tensor
from fastgen.noise.normals import normals
from fastgen.observations import Gaussian, Linear, Mask, Observation
from fastgen.observations.conditioned import FARTHEST
from fastgen.solvers import plan

# Singular vectors come from A as a matrix, made column by column.
LARGEST = 4096
_COLUMNS = 256


@displayed
@dataclass(frozen=True)
class DDRM:
    """Denoising diffusion restoration (Kawar et al. 2022, arXiv 2201.11793, eq. 7 and 8).

    With A = U S V^T, y' = S^+ U^T y, x' = V^T x_t / alpha, D' = V^T D and r = sigma / alpha, the
    step from s to t is in each singular direction, of value w, with the noise's deviation q / w:

        w = 0:        D' + sqrt(1 - eta^2) r_t (x' - D') / r_s + eta r_t z,
        r_t < q / w:  D' + sqrt(1 - eta^2) r_t (y' - D') / (q / w) + eta r_t z,
        otherwise:    (1 - eta_b) D' + eta_b y' + sqrt(r_t^2 - eta_b^2 q^2 / w^2) z.

    Without gradients of the network. Biased: y does not reach directions that A does not see but
    through the network's next evaluation. For masks, and for linear maps of samples of at most
    4096 numbers, whose singular vectors are found once for each call.

    Args:
        eta: how much of the noise is new; the paper's is 0.85.
        eta_b: how much of the data comes from y where the state has more noise than y.
    """

    eta: float = 0.85
    eta_b: float = 1.0

    def __post_init__(self) -> None:
        for name in ("eta", "eta_b"):
            if not 0 <= check_number(name, getattr(self, name)) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a number in [0, 1]")


@dataclass(frozen=True)
class _Directions:
    """What is seen, in coordinates [B, r]: y, and the deviation of its noise, infinite where w = 0.

    basis: V [n, r], or None where the coordinates are the sample's own numbers.
    """

    basis: Tensor | None
    seen: Tensor
    least: Tensor

    def of(self, x: Tensor) -> Tensor:
        """V^T x of rows [B, n]."""
        return x if self.basis is None else x @ self.basis

    def back(self, coordinates: Tensor) -> Tensor:
        """V c, [B, n]."""
        return coordinates if self.basis is None else coordinates @ self.basis.T

    def begun(self, x: Tensor, z: Tensor, ratio: float) -> Tensor:
        """Noise x = r z, with y where it has less noise than that, and the rest of the noise."""
        rest = (ratio**2 - self.least**2).clamp_min(0).sqrt()
        return self._with(x, ratio >= self.least, self.seen + rest * self.of(z))

    def stepped(self, method: DDRM, base: Tensor, data: Tensor, z: Tensor, ratio: float) -> Tensor:
        """The next state: ``base`` is that of w = 0."""
        y, d, z, least = self.seen, self.of(data), self.of(z), self.least
        near = torch.where(least > 0, (y - d) / least, 0) * math.sqrt(1 - method.eta**2)
        inside = d + ratio * (near + method.eta * z)
        spread = (ratio**2 - (method.eta_b * least) ** 2).clamp_min(0).sqrt()
        outside = (1 - method.eta_b) * d + method.eta_b * y + spread * z
        return self._with(base, least < math.inf, torch.where(ratio < least, inside, outside))

    def _with(self, x: Tensor, where: Tensor, value: Tensor) -> Tensor:
        """Rows [B, n] whose coordinates are the values there."""
        return x + self.back(torch.where(where, value - self.of(x), 0))


def _directions(observation: Observation, like: Tensor) -> _Directions:
    """The singular directions of an observation of samples like [B, ...]."""
    std = observation.noise.std if isinstance(observation.noise, Gaussian) else None
    if isinstance(std, Tensor) and std.numel() == 1:
        std = float(std)
    if not isinstance(std, (int, float)):
        raise ValueError(
            f"method: DDRM needs noise of one standard deviation, got {observation.noise!r}; "
            "'ddnm' and 'mmps' take others"
        )
    if isinstance(observation, Mask):
        if observation.soft:
            raise ValueError("method: DDRM takes masks of 0 and 1; 'pigdm' takes soft ones")
        mask = rows_of(observation.mask)
        return _Directions(
            None, rows_of(observation.known), torch.where(mask > 0, mask.new_tensor(std), math.inf)
        )
    if not isinstance(observation, Linear):
        raise ValueError(
            f"method: DDRM needs a linear observation; 'mmps' takes {type(observation).__name__}"
        )
    n = math.prod(like.shape[1:])
    if n > LARGEST:
        raise ValueError(
            f"method: DDRM finds singular vectors of samples of at most {LARGEST} numbers, got "
            f"{n}; 'ddnm' does with the pseudo-inverse alone"
        )
    eye = torch.eye(n, dtype=like.dtype, device=like.device).reshape(n, *like.shape[1:])
    columns = [rows_of(observation.operator(part)) for part in torch.split(eye, _COLUMNS)]
    u, s, vt = torch.linalg.svd(torch.cat(columns).T.double(), full_matrices=False)
    kept = s > s.max() * max(n, len(u)) * torch.finfo(like.dtype).eps
    u, s, vt = (a.to(like.dtype) for a in (u[:, kept], s[kept], vt[kept]))
    return _Directions(vt.T.contiguous(), rows_of(observation.y) @ u / s, std / s[None])


@untransformed(BACKWARD)
def restored(
    model: Model,
    observation: Observation,
    shape: tuple[int, ...],
    method: DDRM,
    steps: int,
    net_kwargs: Mapping[str, Any],
    *,
    seed: int | Sequence[int] | Tensor,
    sample_ids: Sequence[int] | Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """A batch by `DDRM`."""
    schedule = model.schedule
    times = plan("ddpm", schedule, steps).times.tolist()
    if schedule.ratio(times[0]) > FARTHEST:
        times[0] = float(schedule.time_at_ratio(FARTHEST))
        times = [times[0], *(t for t in times[1:] if t < times[0])]
    seeds, ids = seed_tensor(seed, shape[0], device), id_tensor(sample_ids, shape[0], device)

    def noise(draw: int, stream: int = Stream.SOLVER) -> Tensor:
        return normals(shape, seeds, ids, draw, stream, dtype).flatten(1)

    ratios = [float(schedule.ratio(t)) for t in times]
    z = noise(0, Stream.INITIAL)
    x = ratios[0] * z
    with unrecorded(model.net):
        seen = _directions(observation.of(observation.tensors, x.reshape(shape)), x.reshape(shape))
        x = seen.begun(x, z, ratios[0])
        for i, ((s, _), (before, after)) in enumerate(
            zip(pairwise(times), pairwise(ratios), strict=True)
        ):
            state = (float(schedule.alpha(s)) * x).reshape(shape)
            data = model.predict("data", state, s, net_kwargs=net_kwargs).to(dtype).flatten(1)
            z = noise(i + 1)
            kept = math.sqrt(1 - method.eta**2) * after / before
            base = data + kept * (x - data) + method.eta * after * z
            x = seen.stepped(method, base, data, z, after)
    return x.reshape(shape)
