"""Which noise a sampler adds, and which draws k-diffusion makes without adding them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastgen.common.checks import check_number
from fastgen.integrations.common.levels import Unused, checked_levels, moving_steps
from fastgen.integrations.common.noise import NoiseSampler, NoiseSource, Seeds, check_noise
from fastgen.integrations.common.recipes import Recipe, Span
from fastgen.integrations.k_diffusion.noise import (
    BrownianTreeNoiseSampler,
    default_noise_sampler,
)

NOISES = ("torch", "comfyui", "contract")


def noise_source(
    x: Tensor,
    sampler: NoiseSampler | None,
    noise: str,
    seed: Seeds | None,
    extra_args: dict[str, Any] | None,
    brownian: Any = None,
) -> NoiseSource:
    """Where a sampler's noise comes from.

    Args:
        x: the state.
        sampler: the caller's, or None.
        noise: one of ``NOISES``.
        seed: of "contract".
        extra_args: the model's; "comfyui" reads a seed there.
        brownian: the noise levels, where the default is a Brownian path.

    Raises:
        ValueError: for choices that contradict each other.
    """
    check_noise(noise, seed, NOISES)
    if noise == "contract":
        if sampler is not None:
            raise ValueError(
                "noise_sampler: noise='contract' makes the noise inside the kernels; give one or "
                "the other"
            )
        return NoiseSource(noise, seed)
    if sampler is not None:
        return NoiseSource(noise, sampler=sampler, foreign=True)
    own_seed = (extra_args or {}).get("seed") if noise == "comfyui" else None
    if brownian is None:
        return NoiseSource(noise, sampler=default_noise_sampler(x, own_seed))
    levels = [s for s in checked_levels(brownian) if s > 0]
    if len(set(levels)) < 2:  # the one step that moves goes to data
        return NoiseSource(noise)
    path = BrownianTreeNoiseSampler(x, min(levels), max(levels), own_seed)
    return NoiseSource(noise, sampler=path)


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


def still(
    given: dict[str, Any], sigmas: Any, renews: bool
) -> tuple[Callable[[float], bool], tuple[float, ...]]:
    """Which levels a step back to moves the state from, and the levels of the steps that are taken.

    Churn moves it, and is divided among all steps: s_churn becomes what it is for those taken.

    Args:
        given: the sampler's arguments; changed in place.
        sigmas: all levels.
        renews: whether every step moves the state.
    """
    levels = checked_levels(sigmas)
    churn = check_number("s_churn", given.get("s_churn", 0.0))

    def moves(level: float) -> bool:
        return renews or (churn > 0 and given["s_tmin"] <= level <= given["s_tmax"])

    steps = moving_steps(levels, moves)
    if churn > 0 and steps:
        given["s_churn"] = churn * len(steps) / (len(levels) - 1)
    return moves, (*(levels[i] for i in steps), *levels[-1:])


def draws_in_place(unused: Unused | None, given: dict[str, Any]) -> int:
    """How many draws k-diffusion makes in a step that does not move the state."""
    if unused is not None:
        return 2 if unused is in_and_after_each_step else 1
    return int(bool(given.get("eta", 1.0)) and bool(given.get("s_noise", 1.0)))
