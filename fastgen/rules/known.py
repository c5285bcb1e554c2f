"""The published rules, each with the options that its paper has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool2d, avg_pool3d, interpolate

from fastgen.common.checks import check_nonnegative, check_number
from fastgen.common.quantiles import quantile
from fastgen.rules.rule import Branches, Combined, Pair, Rule, Space, Time, Vector, rescaled


@dataclass(frozen=True)
class CFG(Pair):
    """Classifier-free guidance: u + s (c - u) (Ho and Salimans 2022, arXiv 2207.12598).

    With a perturbed network for u it is PAG, SLG or SEG, with a weaker one autoguidance.
    """

    linear: ClassVar[bool] = True
    of_arrays: ClassVar[bool] = True

    def pair(self, space: Space, c: Vector, u: Vector, scale: Any, t: Time) -> Vector:
        """See `Pair.pair`."""
        return scale * c + (1 - scale) * u


@dataclass(frozen=True)
class Rescale(Pair):
    """CFG brought back to the standard deviation of c (Lin et al. 2023, arXiv 2305.08891).

    ``Guidance(rescale=phi)`` does so after any rule.

    Args:
        phi: how far, in [0, 1].
    """

    of_arrays: ClassVar[bool] = True
    phi: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= check_number("phi", self.phi) <= 1:
            raise ValueError(f"phi={self.phi!r}: expected a number in [0, 1]")

    def pair(self, space: Space, c: Vector, u: Vector, scale: Any, t: Time) -> Vector:
        """See `Pair.pair`."""
        return rescaled(space, c, scale * c + (1 - scale) * u, self.phi)


@dataclass(frozen=True)
class APG(Rule):
    """Adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416, Alg. 1).

    c + (s - 1) (d_orthogonal + eta d_parallel), d = c - u + momentum d_before, shortened to the
    norm r, parallel and orthogonal to c.

    The paper combines data predictions; what is combined here is what the network returns, as in
    diffusers, whose ``use_original_formulation`` with the guidance scale s - 1 this is.

    Args:
        eta: the weight of the part along c, which saturates images; 1 keeps it.
        norm: r, the largest norm of d in a sample; 0 is without bound.
        momentum: of the running sum of differences; negative values, such as -0.5, push away from
            what was done before. Each evaluation of a plan counts once.
    """

    of_arrays: ClassVar[bool] = True
    eta: float = 0.0
    norm: float = 0.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_number("eta", self.eta)
        check_nonnegative("norm", self.norm)
        if not -1 < check_number("momentum", self.momentum) < 1:
            raise ValueError(f"momentum={self.momentum!r}: expected a number in (-1, 1)")

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        """Whether there is momentum."""
        return self.momentum != 0

    def combine(self, given: Branches) -> Combined:
        """See `Rule.combine`."""
        space, total, kept = given.space, given.outputs[0], None
        for c, u, scale in given.pairs():
            d = c - u
            if given.memory is not None:
                d = kept = d + self.momentum * given.memory
            if self.norm:
                length = space.norm(d)
                short = space.ratio(self.norm + 0 * length, length)
                d = d * space.xp.where(length > self.norm, short, 1.0)
            total = total + (scale - 1) * (d - (1 - self.eta) * space.projection(d, c))
        return Combined(total, kept)


@dataclass(frozen=True)
class TCFG(Pair):
    """Tangential damping: u' + s (c - u'), u' the part of u along what c and u have in common.

    That is the first right singular vector v of [c; u] (Kwon et al. 2025, arXiv 2503.18137). In
    the plane of c and u it is v = cos(a) c + sin(a) u, tan 2a = 2 <c, u> / (|c|^2 - |u|^2).
    """

    of_arrays: ClassVar[bool] = True

    def pair(self, space: Space, c: Vector, u: Vector, scale: Any, t: Time) -> Vector:
        """See `Pair.pair`."""
        xp = space.xp
        angle = xp.arctan2(2 * space.inner(c, u), space.square(c) - space.square(u)) / 2
        v = xp.cos(angle) * c + xp.sin(angle) * u
        return scale * c + (1 - scale) * space.projection(u, v)


@dataclass(frozen=True)
class ZeroStar(Pair):
    """CFG-Zero*: k u + s (c - k u), k = <c, u> / |u|^2 (Fan et al. 2025, arXiv 2503.18886).

    Args:
        zero_init: the output is zero at times above 1 - zero_init (zero-init of flows, whose first
            velocities are the worst; the paper takes the first 4 % of the steps).
    """

    of_arrays: ClassVar[bool] = True
    zero_init: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= check_number("zero_init", self.zero_init) < 1:
            raise ValueError(f"zero_init={self.zero_init!r}: expected a number in [0, 1)")

    def pair(self, space: Space, c: Vector, u: Vector, scale: Any, t: Time) -> Vector:
        """See `Pair.pair`."""
        found = scale * c + (1 - scale) * space.projection(c, u)
        if not self.zero_init:
            return found
        if isinstance(t, Tensor):
            return space.xp.where(space.taken(t)[:, None] > 1 - self.zero_init, 0.0, found)
        return 0 * found if t > 1 - self.zero_init else found


@dataclass(frozen=True)
class MagnitudeAware(Pair):
    """MAMBO-G: a scale that falls with the relative size of the difference.

    u + (1 + (s - 1) exp(-alpha |c - u| / |u|)) (c - u) (arXiv 2508.03442). At high noise the
    difference is large and the scale near 1.

    Args:
        alpha: how fast it falls.
    """

    of_arrays: ClassVar[bool] = True
    alpha: float = 8.0

    def __post_init__(self) -> None:
        check_nonnegative("alpha", self.alpha)

    def pair(self, space: Space, c: Vector, u: Vector, scale: Any, t: Time) -> Vector:
        """See `Pair.pair`."""
        length = space.norm(u)
        xp = space.xp
        relative = xp.where(length == 0, math.inf, space.ratio(space.norm(c - u), length))
        damped = xp.exp(-self.alpha * relative) if self.alpha else xp.ones_like(relative)
        return c + (scale - 1) * damped * (c - u)


@dataclass(frozen=True)
class PerpNeg(Rule):
    """Negative prompts of which the part along the wanted direction does not count.

    u + s (d - sum_j w_j (d_j - <d_j, d> / |d|^2 d)), d = c - u, d_j = n_j - u (Armandpour et al.
    2023, arXiv 2304.04968). The first branch of the guidance is u with the scale s; each further
    one is a negative n_j with its weight w_j >= 0. A weight of 0 leaves it out.
    """

    of_arrays: ClassVar[bool] = True

    def check(self, names: Sequence[str], scales: Sequence[float | None]) -> None:
        """See `Rule.check`."""
        if len(names) < 2:
            raise ValueError(
                "rule='perp_neg': expected the unconditional branch and one negative at least, "
                "such as Guidance({'text': 7.5, 'negative': 1.0}, {'text': {...}, 'negative': "
                "{...}})"
            )
        for name, weight in list(zip(names, scales, strict=True))[1:]:
            if weight is not None and weight < 0:
                raise ValueError(f"scale[{name!r}]={weight}: the weight of a negative is >= 0")

    def combine(self, given: Branches) -> Combined:
        """See `Rule.combine`."""
        c, u, *negatives = given.outputs
        scale, *weights = given.scales
        d = c - u
        away = 0 * d
        for n, weight in zip(negatives, weights, strict=True):
            away = away + weight * ((n - u) - given.space.projection(n - u, d))
        return Combined(scale * c + (1 - scale) * u - scale * away)


@dataclass(frozen=True)
class Semantic(Rule):
    """SEGA: concepts are added where they matter most (Brack et al. 2023, arXiv 2301.12247).

    u + s (c - u) + sum_j s_j m_j (e_j - u), m_j = 1 where |e_j - u| is at or above its quantile
    among the positions of its channel, else 0. The first branch of the guidance is u with the scale
    s; each further one is a concept e_j with its weight s_j, negative to lead away from it.

    Args:
        quantile: in [0, 1): the share of the positions that a concept leaves alone, the paper's
            lambda.
        warm_up: concepts count at times up to 1 - warm_up, so that the composition stays.
        momentum: of the sum g of the concepts' terms: g + momentum v is added, and v becomes
            beta v + (1 - beta) (g + momentum v), in the warm-up too.
        beta: of the momentum.
    """

    of_arrays: ClassVar[bool] = True
    quantile: float = 0.9
    warm_up: float = 0.0
    momentum: float = 0.0
    beta: float = 0.4

    def __post_init__(self) -> None:
        for name in ("quantile", "warm_up", "beta"):
            if not 0 <= check_number(name, getattr(self, name)) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a number in [0, 1)")
        check_nonnegative("momentum", self.momentum)

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        """Whether there is momentum."""
        return self.momentum != 0

    def check(self, names: Sequence[str], scales: Sequence[float | None]) -> None:
        """See `Rule.check`."""
        if len(names) < 2:
            raise ValueError(
                "rule='sega': expected the unconditional branch and one concept at least, such as "
                "Guidance({'text': 7.5, 'smile': 5.0}, {'text': {...}, 'smile': {...}})"
            )

    def derive(self, outputs: Sequence[Tensor], against: Sequence[int]) -> list[Tensor]:
        """m_j (e_j - u) of each concept."""
        kind = torch.promote_types(outputs[0].dtype, torch.float32)
        return [self._where_large(e.to(kind) - outputs[1].to(kind)) for e in outputs[2:]]

    def _where_large(self, d: Tensor) -> Tensor:
        if not d.numel():
            return d
        sizes = d.abs().flatten(min(2, d.ndim - 1))
        rows = sizes.flatten(0, -2)
        least = quantile(rows, self.quantile).reshape(*sizes.shape[:-1], 1)
        return torch.where(sizes >= least, d.reshape(sizes.shape), 0).reshape(d.shape)

    def combine(self, given: Branches) -> Combined:
        """See `Rule.combine`."""
        space, xp = given.space, given.space.xp
        c, u = given.outputs[:2]
        scale, *weights = given.scales
        edit = 0 * c
        for concept, weight in zip(given.derived, weights, strict=True):
            edit = edit + weight * concept
        kept = None
        if given.memory is not None:
            edit = edit + self.momentum * given.memory
            kept = self.beta * given.memory + (1 - self.beta) * edit
        if self.warm_up:
            t = space.taken(given.t)[:, None] if isinstance(given.t, Tensor) else given.t
            late = t <= 1 - self.warm_up
            edit = xp.where(late, edit, 0.0) if isinstance(given.t, Tensor) else late * edit
        return Combined(scale * c + (1 - scale) * u + edit, kept)


@dataclass(frozen=True)
class FrequencyDecoupled(Rule):
    """Frequency-decoupled guidance: one scale for coarse structure, another for detail.

    c + (s - 1) (d - L d) + (low - 1) L d, d = c - u, L a low-pass filter (Sadat et al. 2025, arXiv
    2506.19713). L averages cells of 2^levels positions along each spatial axis and interpolates
    linearly between them. For outputs [B, C, ...] of one to three spatial axes.

    Args:
        low: the scale of low frequencies; the guidance's own scale is that of high ones.
        levels: how often the resolution is halved.
    """

    of_arrays: ClassVar[bool] = True
    low: float = 1.0
    levels: int = 1

    def __post_init__(self) -> None:
        check_number("low", self.low)
        if not isinstance(self.levels, int) or isinstance(self.levels, bool) or self.levels < 1:
            raise ValueError(f"levels={self.levels!r}: expected a whole number >= 1")

    def derive(self, outputs: Sequence[Tensor], against: Sequence[int]) -> list[Tensor]:
        """L d of each branch."""
        kind = torch.promote_types(outputs[0].dtype, torch.float32)
        others = zip(against, outputs[1:], strict=True)
        return [self._low_pass(outputs[i].to(kind) - u.to(kind)) for i, u in others]

    def combine(self, given: Branches) -> Combined:
        """See `Rule.combine`."""
        total = given.outputs[0]
        for (c, u, scale), coarse in zip(given.pairs(), given.derived, strict=True):
            total = total + (scale - 1) * (c - u - coarse) + (self.low - 1) * coarse
        return Combined(total)

    def _low_pass(self, d: Tensor) -> Tensor:
        size, axes = 2**self.levels, d.ndim - 2
        if not 1 <= axes <= 3 or min(d.shape[2:]) < size:
            raise ValueError(
                f"rule={self!r}: expected outputs [B, C, ...] of one to three spatial axes of "
                f"{size} positions at least, got {list(d.shape)}"
            )
        pool = (avg_pool1d, avg_pool2d, avg_pool3d)[axes - 1]
        mode = ("linear", "bilinear", "trilinear")[axes - 1]
        coarse = pool(d, size, ceil_mode=True)
        return interpolate(coarse, d.shape[2:], mode=mode, align_corners=False)
