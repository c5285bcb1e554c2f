"""torchsde's Brownian motions on the stateless tree."""

from __future__ import annotations

import hashlib
import struct
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_choice, check_integer
from fastgen.integrations.torchsde.ends import Ends
from fastgen.integrations.torchsde.settings import LEVY_AREA_APPROXIMATIONS
from fastgen.noise import brownian_path, randn

AREAS = ("davie", "foster")


def fresh_entropy() -> int:
    """A seed drawn from torch's global generator, below 2^62."""
    return int(torch.randint(2**62, (), device="cpu"))


class BaseBrownian(ABC):
    """A Brownian motion: called as bm(ta, tb) for W(tb) - W(ta)."""

    @abstractmethod
    def __call__(
        self,
        ta: float | Tensor,
        tb: float | Tensor | None = None,
        return_U: bool = False,
        return_A: bool = False,
    ) -> Any:
        """The increment, and with it what return_U and return_A ask for."""

    @abstractmethod
    def __repr__(self) -> str: ...

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Dtype of increments."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where increments are made."""

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """Size of increments."""

    @property
    @abstractmethod
    def levy_area_approximation(self) -> str:
        """Which areas there are besides increments."""

    def size(self) -> torch.Size:
        """Size of increments."""
        return self.shape


class BrownianInterval(BaseBrownian):
    """Brownian motion of a size on [t0, t1]; called as bm(ta, tb) for W(tb) - W(ta).

    A function of entropy and times alone: no cache, no tree of queries, no recursion. The
    arguments dt, tol, pool_size, cache_size and halfway_tree, which tune torchsde's cache, have
    nothing to tune.

    Args:
        t0, t1: the interval.
        size: (batch, channels), or any other.
        dtype, device: of what it returns.
        entropy: the seed; None draws one from torch's generator.
        levy_area_approximation: "none"; "space-time" for ``return_U=True`` and "srk"; "davie" or
            "foster" for ``return_A=True`` too.
        W, H: the increment over the whole interval, and its space-time Levy area; the size, dtype
            and device are then W's.

    Raises:
        ValueError: for H without W or without areas, and other approximations.
    """

    def __init__(
        self,
        t0: float | Tensor = 0.0,
        t1: float | Tensor = 1.0,
        size: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        entropy: int | None = None,
        dt: float | Tensor | None = None,
        tol: float = 0.0,
        pool_size: int = 8,
        cache_size: int | None = 45,
        halfway_tree: bool = False,
        levy_area_approximation: str = "none",
        W: Tensor | None = None,
        H: Tensor | None = None,
    ) -> None:
        if H is not None and (W is None or levy_area_approximation == "none"):
            raise ValueError(
                "H: is given with W, to a motion with levy_area_approximation='space-time' or more"
            )
        if W is not None:
            if H is not None and H.shape != W.shape:
                raise ValueError(f"H: expected W's shape, {tuple(W.shape)}, got {tuple(H.shape)}")
            if size is not None and torch.Size(size) != W.shape:
                raise ValueError(f"size={tuple(size)}: W has shape {tuple(W.shape)}")
            size, dtype, device = W.shape, dtype or W.dtype, device or W.device
        known = LEVY_AREA_APPROXIMATIONS.all()
        check_choice("levy_area_approximation", levy_area_approximation, known)
        self._approximation = levy_area_approximation
        if size is None:
            raise ValueError("size: expected (batch, channels), got None")
        self._size = torch.Size(size)
        self._dtype = dtype or torch.get_default_dtype()
        if entropy is None:
            entropy = fresh_entropy()
        # torchsde's sizes may be empty; the motion needs a batch axis.
        shape = self._size if self._size else torch.Size((1,))
        entropy = check_integer("entropy", entropy)
        self.entropy = entropy
        self.path = brownian_path.BrownianPath(
            shape,
            float(t0),
            float(t1),
            seed=entropy % 2**64,
            levy_area=levy_area_approximation != "none",
            dtype=self._dtype,
            device=device or "cpu",
        )
        self.ends = None if W is None else Ends.of(self.path, self._size, W, H)

    def __call__(
        self,
        ta: float | Tensor,
        tb: float | Tensor | None = None,
        return_U: bool = False,
        return_A: bool = False,
    ) -> Any:
        """W(tb) - W(ta), or W(ta) - W(t0); times outside of the interval are its ends.

        With return_U also U, the integral of W_u - W(ta) over [ta, tb]; with return_A also A,
        an approximation [batch, channels, channels] (zeros for sizes of one axis or none, as in
        torchsde) of the Levy area
        A_ij = (1/2) integral of W_i dW_j - W_j dW_i, given increment and U: Davie's normal
        variables of variance h^2 / 12 around its mean, or Foster's, of variance
        h^2 / 20 + h (H_i^2 + H_j^2) / 5 (Foster 2020, thesis, chapter 7). A is a function of
        entropy, ta and tb; those of two intervals and of their union break Chen's relation.
        """
        if (return_U and not self.path.levy_area) or (
            return_A and self._approximation not in AREAS
        ):
            raise ValueError(
                f"return_U={return_U}, return_A={return_A}: with levy_area_approximation="
                f"{self._approximation!r}; U needs 'space-time', A 'davie' or 'foster'"
            )
        start, end = (self.path.t0, float(ta)) if tb is None else (float(ta), float(tb))
        if start > end:
            raise RuntimeError(
                f"Query times ta={start:.3f} and tb={end:.3f} must respect ta <= tb."
            )
        start, end = self._clamped(start), self._clamped(end)
        if not (return_U or return_A):
            w = self.path(start, end).reshape(self._size)
            return w if self.ends is None else (w + self.ends.added(start, end)[0]).to(w)
        w, h = self._with_area(start, end)
        u = (end - start) * (w / 2 + h)
        if not return_A:
            return w, u
        a = self._area(start, end, w, h)
        return (w, u, a) if return_U else (w, a)

    def _with_area(self, start: float, end: float) -> tuple[Tensor, Tensor]:
        """W and H."""
        if start == end:
            w = torch.zeros(self._size, dtype=self._dtype, device=self.path.device)
            return w, w.clone()
        w, h = (x.reshape(self._size) for x in self.path.with_area(start, end))
        if self.ends is not None:
            more, u = self.ends.added(start, end)
            w, h = (w + more).to(w), (h + u / (end - start) - more / 2).to(w)
        return w, h

    def _area(self, start: float, end: float, w: Tensor, h: Tensor) -> Tensor:
        if w.ndim < 2:  # one channel: no area between two
            return torch.zeros_like(w)
        length, m = end - start, w.shape[-1]
        key = struct.pack("<Qdd", self.entropy % 2**64, start, end)
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
        rows = max(1, w[..., 0].numel())
        z = randn((rows, m, m), seed=seed, dtype=w.dtype, device=w.device).reshape(*w.shape, m)
        z = z.triu(1)
        variance = torch.full_like(z, length**2 / 12)
        if self._approximation == "foster":
            squares = h.square()
            variance = length * (length / 4 + squares[..., None] + squares[..., None, :]) / 5
        outer = h[..., None] * w[..., None, :]
        return outer - outer.mT + variance.sqrt() * (z - z.mT)

    def _clamped(self, t: float) -> float:
        inside = min(max(t, self.path.t0), self.path.t1)
        if inside != t:
            warnings.warn(
                f"time {t} is outside of [{self.path.t0}, {self.path.t1}]; using {inside}",
                stacklevel=3,
            )
        return inside

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(t0={self.path.t0}, t1={self.path.t1}, "
            f"size={tuple(self._size)}, dtype={self._dtype}, entropy={self.entropy})"
        )

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of increments."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Where increments are made."""
        return self.path.device

    @property
    def shape(self) -> torch.Size:
        """Size of increments."""
        return self._size

    @property
    def levy_area_approximation(self) -> str:
        """Which areas there are besides increments."""
        return self._approximation


class BrownianPath(BrownianInterval):
    """Brownian motion from w0 at t0, on [t0, t0 + 1]; bm(t) is its value.

    window_size is not used, as in torchsde.
    """

    def __init__(self, t0: float | Tensor, w0: Tensor, window_size: int = 8) -> None:
        super().__init__(t0, float(t0) + 1, w0.shape, w0.dtype, w0.device)
        self._w0 = w0

    def __call__(
        self,
        t: float | Tensor,
        tb: float | Tensor | None = None,
        return_U: bool = False,
        return_A: bool = False,
    ) -> Any:
        """The value at t, or the increment from t to tb."""
        w: Any = super().__call__(t, tb, return_U, return_A)
        return w + self._w0 if tb is None else w


class BrownianTree(BrownianPath):
    """Brownian motion from w0 at t0, on [t0, t1], of a given entropy.

    tol, pool_size, cache_depth and safety have nothing to tune: the tree has 24 levels. w1 is the
    value at t1, if that is to be given.
    """

    def __init__(
        self,
        t0: float | Tensor,
        w0: Tensor,
        t1: float | Tensor | None = None,
        w1: Tensor | None = None,
        entropy: int | None = None,
        tol: float = 1e-6,
        pool_size: int = 24,
        cache_depth: int = 9,
        safety: float | None = None,
    ) -> None:
        end = float(t0) + 1 if t1 is None else t1
        given = None if w1 is None else w1 - w0
        BrownianInterval.__init__(self, t0, end, w0.shape, w0.dtype, w0.device, entropy, W=given)
        self._w0 = w0


class ReverseBrownian(BaseBrownian):
    """A motion run backwards: its increment over [ta, tb] is the other's over [-tb, -ta].

    The sign is not changed, as in torchsde, where drift and diffusion change theirs.
    """

    def __init__(self, base_brownian: Any) -> None:
        self.base_brownian = base_brownian

    def __call__(
        self,
        ta: float | Tensor,
        tb: float | Tensor | None = None,
        return_U: bool = False,
        return_A: bool = False,
    ) -> Any:
        """The increment over [ta, tb]; tb must be given."""
        if tb is None:
            raise ValueError("tb=None: a motion run backwards has increments between two times")
        return self.base_brownian(-tb, -ta, return_U=return_U, return_A=return_A)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_brownian={self.base_brownian})"

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of increments."""
        found: torch.dtype = self.base_brownian.dtype
        return found

    @property
    def device(self) -> torch.device:
        """Where increments are made."""
        found: torch.device = self.base_brownian.device
        return found

    @property
    def shape(self) -> torch.Size:
        """Size of increments."""
        found: torch.Size = self.base_brownian.shape
        return found

    @property
    def levy_area_approximation(self) -> str:
        """Which areas there are besides increments."""
        found: str = self.base_brownian.levy_area_approximation
        return found


def brownian_interval_like(
    y: Tensor,
    t0: float | Tensor = 0.0,
    t1: float | Tensor = 1.0,
    size: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **kwargs: Any,
) -> BrownianInterval:
    """A `BrownianInterval` of a tensor's shape, dtype and device, where others are not given."""
    return BrownianInterval(
        t0, t1, y.shape if size is None else size, dtype or y.dtype, device or y.device, **kwargs
    )
