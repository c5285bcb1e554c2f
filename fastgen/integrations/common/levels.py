"""Running a solver on the caller's own noise levels, denoiser, noise and callback.

The numbers are in `fastgen.integrations.common.recipes`; here are the calls of the user's code, in
the order in which k-diffusion and EDM make them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastgen.common.unwritten import check_unwritten, version
from fastgen.integrations.common.noise import NoiseSource
from fastgen.integrations.common.recipes import Build, Recipe, Span, recipe
from fastgen.integrations.common.tensors import check_output, check_state
from fastgen.plans.forms import Computed, Increment
from fastgen.sampling.run import BufferKey

Denoiser = Callable[..., Tensor]
Callback = Callable[[dict[str, Any]], object]
# The draws, by stage, that the peer makes without adding them.
Unused = Callable[[Recipe, tuple[float, ...]], Mapping[int, Span]]


class DenoiserCalls:
    """The model's calls and the noise of one run (`fastgen.sampling.run.Evaluations`)."""

    def __init__(
        self,
        found: Recipe,
        model: Denoiser,
        x: Tensor,
        extra_args: dict[str, Any],
        noise: NoiseSource,
        level: Callable[[float], Tensor],
        report: Callable[[int, Tensor, Tensor], None] | None,
    ) -> None:
        self.recipe, self.model, self.extra_args = found, model, extra_args
        self.shape, self.device = x.shape, x.device
        self.noise, self.report = noise, report
        self.level: Callable[[float], Any] = level if noise.foreign else float
        # New for every run, as a model may scale its noise levels in place.
        self.rows = found.levels(x).clone().unbind()
        self.step_of = {k: i for i, k in enumerate(found.first)} if report else {}
        self.drawn: dict[int, Tensor] = {}

    def __call__(
        self, k: int, network_input: Tensor, state: Tensor | None, /
    ) -> tuple[Tensor, ...]:
        """The denoised state."""
        before = version(network_input)
        denoised = self.model(network_input, self.rows[k], **self.extra_args)
        check_unwritten("model", network_input, before)
        check_output("model(x, sigma, **extra_args)", denoised, self.shape, self.device)
        if self.report is not None and k in self.step_of:
            self.report(self.step_of[k], network_input, denoised)
        return (denoised,)

    def provide(
        self,
        symbol: Computed | Increment,
        outputs: tuple[Tensor, ...],
        state: Tensor | None,
        dtype: torch.dtype,
        /,
    ) -> Tensor:
        """The noise of a draw, from the caller's sampler, once."""
        if symbol.draw not in self.drawn:
            self.drawn[symbol.draw] = self.draw(*self.recipe.spans[symbol.draw])
        return self.drawn[symbol.draw]

    def draw(self, start: float, end: float) -> Tensor:
        """Noise for a step between two levels."""
        assert self.noise.sampler is not None
        return self.noise.sampler(self.level(start), self.level(end))

    def release(self, stage: int) -> None:
        """Let go of noise that no later stage reads."""
        if self.drawn:
            last = self.recipe.final_use
            self.drawn = {d: z for d, z in self.drawn.items() if last[d] > stage}


def checked_levels(sigmas: Any) -> tuple[float, ...]:
    """The noise levels as numbers.

    Raises:
        ValueError: if one is not finite, is negative, or is 0 before the last.
    """
    if isinstance(sigmas, Tensor) and sigmas.ndim != 1:
        raise ValueError(f"sigmas: expected noise levels [n], got shape {tuple(sigmas.shape)}")
    values = sigmas.tolist() if isinstance(sigmas, Tensor) else [float(s) for s in sigmas]
    if len(values) > 1 and min(values[:-1]) > 0 <= values[-1] and math.isfinite(sum(values)):
        return tuple(values)
    for i, value in enumerate(values):  # find the one that is wrong
        least = 0.0 if 0 < i == len(values) - 1 else 2.0**-149
        if not least <= value < math.inf:
            raise ValueError(
                f"sigmas[{i}] = {value!r}: expected finite noise levels > 0, of which the last "
                "alone may be 0"
            )
    return tuple(values)


def progress_bar(total: int | None, disable: bool | None) -> Any:
    """tqdm's bar as k-diffusion shows it; None where it is switched off or tqdm is missing."""
    if disable:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, disable=disable)


def run(
    build: Build,
    model: Denoiser,
    x: Tensor,
    sigmas: Any,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    noise: NoiseSource,
    unused: Unused | None = None,
    describe: Callable[[int], dict[str, Any]] | None = None,
    bar_of_evaluations: bool = False,
    options: Mapping[str, Any],
) -> Tensor:
    """Run a solver as k-diffusion's function of that name would.

    Args:
        build: the solver.
        model: model(x, sigma [B], **extra_args) -> denoised, all [B, ...].
        x: the initial state.
        sigmas: the noise levels [n + 1].
        extra_args: passed to the model.
        callback: called with a dictionary before each step.
        disable: the progress bar, as tqdm takes it.
        noise: where noise comes from.
        unused: the levels of noise that the peer draws and does not use, by stage.
        describe: what the callback is told of step i besides x, i, denoised.
        bar_of_evaluations: whether the bar counts evaluations and not steps.
        options: the solver's.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    levels = checked_levels(sigmas)
    check_state("x", x)
    if len(levels) < 2:
        return x
    state = torch.float64 if x.dtype == torch.float64 else torch.float32
    chosen = tuple(sorted(options.items()))
    found = recipe(build, levels, chosen, not noise.in_kernels, state != x.dtype)
    seeds, ids = noise.keys(x.shape[0], x.device)
    key = BufferKey(tuple(x.shape), x.device, (state, x.dtype), seeds.numel(), False, False)
    work = found.workspace(key)
    work.start(x, seeds, ids)
    bar = progress_bar(len(found.evaluations) if bar_of_evaluations else found.steps, disable)

    def level(value: float) -> Tensor:
        if isinstance(sigmas, Tensor):
            return torch.tensor(value, dtype=sigmas.dtype, device=sigmas.device)
        return torch.tensor(value, dtype=torch.get_default_dtype(), device=x.device)

    def report(i: int, point: Tensor, denoised: Tensor) -> None:
        assert callback is not None
        # The point is a buffer of the run: the caller may keep what it is shown, and change it.
        shown = point.clone()
        before = None if shown.is_inference() else shown._version
        sigma = sigmas[i] if isinstance(sigmas, Tensor) else level(levels[i])
        about = {"sigma": sigma, "sigma_hat": level(found.evaluations[found.first[i]])}
        about = about if describe is None else describe(i)
        callback({"x": shown, "i": i, **about, "denoised": denoised})
        if before is not None and shown._version != before:  # an edit takes part in the run
            point.copy_(shown)

    wasted = unused(found, levels) if unused is not None and noise.kind == "torch" else {}
    shown = None if callback is None else report
    calls = DenoiserCalls(found, model, x, extra_args or {}, noise, level, shown)
    ends = set(range(1, len(found.evaluations) + 1) if bar_of_evaluations else found.last)
    with torch.no_grad():
        for k in range(-1, len(found.evaluations)):
            work.advance(k, calls)
            calls.release(k + 1)
            # A stage that adds noise has drawn it already; others draw what the peer wastes.
            if k + 1 in wasted and not found.added[k + 1]:
                calls.draw(*wasted[k + 1])
            if bar is not None and k + 1 in ends:
                bar.update()
    if bar is not None:
        bar.close()
    result = work.finish()
    found.keep(work)
    return result.to(x.dtype)
