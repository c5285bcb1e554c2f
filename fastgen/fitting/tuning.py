"""`tune`: a plan fitted to a network."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

import torch

from fastgen.common.typed import typed
from fastgen.fitting.racing import Race, race
from fastgen.fitting.report import Tuning
from fastgen.fitting.rows import Rows
from fastgen.fitting.stages import Clock, Fit, Wanted
from fastgen.fitting.study import TEACHER, Conditioning, Settings, Study
from fastgen.fitting.whole_run import Features, Loss
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model, check_model
from fastgen.plans import Plan

# Numbers for each coefficient of the longest row, below which a fit is one of the noise.
NUMBERS = 20


@overload
def tune(
    model: Model,
    shape: Sequence[int],
    nfe: int | None = None,
    *,
    base: Plan | None = None,
    what: str = "both",
    optimiser: str = "gauss_newton",
    iterations: int | None = None,
    samples: int = 256,
    held_out: int = 128,
    batch: int = 64,
    seed: int = 1_000_003,
    guidance: Guidance | None = None,
    net_kwargs: Conditioning | None = None,
    start: float | None = None,
    end: float = 0.0,
    clip: tuple[float, float] | None = None,
    dtype: torch.dtype = torch.float32,
    teacher: str = TEACHER,
    teacher_steps: int | None = None,
    rtol: float = 1e-4,
    ridge: float = 1e-5,
    rate: float = 0.3,
    loss: str | Loss = "norm",
    features: Features | None = None,
    relaxation: float = 0.0,
    patience: int = 10,
    checkpoint: bool = False,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = False,
    report: Literal[False] = False,
) -> Plan: ...
@overload
def tune(
    model: Model,
    shape: Sequence[int],
    nfe: int | None = None,
    *,
    base: Plan | None = None,
    what: str = "both",
    optimiser: str = "gauss_newton",
    iterations: int | None = None,
    samples: int = 256,
    held_out: int = 128,
    batch: int = 64,
    seed: int = 1_000_003,
    guidance: Guidance | None = None,
    net_kwargs: Conditioning | None = None,
    start: float | None = None,
    end: float = 0.0,
    clip: tuple[float, float] | None = None,
    dtype: torch.dtype = torch.float32,
    teacher: str = TEACHER,
    teacher_steps: int | None = None,
    rtol: float = 1e-4,
    ridge: float = 1e-5,
    rate: float = 0.3,
    loss: str | Loss = "norm",
    features: Features | None = None,
    relaxation: float = 0.0,
    patience: int = 10,
    checkpoint: bool = False,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = False,
    report: Literal[True],
) -> tuple[Plan, Tuning]: ...
@typed
@torch.inference_mode(False)  # whose tensors autograd would refuse
def tune(
    model: Model,
    shape: Sequence[int],
    nfe: int | None = None,
    *,
    base: Plan | None = None,
    what: str = "both",
    optimiser: str = "gauss_newton",
    iterations: int | None = None,
    samples: int = 256,
    held_out: int = 128,
    batch: int = 64,
    seed: int = 1_000_003,
    guidance: Guidance | None = None,
    net_kwargs: Conditioning | None = None,
    start: float | None = None,
    end: float = 0.0,
    clip: tuple[float, float] | None = None,
    dtype: torch.dtype = torch.float32,
    teacher: str = TEACHER,
    teacher_steps: int | None = None,
    rtol: float = 1e-4,
    ridge: float = 1e-5,
    rate: float = 0.3,
    loss: str | Loss = "norm",
    features: Features | None = None,
    relaxation: float = 0.0,
    patience: int = 10,
    checkpoint: bool = False,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = False,
    report: bool = False,
) -> Plan | tuple[Plan, Tuning]:
    """A plan of ``nfe`` evaluations whose coefficients and times are fitted to this network.

    The best built-in solver on the best grid (`race`) gives the first rows of coefficients. Two
    stages follow, both against a fine solve of the same model from the same noise: least squares
    for each step in turn, closed (`fitting.least_squares`); then the whole run, its end against
    the teacher's, by Gauss-Newton steps (`fitting.gauss_newton`). Neither needs gradients of the
    network. What comes back is the stage that is best on noise that was not fitted to, as an
    ordinary plan: it is stored, captured, served and inverted as any other.

    Args:
        model: the network and what it means.
        shape: of one sample.
        nfe: the budget of evaluations.
        base: a plan to begin with, in place of the race's winner. One that draws noise keeps it:
            its deterministic part is fitted by least squares, and what that cannot tell goes into
            the noise, so that the states keep their variance.
        what: what the whole run moves: "coefficients", "grid" (the times, under the base's own
            coefficients) or "both".
        optimiser: of the whole run: "gauss_newton", or "adam", which follows gradients through the
            network and takes longer, for a ``loss`` of yours and for ``relaxation``.
        iterations: of the optimiser; the default is 20 or 300, and 0 where the base draws noise. 0
            leaves the whole run out. One of Gauss-Newton asks the network about nfe^3 / 6 + nfe^2
            times for each batch of ``samples``, and needs the memory of its outputs alone.
        samples, held_out, batch: noises that are fitted to, noises that judge, and so many in one
            call of the network.
        seed: of the noise contract, far from the seeds that one draws with.
        guidance, net_kwargs, start, end, clip: as in `race`.
        dtype: of the states; coefficients are float64.
        teacher, rtol: as in `race`.
        teacher_steps: of the teacher between two evaluations; the default is 12, or more to make
            100 in all.
        ridge: how alike (relative to 1) columns may be before a step's row stays with the base's.
        rate: of "adam", relative to the error that there is at first; it falls as a cosine.
        loss: of a batch's ends against the teacher's: "norm", "log" or "squared" of each sample's
            rms, or (with "adam") a function of both [B, ...].
        features: a function of states [B, ...] in whose values the loss is taken.
        relaxation: radius of the ball around each training noise, relative to the noise, within
            which it may move to meet the teacher (S4S's relaxed objective; with "adam").
        patience: looks at the held-out noise, one after each iteration of Gauss-Newton and every
            20 of Adam, without a new best, after which the optimiser stops.
        checkpoint: recompute evaluations in Adam's backward pass: memory of one in place of all.
        resume: a file for the state of the optimiser: written at every look, and gone on with
            where it is there.
        progress: show progress bars (needs tqdm), and print the race.
        report: also return a `fitting.Tuning`.

    Returns:
        The plan; ``print(plan)`` says how it was fitted and what it reaches. With ``report``
        (plan, report).

    Raises:
        ValueError: naming the argument; for too few samples, for a network that is not
            deterministic, and for a teacher that is hardly better than what it teaches.

    Warns:
        UserWarning: where no stage is better than the base, which is then returned; where the run
            is not finite any more, and the best rows before are.

    Example:
        >>> schedule = fastgen.schedules.CosineVP()
        >>> model = fastgen.Model(lambda x, t: x.tanh(), schedule, "data")
        >>> base = fastgen.plan("ddim", schedule, 3)
        >>> plan, found = fastgen.tune(model, (8,), base=base, report=True)
        >>> found.losses["least squares"] < found.losses["base"], plan.nfe
        (True, 3)
    """
    check_model(model)
    wanted = Wanted(
        what, optimiser, iterations, rate, loss, features, relaxation, patience, checkpoint, ridge
    )
    clock = Clock()
    found: Race | None = None
    if base is None:
        if nfe is None:
            raise ValueError("nfe=None: give the evaluations of the plan, or a base")
        few = min(samples, max(batch, 64 // batch * batch))
        with clock("race"):
            found = race(
                model, shape, nfe, samples=few, batch=batch, seed=seed, guidance=guidance,
                net_kwargs=net_kwargs, start=start, end=end, clip=clip, dtype=dtype,
                teacher=teacher, rtol=rtol, progress=progress,
            )  # fmt: skip
        if progress:
            print(found)
        bases = _bases(found, model)
    elif nfe not in (None, base.nfe):
        raise ValueError(f"nfe={nfe}: the base has {base.nfe} evaluations; leave it out")
    else:
        bases = [base]
    most = max(plan.nfe for plan in bases)
    steps = max(12, -(-100 // most)) if teacher_steps is None else teacher_steps
    settings = Settings(shape, batch, seed, guidance, net_kwargs, dtype, teacher, steps, rtol)
    for name, count in (("samples", samples), ("held_out", held_out)):
        settings.check_samples(name, count)
    if samples * math.prod(settings.shape) < NUMBERS * (most + 1):
        least = -(-NUMBERS * (most + 1) // math.prod(settings.shape))
        raise ValueError(
            f"samples={samples}: rows of {most + 1} coefficients need at least {least} samples "
            f"of shape {settings.shape}"
        )
    study = Study(model, settings)
    fits = []
    for plan in bases:
        fit = Fit(study, plan, samples, held_out, wanted, clock, progress)
        fit.least_squares()
        fits.append(fit)
    fit = min(fits, key=lambda fit: min(fit.losses.values()))
    if fit.wanted.iterations:
        fit.whole_run(Path(resume) if resume is not None else None)
    summary = fit.summary(found)
    if summary.chosen == "base":
        warnings.warn(
            f"tune: no fit of {fit.base.solver!r} is better on held-out noise at {fit.base.nfe} "
            "evaluations, and the base is returned as it was; more samples or iterations may help",
            stacklevel=3,
        )
    made = fit.base
    if summary.chosen != "base":
        made = fit.rows[summary.chosen].to_plan(summary.note())
    return (made, summary) if report else made


def _bases(found: Race, model: Model) -> list[Plan]:
    """The plans of a race that a fit may begin with, of those that have rows.

    The best of those with most evaluations, as a fit would leave what is unused unused; the best of
    them that has one evaluation in each step, as least squares bring every evaluation near the
    teacher's state at its time, and the stages of a Runge-Kutta step are elsewhere on purpose; and
    the winner, which is not to be lost.
    """
    problem: ValueError | None = None
    fitting: list[Plan] = []
    for entry in found.entries:  # by error
        try:
            Rows.of(entry.plan, model.parametrisation)
        except ValueError as error:
            problem = problem or error
        else:
            fitting.append(entry.plan)
    if not fitting:
        raise ValueError(f"nfe={found.nfe}: none of the race's plans can be fitted ({problem})")
    most = max(plan.nfe for plan in fitting)
    whole = [plan for plan in fitting if plan.nfe == most]
    single = [plan for plan in whole if plan.nfe == plan.steps]
    chosen = [whole[0], *single[:1], fitting[0]]
    return [plan for i, plan in enumerate(chosen) if plan not in chosen[:i]]
