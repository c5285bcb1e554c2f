"""Running a solver on the caller's own noise levels, denoiser, noise and callback.

The numbers are in `fastgen.integrations.common.recipes`; here are the calls of the user's code, in
the order in which k-diffusion and EDM make them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_function, check_mapping
from fastgen.common.layouts import in_channels_last
from fastgen.common.transforms import check_untraced, functional, to_list, transforming
from fastgen.common.unwritten import check_unwritten, version
from fastgen.integrations.common.noise import NoiseSource
from fastgen.integrations.common.recipes import Build, Recipe, Span, recipe
from fastgen.integrations.common.tensors import check_state
from fastgen.model.output import check_output
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
        report: Callable[[int, Tensor, Tensor, float], None] | None,
        steps_of: Mapping[int, Sequence[int]],
    ) -> None:
        self.recipe, self.model, self.extra_args = found, model, extra_args
        self.shape, self.device = x.shape, x.device
        self.noise, self.report = noise, report
        self.level: Callable[[float], Any] = level if noise.foreign else float
        # New for every run, as a model may scale its noise levels in place.
        self.rows = found.levels(x).clone().unbind()
        self.steps_of = {} if report is None else steps_of
        self.drawn: dict[int, Tensor] = {}

    def __call__(
        self, k: int, network_input: Tensor, state: Tensor | None, /
    ) -> tuple[Tensor, ...]:
        """The denoised state."""
        before = version(network_input)
        denoised = self.model(network_input, self.rows[k], **self.extra_args)
        check_unwritten("model", network_input, before)
        check_output(
            denoised, self.shape, self.device, "model", call="model(x, sigma, **extra_args)"
        )
        if self.report is not None:
            for i in self.steps_of.get(k, ()):
                self.report(i, network_input, denoised, self.recipe.evaluations[k])
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
    try:
        values = to_list(sigmas) if isinstance(sigmas, Tensor) else [float(s) for s in sigmas]
    except (TypeError, ValueError):
        raise TypeError(f"sigmas={sigmas!r}: expected noise levels [n]") from None
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


def moving_steps(levels: tuple[float, ...], moves: Callable[[float], bool]) -> tuple[int, ...]:
    """The steps that are taken: all but those between equal levels that do not move the state.

    Args:
        levels: [n + 1].
        moves: whether a step from this level back to it does.
    """
    return tuple(
        i for i in range(len(levels) - 1) if levels[i] != levels[i + 1] or moves(levels[i])
    )


def _nowhere(level: float) -> bool:
    return False


def progress_bar(total: int | None, disable: bool | None) -> Any:
    """tqdm's bar as k-diffusion shows it; None where it is switched off or tqdm is missing."""
    if disable:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, disable=disable)


def _untraced(model: Denoiser, x: Tensor, extra_args: dict[str, Any]) -> Denoiser:
    """The model, whose values must not be seen by forward-mode derivatives and `torch.func`."""
    call = "a sampler that runs in buffers of its own"
    remedy = "use fastgen.Sampler(...)(..., differentiable=True)"
    check_untraced(call, remedy, x=x, extra_args=extra_args)
    if functional():
        raise ValueError(f"{call} does not run inside of torch.func; {remedy}")

    def checked(*arguments: Any, **keywords: Any) -> Tensor:
        found = model(*arguments, **keywords)
        check_untraced(call, remedy, model=found)
        return found

    return checked


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
    moves: Callable[[float], bool] = _nowhere,
    drawn_in_place: int = 0,
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
        moves: of a level, whether a step from there back to it changes the state. Where not, the
            network is not called for it; the callback is, with what the next step finds.
        drawn_in_place: how many draws the peer makes in such a step.
        options: the solver's.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    levels = checked_levels(sigmas)
    check_state("x", x)
    extra_args = {} if extra_args is None else extra_args
    check_mapping("extra_args", extra_args)
    if transforming():
        model = _untraced(model, x, extra_args)
    check_function("model", model)
    if callback is not None:
        check_function("callback", callback)
    if len(levels) < 2:
        return x
    steps = moving_steps(levels, moves)
    taken = (*(levels[i] for i in steps), levels[-1])
    state = torch.float64 if x.dtype == torch.float64 else torch.float32

    def level(value: float) -> Tensor:
        if isinstance(sigmas, Tensor):
            return torch.tensor(value, dtype=sigmas.dtype, device=sigmas.device)
        return torch.tensor(value, dtype=torch.get_default_dtype(), device=x.device)

    def report(i: int, point: Tensor, denoised: Tensor, hat: float | None = None) -> None:
        assert callback is not None
        # The point is a buffer of the run: the caller may keep what it is shown, and change it.
        shown = point.clone()
        before = None if shown.is_inference() else shown._version
        sigma = sigmas[i] if isinstance(sigmas, Tensor) else level(levels[i])
        about = {"sigma": sigma, "sigma_hat": level(levels[i] if hat is None else hat)}
        about = about if describe is None else describe(i)
        callback({"x": shown, "i": i, **about, "denoised": denoised})
        if before is not None and shown._version != before:  # an edit takes part in the run
            point.copy_(shown)

    def stand(left: range, x: Tensor) -> Tensor:
        """The steps that are left, none of which moves the state."""
        for i in left:
            if callback is not None:
                at = torch.full((x.shape[0],), levels[i], dtype=x.dtype, device=x.device)
                denoised = model(x, at, **(extra_args or {}))
                check_output(
                    denoised, x.shape, x.device, "model", call="model(x, sigma, **extra_args)"
                )
                x = x.clone()
                report(i, x, denoised)
            draw_in_place(levels[i])
        return x

    def draw_in_place(sigma: float) -> None:
        if noise.kind == "torch" and noise.sampler is not None:
            at: Any = level(sigma) if noise.foreign else sigma
            for _ in range(drawn_in_place):
                noise.sampler(at, at)

    if not steps:
        with torch.no_grad():
            return stand(range(len(levels) - 1), x)
    chosen = tuple(sorted(options.items()))
    found = recipe(build, taken, chosen, not noise.in_kernels, state != x.dtype)
    seeds, ids = noise.keys(x.shape[0], x.device)
    kind = seeds.numel(), False, False, None, in_channels_last(x)
    key = BufferKey(tuple(x.shape), x.device, (state, x.dtype), *kind)
    work = found.workspace(key)
    work.start(x, seeds, ids)
    bar = progress_bar(len(found.evaluations) if bar_of_evaluations else found.steps, disable)

    wasted = unused(found, taken) if unused is not None and noise.kind == "torch" else {}
    # Each step with the ones before it that stood still.
    told = {
        k: range(before + 1, i + 1)
        for k, before, i in zip(found.first, (-1, *steps), steps, strict=False)
    }
    shown = None if callback is None else report
    own = extra_args or {}
    calls = DenoiserCalls(found, model, x, own, noise, level, shown, told)
    ends = set(range(1, len(found.evaluations) + 1) if bar_of_evaluations else found.last)
    with torch.no_grad():
        for k in range(-1, len(found.evaluations)):
            work.advance(k, calls)
            calls.release(k + 1)
            # A stage that adds noise has drawn it already; others draw what the peer wastes.
            if k + 1 in wasted and not found.added[k + 1]:
                calls.draw(*wasted[k + 1])
            for i in told.get(k + 1, range(0))[:-1]:
                draw_in_place(levels[i])
            if bar is not None and k + 1 in ends:
                bar.update()
    if bar is not None:
        bar.close()
    result = work.finish()
    found.keep(work)
    result = result.to(x.dtype)
    with torch.no_grad():
        return stand(range(steps[-1] + 1, len(levels) - 1), result)
