"""Linear maps that are observed often, of images [B, C, H, W] and of series [B, C, T]."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fastgen.common.checks import (
    as_numbers,
    check_choice,
    check_dense,
    check_finite,
    check_integer,
    check_positive,
    check_sizes,
    check_whole,
)
from fastgen.noise.normals import randn
from fastgen.observations.observation import Mask
from fastgen.observations.operator import Operator

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
_POOLS: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


def matrix(values: Tensor, shape: Sequence[int]) -> Operator:
    """A matrix [m, n] of samples of a shape without batch axis, whose n numbers are in order.

    Args:
        values: the matrix.
        shape: of one sample.
    """
    check_dense("values", values)
    check_finite("values", values)
    size = check_sizes("shape", shape, "the shape of one sample")
    if values.ndim != 2 or values.shape[1] != math.prod(size):
        raise ValueError(
            f"values: expected [m, {math.prod(size)}] for samples {list(size)}, got "
            f"{list(values.shape)}"
        )
    inverse = torch.linalg.pinv(values.double()).to(values.dtype)

    def forward(x: Tensor) -> Tensor:
        return x.flatten(1) @ values.to(x).T

    def transpose(w: Tensor) -> Tensor:
        found: Tensor = w @ values.to(w)
        return found.reshape(len(w), *size)

    def pseudo_inverse(w: Tensor) -> Tensor:
        found: Tensor = w @ inverse.to(w).T
        return found.reshape(len(w), *size)

    return Operator(forward, transpose, pseudo_inverse, f"matrix {list(values.shape)}")


def random_projection(shape: Sequence[int], measurements: int, seed: int = 0) -> Operator:
    """Compressed sensing: inner products with normal vectors of variance 1 / measurements.

    Args:
        shape: of one sample.
        measurements: how many numbers are observed.
        seed: of the vectors, by the noise contract.
    """
    check_whole("measurements", measurements, 1)
    size = check_sizes("shape", shape, "the shape of one sample")
    values = randn((measurements, math.prod(size)), seed=seed, draw=1) / measurements**0.5
    found = matrix(values, size)
    return Operator(found.forward, found.transpose, found.pseudo_inverse, "random projection")


def average_pool(factor: int, dims: int = 2) -> Operator:
    """Superresolution's: means of factor^dims neighbours, of the last ``dims`` axes.

    Args:
        factor: by which each of these axes is shortened; it has to divide them.
        dims: 1 for series, 2 for images, 3 for volumes.
    """
    check_whole("factor", factor, 1)
    _check_dims(dims)
    volume = factor**dims

    def forward(x: Tensor) -> Tensor:
        if any(n % factor for n in x.shape[-dims:]):
            raise ValueError(f"factor={factor}: it does not divide {list(x.shape[-dims:])}")
        return _POOLS[dims](x, factor)

    def repeated(w: Tensor) -> Tensor:
        for axis in range(-dims, 0):
            w = w.repeat_interleave(factor, axis)
        return w

    return Operator(forward, lambda w: repeated(w) / volume, repeated, f"average pool {factor}")


def blur(kernel: Tensor) -> Operator:
    """A convolution of each channel with zeros outside: kernel [k], [k, k] or [k, k, k], k odd."""
    check_dense("kernel", kernel)
    check_finite("kernel", kernel)
    dims = kernel.ndim
    if dims not in _CONVOLUTIONS or any(n % 2 == 0 for n in kernel.shape):
        raise ValueError(
            f"kernel: expected 1 to 3 axes of odd sizes, got {list(kernel.shape)}; pad it with 0"
        )

    def applied(weights: Tensor) -> Callable[[Tensor], Tensor]:
        padding = [n // 2 for n in kernel.shape]

        def convolved(x: Tensor) -> Tensor:
            channels = x.reshape(-1, 1, *x.shape[-dims:])
            found: Tensor = _CONVOLUTIONS[dims](
                channels, weights.to(x)[None, None], padding=padding
            )
            return found.reshape(x.shape)

        return convolved

    # torch's convolutions do not turn the kernel around, their transposes do.
    turned = kernel.flip(tuple(range(dims)))
    return Operator(applied(turned), applied(kernel), None, f"blur {list(kernel.shape)}")


def gaussian_blur(std: float, dims: int = 2, size: int | None = None) -> Operator:
    """A blur by a normal density of that deviation in pixels.

    Args:
        std: of the density.
        dims: 1 for series, 2 for images, 3 for volumes.
        size: of the kernel, odd; the default covers three deviations.
    """
    check_positive("std", std)
    _check_dims(dims)
    size = 2 * math.ceil(3 * std) + 1 if size is None else check_integer("size", size)
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size={size}: expected an odd number >= 1")
    places = torch.arange(size, dtype=torch.float64, device="cpu") - size // 2
    line = torch.exp(-(places**2) / (2 * std**2))
    kernel = line = line / line.sum()
    for _ in range(dims - 1):
        kernel = kernel[..., None] * line
    return blur(kernel)


def radon(angles: Sequence[float] | Tensor) -> Operator:
    """Tomography: sums along the columns of square images [B, C, N, N] turned by angles [K].

    Args:
        angles: in radians.

    Returns:
        An operator to sinograms [B, C, K, N], bilinear between pixels, zero outside; its transpose
        is autograd's.
    """
    turns = as_numbers("angles", angles).reshape(-1)
    check_finite("angles", turns)
    cosines, sines = turns.cos(), turns.sin()
    zero = torch.zeros_like(turns)
    rows = torch.stack([cosines, -sines, zero, sines, cosines, zero], 1).reshape(-1, 2, 3)

    def forward(x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[-1] != x.shape[-2]:
            raise ValueError(f"radon: expected square images [B, C, N, N], got {list(x.shape)}")
        batch, channels, n, _ = x.shape
        count = len(rows)
        grid = functional.affine_grid(rows.to(x), [count, 1, n, n], align_corners=False)
        images = x.reshape(1, -1, n, n).expand(count, -1, n, n)
        turned = functional.grid_sample(images, grid, align_corners=False)
        return turned.sum(2).transpose(0, 1).reshape(batch, channels, count, n)

    return Operator(forward, None, None, f"radon {len(rows)} angles")


def real_time_chunk(
    previous: Tensor, delay: int, execute: int, weights: str = "exponential"
) -> Mask:
    """The mask of real-time chunking: a new chunk of actions that goes on from the last one.

    The first ``delay`` actions are executed while the new chunk is made, so they are as before; the
    last ``execute`` have no counterpart; between them the weight falls,

        w_i = c (e^c - 1) / (e - 1),   c = (H - execute - i) / (H - execute - delay + 1)

    (Black et al. 2025, arXiv 2506.07339, eq. 5). For ``method="rtc"``.

    Args:
        previous: [B, H, ...], the last chunk from now on; its last ``execute`` are ignored.
        delay: actions that are fixed.
        execute: actions at the end about which nothing is known.
        weights: "exponential", "linear" (w_i = c), or "hard" (none between).
    """
    check_dense("previous", previous)
    check_choice("weights", weights, ("exponential", "linear", "hard"))
    check_whole("delay", delay, 0)
    check_whole("execute", execute, 0)
    if previous.ndim < 2 or delay + execute > previous.shape[1]:
        raise ValueError(
            f"previous: expected [B, H, ...] with H >= delay + execute = {delay + execute}, got "
            f"{list(previous.shape)}"
        )
    horizon = previous.shape[1]
    end = horizon - execute
    places = torch.arange(horizon, dtype=torch.float64, device="cpu")
    falling = ((end - places) / (end - delay + 1)).clamp(0, 1)
    if weights == "exponential":
        falling = falling * torch.expm1(falling) / math.expm1(1)
    elif weights == "hard":
        falling = torch.zeros_like(falling)
    found = torch.where(places < delay, 1.0, torch.where(places < end, falling, 0.0))
    shape = (1, horizon, *[1] * (previous.ndim - 2))
    return Mask(previous, found.reshape(shape).to(previous))


def _check_dims(dims: int) -> None:
    if dims not in _CONVOLUTIONS:
        raise ValueError(f"dims={dims!r}: expected 1, 2 or 3")
