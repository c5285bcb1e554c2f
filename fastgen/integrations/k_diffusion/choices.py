"""Which noise a sampler adds, and which draws k-diffusion makes without adding them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastgen.integrations.k_diffusion.noise import (
    BrownianTreeNoiseSampler,
    default_noise_sampler,
)
from fastgen.integrations.levels import (
    NoiseSampler,
    Recipe,
    Seeds,
    Span,
    check_noise,
    checked_levels,
)


def noise_options(
    x: Tensor,
    sampler: NoiseSampler | None,
    noise: str,
    seed: Seeds | None,
    extra_args: dict[str, Any] | None,
    brownian: Any = None,
) -> dict[str, Any]:
    """The keywords of `fastgen.integrations.levels.run` for a sampler's choice of noise.

    brownian: the noise levels, where the default is a Brownian path.
    """
    check_noise(noise, sampler, seed)
    chosen: dict[str, Any] = {"noise": noise, "seed": seed, "foreign": sampler is not None}
    if sampler is not None or noise == "contract":
        return chosen | {"sampler": sampler}
    own_seed = (extra_args or {}).get("seed") if noise == "comfyui" else None
    if brownian is None:
        return chosen | {"sampler": default_noise_sampler(x, own_seed)}
    levels = [s for s in checked_levels(brownian) if s > 0]
    if len(levels) > 1:
        low, high = min(levels), max(levels)
        return chosen | {"sampler": BrownianTreeNoiseSampler(x, low, high, own_seed)}
    return chosen  # the one step goes to data


def after_each_step(found: Recipe, levels: tuple[float, ...]) -> dict[int, Span]:
    """Ancestral samplers draw also where eta or s_noise is 0, but for the step to data."""
    return {
        stage: (levels[i], levels[i + 1]) for i, stage in enumerate(found.last) if levels[i + 1] > 0
    }


def in_and_after_each_step(found: Recipe, levels: tuple[float, ...]) -> dict[int, Span]:
    """The same with a draw to the middle evaluation first."""
    middle = {
        k + 1: (levels[i], found.evaluations[k + 1])
        for i, k in enumerate(found.first)
        if levels[i + 1] > 0
    }
    return middle | after_each_step(found, levels)
