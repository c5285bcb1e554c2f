"""What the user gives, checked: drift, diffusion, state, times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.common.checks import as_numbers, check_dense, check_real_device
from fastgen.common.derivatives import (
    Pullback,
    along,
    check_recorded,
    check_whole_derivative,
    elsewhere,
)
from fastgen.common.memory import OwnMemory
from fastgen.common.padding import Padding
from fastgen.common.transforms import batched, outside_transforms, transforming
from fastgen.common.unwritten import unwritten

DERIVATIVE_FREE = (
    "write g in operations that autograd records, or use method='milstein_derivative_free'"
)


class Equation:
    """dy = f(t, y) dt + g(t, y) dW for states [B, ...].

    matrix: g is [B, ..., m]; otherwise like y. noise_shape: that of the motion: like y where each
    element has its own, [B, 1] for scalar noise, [B, m] for a matrix.
    """

    def __init__(
        self, f: Callable[..., Any], g: Callable[..., Any], y0: Tensor, noise_type: str
    ) -> None:
        for name, function in (("f", f), ("g", g)):
            if not callable(function):
                raise TypeError(f"{name}: expected a function of (t, y), got {function!r}")
        if not isinstance(y0, Tensor) or y0.ndim == 0:
            raise TypeError(f"y0: expected a tensor with a batch axis, got {y0!r}")
        check_dense("y0", y0)
        check_real_device("y0", y0)
        if y0.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"y0: expected float32 or float64, got {y0.dtype}")
        if not batched(y0) and not bool(torch.isfinite(y0).all()):
            raise ValueError(f"y0: sample {_first_bad(y0)} is not finite")
        self.f, self.g, self.noise_type = f, g, noise_type
        self._looked_at = False  # g's derivative, where it is taken
        self.shape, self.dtype, self.device = y0.shape, y0.dtype, y0.device
        self.matrix, self.scalar = False, noise_type == "scalar"
        self.padding: Padding | None = None
        self._own: Callable[[Tensor], Tensor] = OwnMemory()
        self.noise_shape = torch.Size([*self.shape[:1], 1]) if self.scalar else self.shape

    def probe(self, t: Tensor, y: Tensor, drift: bool) -> bool:
        """Find the noise's shape from g; whether values require gradients."""
        value = self._tensor("g", unwritten("g", self.g, t, y))
        if self.noise_type in ("additive", "general") and (
            self.noise_type == "general" or value.shape != self.shape
        ):
            if value.shape[:-1] != self.shape:
                raise ValueError(
                    f"g: expected {self._expected()} for noise_type={self.noise_type!r}, "
                    f"got {tuple(value.shape)}"
                )
            self.matrix, self.noise_shape = True, self.shape[:1] + value.shape[-1:]
        needed = value.requires_grad
        if drift:
            needed |= self.drift(t, y).requires_grad
        return needed

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """F(t, y), like y."""
        value = self._tensor("f", unwritten("f", self.f, t, y))
        if value.shape != self.shape:
            raise ValueError(
                f"f: expected a value of shape {tuple(self.shape)} like y, got {tuple(value.shape)}"
            )
        return self._own(self._cleared(value))

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """G(t, y): like y, or [B, ..., m] for a matrix."""
        value = self._tensor("g", unwritten("g", self.g, t, y))
        if self.scalar and value.shape == (*self.shape, 1):
            value = value[..., 0]
        shape = self.shape + self.noise_shape[1:] if self.matrix else self.shape
        if value.shape != shape:
            raise ValueError(
                f"g: expected {self._expected()} for noise_type={self.noise_type!r}, "
                f"got {tuple(value.shape)}"
            )
        return self._own(self._cleared(value))

    def _cleared(self, value: Tensor) -> Tensor:
        if self.padding is None:
            return value
        cleared: Tensor = self.padding.clear(value)
        return cleared

    def derivative(self, t: Tensor, y: Tensor, g: Tensor) -> Tensor:
        """(dg/dy) g, by automatic differentiation.

        Of diagonal noise the Jacobian J is diagonal and thus its own transpose. For scalar noise
        J g is the derivative in v of J^T v along g: forward mode, as two ways back. (torch's own
        forward mode takes 2 ms a call.)
        """
        g = g.to(y.dtype)

        def diffusion(x: Tensor) -> Tensor:
            return self.diffusion(t, x)

        if not self._looked_at:
            self._looked_at = True
            check_whole_derivative("g", diffusion, y, "y", DERIVATIVE_FREE)
        if not self.scalar:
            pull = Pullback(diffusion, y, "g", "y", DERIVATIVE_FREE)
            return pull.one(g.to(pull.value.dtype), last=True)
        if transforming():
            return along(diffusion, y, g, "g", "y", DERIVATIVE_FREE).to(y.dtype)
        outer = torch.is_grad_enabled()
        with torch.enable_grad():
            x = y if outer and y.requires_grad else y.detach().requires_grad_()
            value = diffusion(x)
            check_recorded("g", value, lambda: diffusion(elsewhere(x)), "y", DERIVATIVE_FREE)
            if not value.requires_grad:
                return torch.zeros_like(y)
            # Zeros that lie after x in the graph: of a leaf, autograd would look for ways to it
            # through all steps before this one.
            never = torch.zeros_like(value, dtype=torch.bool)
            v = torch.where(never, x.to(value.dtype), torch.zeros_like(value))
            (pulled,) = torch.autograd.grad(value, x, v, create_graph=True, allow_unused=True)
            if pulled is None:
                return torch.zeros_like(y)
            (found,) = torch.autograd.grad(pulled, v, g, create_graph=outer)
        return found.to(y.dtype)

    def product(self, g: Tensor, z: Tensor) -> Tensor:
        """G z, like y: of a matrix, one number per sample, or one per element."""
        if self.matrix:
            flat = g.reshape(g.shape[0], -1, g.shape[-1])
            return torch.bmm(flat, z[:, :, None].to(g.dtype)).reshape(self.shape)
        return g * self.spread(z)

    def spread(self, z: Tensor) -> Tensor:
        """Noise that broadcasts with y."""
        return z.reshape(-1, *[1] * (len(self.shape) - 1)) if self.scalar else z

    def transposed(self, x: Tensor, z: Tensor) -> Tensor:
        """The gradient of g in x . (G z)."""
        if self.matrix:
            return x[..., None] * z.reshape(z.shape[0], *[1] * (x.ndim - 1), z.shape[1])
        return x * self.spread(z)

    def _expected(self) -> str:
        like = ", ".join(map(str, self.shape))
        return {
            "diagonal": f"[{like}] like y",
            "scalar": f"[{like}] or [{like}, 1]",
            "additive": f"[{like}] or [{like}, m]",
            "general": f"[{like}, m]",
        }[self.noise_type]

    @staticmethod
    def _tensor(name: str, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name}: expected a tensor of floating-point numbers, got {kind}")
        return check_dense(name, value)


@outside_transforms
def times_of(t: Sequence[float] | Tensor) -> Tensor:
    """Output times, float64 [T] on the CPU, strictly up or down."""
    times = as_numbers("t", t).detach().cpu()
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"t: expected two or more times, got shape {tuple(times.shape)}")
    steps = times.diff()
    if not bool(torch.isfinite(times).all()):
        raise ValueError(f"t: expected finite times, got {times.tolist()}")
    if not (bool((steps > 0).all()) or bool((steps < 0).all())):
        raise ValueError(f"t: expected strictly increasing or decreasing times, got {t}")
    return times


def parameters_of(*functions: Any) -> list[Tensor]:
    """Parameters that need gradients of modules, and of modules whose methods are given."""
    found: dict[int, Tensor] = {}
    for function in functions:
        owner = getattr(function, "__self__", function)
        if isinstance(owner, nn.Module):
            found |= {id(p): p for p in owner.parameters() if p.requires_grad}
    return list(found.values())


def check_finite(ys: Tensor, times: Tensor) -> None:
    """Raise a RuntimeError that names the first sample and time that are not finite."""
    finite = torch.isfinite(ys.detach()).flatten(2).all(2) if ys.ndim > 2 else torch.isfinite(ys)
    if not bool(finite.all()):
        place, sample = (~finite).nonzero()[0].tolist()
        raise RuntimeError(
            f"sample {sample} is not finite at t={times[place]:.9g} (it was at "
            f"t={times[place - 1]:.9g}; {int((~finite[-1]).sum())} of {finite.shape[1]} samples "
            "are not finite at the end): use shorter steps, or look at f and g there"
        )


def _first_bad(y: Tensor) -> int:
    return int((~torch.isfinite(y)).reshape(len(y), -1).any(1).nonzero()[0])
