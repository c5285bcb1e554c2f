"""Running a solver on the caller's own noise levels, denoiser, noise and callback.

The levels become a plan on an EDM process whose time is sigma / 2^k, a quotient without rounding.
Plans, coefficients on a device and buffers are kept for the next call with the same levels and
options. Noise that the caller makes is an input of the stage that adds it; noise of the library's
contract is made inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgen.common.devices import upload
from fastgen.common.errors import nearest
from fastgen.kernels.contract import DTYPE_CODES
from fastgen.model.parametrisation import Parametrisation
from fastgen.noise.keys import id_tensor, seed_tensor
from fastgen.plans import Builder, Form
from fastgen.plans.forms import Computed, Evaluate, Increment, Let, Normal, State, Symbol, Value
from fastgen.plans.lowering import lower
from fastgen.sampling.prepared import PreparedProgram
from fastgen.sampling.run import BufferKey
from fastgen.schedules import EDM

Denoiser = Callable[..., Tensor]
Callback = Callable[[dict[str, Any]], object]
Span = tuple[float, float]
NoiseSampler = Callable[[Any, Any], Tensor]
Seeds = int | Sequence[int] | Tensor
NOISES = ("torch", "comfyui", "contract")
MARGIN = 1.5  # churn goes up to sqrt(2) times the highest level


class Recipe(PreparedProgram):
    """A lowered plan on given levels, and what its run must know of k-diffusion's order of things.

    evaluations: the noise level of each; first: each step's first evaluation; last: the stage
    that ends each step; spans: the levels between which each draw lies.
    """

    def __init__(
        self,
        build: Callable[..., Form],
        sigmas: tuple[float, ...],
        options: Mapping[str, Any],
        given: bool,
        cast: bool,
    ) -> None:
        top = 2.0 ** math.ceil(math.log2(MARGIN * max(sigmas)))
        schedule = EDM(sigma_min=top * 2.0**-100, sigma_max=top)
        builder = Builder(schedule, "data")
        try:
            result = builder.let(build(builder, [s / top for s in sigmas], **options))
        except ArithmeticError as error:
            raise ValueError(
                f"sigmas: this sampler has no step between two of these noise levels ({error}); "
                "give decreasing levels, no two of them equal"
            ) from error
        instructions = tuple(builder.instructions)
        if given:
            instructions = tuple(map(_with_given_noise, instructions))
        (register,) = result.terms
        assert isinstance(register, Value)
        self.steps = len(sigmas) - 1
        super().__init__(
            lower(instructions, register, Parametrisation(schedule, "data"), cast=cast)
        )
        self.evaluations = [i.time * top for i in instructions if isinstance(i, Evaluate)]
        done, self.last = 0, list[int]()
        for i in instructions:
            done += isinstance(i, Evaluate)
            if isinstance(i, State):
                self.last.append(done)
        self.first = [0, *self.last[:-1]]
        self.spans: dict[int, tuple[float, float]] = {}
        self.final_use: dict[int, int] = {}
        self.added: list[int] = [0] * len(self.program.stages)
        for s, stage in enumerate(self.program.stages):
            for z in () if stage is None else stage.inputs:
                if isinstance(z, Increment):
                    self.added[s] += z.draw not in self.spans
                    self.spans[z.draw] = z.start * top, z.end * top
                    self.final_use[z.draw] = s
        self._levels: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    def levels(self, x: Tensor) -> Tensor:
        """What the model is given as sigma, [evaluations, B], in the dtype of x."""
        key = x.shape[0], x.device, x.dtype
        if key not in self._levels:
            column = torch.from_numpy(np.array(self.evaluations))[:, None].repeat(1, key[0])
            self._levels = {key: upload(column.to(x.dtype), x.device)}
        return self._levels[key]


recipe = lru_cache(maxsize=128)(
    lambda build, sigmas, options, given, cast: Recipe(build, sigmas, dict(options), given, cast)
)


def _with_given_noise(i: Any) -> Any:
    if not isinstance(i, Let):
        return i
    terms: dict[Symbol, float] = {
        Increment(s.draw, s.start, s.end) if isinstance(s, Normal) else s: c
        for s, c in i.form.terms.items()
    }
    return Let(i.value, Form(terms))


def before_each_step(found: Recipe, levels: tuple[float, ...]) -> dict[int, Span]:
    """Samplers with churn draw in every step, whether it churns or not."""
    return {stage: (levels[i], levels[i + 1]) for i, stage in enumerate(found.first)}


class Calls:
    """The model's calls and the noise of one run (`fastgen.sampling.run.Evaluations`)."""

    def __init__(
        self,
        found: Recipe,
        model: Denoiser,
        x: Tensor,
        extra_args: dict[str, Any],
        sampler: NoiseSampler | None,
        levels: Callable[[float], Any],
        report: Callable[[int, Tensor, Tensor], None] | None,
    ) -> None:
        self.recipe, self.model, self.extra_args = found, model, extra_args
        self.shape, self.device = x.shape, x.device
        self.sampler, self.levels, self.report = sampler, levels, report
        # New for every run, as a model may scale its noise levels in place.
        self.rows = found.levels(x).clone().unbind()
        self.step_of = {k: i for i, k in enumerate(found.first)} if report else {}
        self.held: dict[int, Tensor] = {}

    def __call__(
        self, k: int, network_input: Tensor, state: Tensor | None, /
    ) -> tuple[Tensor, ...]:
        """The denoised state."""
        denoised = self.model(network_input, self.rows[k], **self.extra_args)
        if (
            not isinstance(denoised, Tensor)
            or denoised.shape != self.shape
            or denoised.dtype not in DTYPE_CODES
            or denoised.device != self.device
        ):
            what = (
                f"{denoised.dtype} {tuple(denoised.shape)} on {denoised.device}"
                if isinstance(denoised, Tensor)
                else type(denoised).__name__
            )
            raise ValueError(
                f"model: expected a real tensor {tuple(self.shape)} on {self.device} from "
                f"model(x, sigma, **extra_args), got {what}"
            )
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
        if symbol.draw not in self.held:
            self.held[symbol.draw] = self.draw(*self.recipe.spans[symbol.draw])
        return self.held[symbol.draw]

    def draw(self, start: float, end: float) -> Tensor:
        """Noise for a step between two levels."""
        assert self.sampler is not None
        return self.sampler(self.levels(start), self.levels(end))

    def release(self, stage: int) -> None:
        """Let go of noise that no later stage reads."""
        if self.held:
            last = self.recipe.final_use
            self.held = {d: z for d, z in self.held.items() if last[d] > stage}


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


def check_noise(noise: str, sampler: object, seed: object) -> None:
    """Raise a ValueError for a choice of noise that contradicts itself."""
    if noise not in NOISES:
        raise ValueError(f"noise={noise!r}: {nearest(noise, NOISES)}")
    if noise == "contract" and sampler is not None:
        raise ValueError(
            "noise_sampler: noise='contract' makes the noise inside the kernels; give one or the "
            "other"
        )
    if noise != "contract" and seed is not None:
        raise ValueError(
            f"seed={seed!r}: it is the seed of noise='contract'; noise={noise!r} comes from "
            "torch's generator (torch.manual_seed)"
        )


def run(
    build: Callable[..., Form],
    model: Denoiser,
    x: Tensor,
    sigmas: Any,
    extra_args: dict[str, Any] | None,
    callback: Callback | None,
    disable: bool | None,
    *,
    sampler: NoiseSampler | None = None,
    foreign: bool = False,
    noise: str = "torch",
    seed: Seeds | None = None,
    unused: Callable[[Recipe, tuple[float, ...]], Mapping[int, Span]] | None = None,
    describe: Callable[[int], dict[str, Any]] | None = None,
    bar_of_evaluations: bool = False,
    **options: Any,
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
        sampler: where noise comes from; None where there is none, or with noise="contract".
        foreign: whether the sampler is the caller's, which gets levels as tensors.
        noise: one of ``NOISES``.
        seed: of noise="contract"; None draws one from torch's generator.
        unused: the levels of noise that k-diffusion draws and does not use, by stage.
        describe: what the callback is told of step i besides x, i, denoised.
        bar_of_evaluations: whether the bar counts evaluations and not steps.
        **options: the solver's.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    levels = checked_levels(sigmas)
    if not x.is_floating_point() or x.ndim == 0 or x.dtype not in DTYPE_CODES:
        raise ValueError(f"x: expected a real tensor [B, ...], got {x.dtype} {tuple(x.shape)}")
    if len(levels) < 2:
        return x
    own = noise == "contract"
    state = torch.float64 if x.dtype == torch.float64 else torch.float32
    found = recipe(build, levels, tuple(sorted(options.items())), not own, state != x.dtype)
    if own and seed is None:
        seed = int(torch.randint(0, 2**63 - 1, []).item())
    seeds = seed_tensor(0 if seed is None else seed, x.shape[0], x.device)
    key = BufferKey(tuple(x.shape), x.device, (state, x.dtype), seeds.numel(), False, False)
    work = found.workspace(key)
    work.start(x, seeds, id_tensor(None, x.shape[0], x.device))
    bar = progress_bar(len(found.evaluations) if bar_of_evaluations else found.steps, disable)

    def level(value: float) -> Tensor:
        if isinstance(sigmas, Tensor):
            return torch.tensor(value, dtype=sigmas.dtype, device=sigmas.device)
        return torch.tensor(value, dtype=torch.get_default_dtype(), device=x.device)

    def report(i: int, point: Tensor, denoised: Tensor) -> None:
        assert callback is not None
        # The caller may keep the state, and it may change it, too.
        shown = point.clone()
        before = None if shown.is_inference() else shown._version
        sigma = sigmas[i] if isinstance(sigmas, Tensor) else level(levels[i])
        about = {"sigma": sigma, "sigma_hat": level(found.evaluations[found.first[i]])}
        about = about if describe is None else describe(i)
        callback({"x": shown, "i": i, **about, "denoised": denoised})
        if before is not None and shown._version != before:
            point.copy_(shown)

    wasted = {} if unused is None or own else unused(found, levels)
    calls = Calls(
        found,
        model,
        x,
        extra_args or {},
        sampler,
        level if foreign else float,
        None if callback is None else report,
    )
    ends = set(range(1, len(found.evaluations) + 1) if bar_of_evaluations else found.last)
    with torch.no_grad():
        for k in range(-1, len(found.evaluations)):
            work.advance(k, calls)
            calls.release(k + 1)
            if k + 1 in wasted and not found.added[k + 1]:
                calls.draw(*wasted[k + 1])
            if bar is not None and k + 1 in ends:
                bar.update()
    if bar is not None:
        bar.close()
    result = work.finish()
    found.keep(work)
    return result.to(x.dtype)
