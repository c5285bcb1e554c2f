"""Log-densities of the Gaussian transitions of a stochastic sampler.

A step x_t = m(x_s) + std z has log p(x_t | x_s) = -|x_t - m|^2 / (2 std^2) - n log(std sqrt(2 pi))
for n elements: what policy-gradient fine-tuning of samplers needs (DDPO, Black et al. 2024, arXiv
2305.13301; Flow-GRPO, Liu et al. 2025, arXiv 2505.05470). Multistep solvers condition on all
earlier states; steps without noise, such as the last one to t = 0, have no density.

Two networks on one plan have steps of the same std, so that their divergence in a step is that of
the means, |m - m'|^2 / (2 std^2) (`transition_divergence`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from fastgen.common.checks import check_choice, check_floating, check_sizes, rows_of
from fastgen.common.devices import check_device
from fastgen.common.display import displayed
from fastgen.common.padding import Padding
from fastgen.common.transforms import BACKWARD, untransformed
from fastgen.common.typed import typed
from fastgen.kernels import Stream
from fastgen.model.model import merged
from fastgen.noise.keys import id_tensor, seed_tensor
from fastgen.noise.normals import normals
from fastgen.plans import Plan
from fastgen.plans.forms import Computed, Evaluate, Form, Let, Normal, Prediction, State, Value
from fastgen.plans.increments import increments
from fastgen.sampling.increments import Increments, IncrementTable
from fastgen.sampling.prepared import NOISES
from fastgen.sampling.run import check_fresh
from fastgen.sampling.sampler import Sampler


@displayed
@dataclass(frozen=True)
class LogProbability:
    """Log-densities [len(steps), B] of the steps that add noise, numbered from 0."""

    values: Tensor
    steps: tuple[int, ...]


@dataclass(frozen=True)
class _Transition:
    step: int
    form: Form
    std: float
    normals: dict[Normal, float]


def transitions(plan: Plan) -> list[_Transition]:
    """The plan's Gaussian steps.

    Raises:
        ValueError: if a step is not Gaussian given the earlier states: noise enters a point at
            which the network is evaluated within the step, or one noise enters two states.
    """
    forms = {i.value: i.form for i in plan.instructions if isinstance(i, Let)}
    if any(isinstance(s, Computed) for form in forms.values() for s in form.terms):
        raise ValueError(f"{plan.solver}: the steps' variances depend on the network")
    states = {i.value for i in plan.instructions if isinstance(i, State)}
    used: set[Normal] = set()
    found = []
    for step, state in enumerate(plan.states):
        normals = _normals(forms.get(state.value, Form({})), forms, states)
        if used & set(normals):
            raise ValueError(f"{plan.solver}: one noise enters several states, step {step}")
        used |= set(normals)
        std = math.sqrt(sum(c * c for c in normals.values()))
        if std > 0:
            found.append(_Transition(step, forms[state.value], std, normals))
    for e in plan.evaluations:
        if e.x not in states and e.x in forms and _normals(forms[e.x], forms, states):
            raise ValueError(
                f"{plan.solver}: the network is evaluated at a point with fresh noise within a "
                f"step (t={e.time:.6g}), so the step is not Gaussian; use a one-evaluation solver "
                "such as ddpm, ddim with eta > 0 or euler_ancestral"
            )
    if not found:
        raise ValueError(f"{plan.solver}: no step adds noise, so there is no density to give")
    return found


def _normals(form: Form, forms: dict[Value, Form], states: set[Value]) -> dict[Normal, float]:
    """Noise coefficients of a form, registers between states expanded."""
    total: dict[Normal, float] = {}
    for symbol, c in form.terms.items():
        part: dict[Normal, float] = {}
        if isinstance(symbol, Normal):
            part = {symbol: 1.0}
        elif isinstance(symbol, Value) and symbol not in states and symbol in forms:
            part = _normals(forms[symbol], forms, states)
        for normal, factor in part.items():
            total[normal] = total.get(normal, 0.0) + c * factor
    return total


@typed
def sampled_log_probability(
    plan: Plan,
    shape: Sequence[int],
    *,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    noise: str = "draws",
    device: torch.device | str = "cpu",
    mask: Tensor | None = None,
) -> LogProbability:
    """Log-densities of the steps that a sampler took, from its seed alone.

    The noise is drawn again from the contract, so neither network nor states are needed.

    Args:
        plan: the sampler's plan.
        shape: [B, ...] as it was sampled.
        seed: as it was sampled.
        sample_ids: as it was sampled.
        noise: as it was sampled (see `Sampler`).
        device: where to compute.
        mask: see `trajectory_log_probability`.
    """
    check_choice("noise", noise, NOISES)
    shape = check_sizes("shape", shape)
    device, batch = check_device("device", device), shape[0]
    seeds, ids = seed_tensor(seed, batch, device), id_tensor(sample_ids, batch, device)
    size = math.prod(shape[1:])
    on_path = increments(plan.instructions, float(plan.times[0])) if noise == "brownian" else {}
    table = IncrementTable(list(on_path.values()), device)
    path = Increments(table, (batch, size), seeds, ids)
    steps, rows = transitions(plan), []
    padding = None if mask is None else Padding(mask, torch.empty(shape, device=device))
    for transition in steps:
        z = torch.zeros((batch, size), dtype=torch.float64, device=device)
        for normal, c in transition.normals.items():
            if normal in on_path:
                z += c * path(on_path[normal], torch.float64)
                continue
            draw, kind = normal.draw, torch.float64
            z += c * normals((batch, size), seeds, ids, draw, Stream.SOLVER, kind)
        rows.append(_log_density(z.reshape(shape), transition.std, padding))
    return LogProbability(torch.stack(rows), tuple(t.step for t in steps))


def _log_density(deviation: Tensor, std: float, padding: Padding | None) -> Tensor:
    """Of the difference from the mean [B, ...], summed over the live elements in float64."""
    scaled = deviation.to(torch.float64) / std
    flat = rows_of(scaled if padding is None else padding.clear(scaled))
    size = flat.shape[1] if padding is None else padding.count[:, 0]
    return -0.5 * flat.square().sum(1) - size * math.log(std * math.sqrt(2 * math.pi))


@untransformed(BACKWARD)
@typed
def trajectory_log_probability(
    sampler: Sampler,
    states: Tensor,
    *,
    differentiable: bool = False,
    checkpoint: bool = False,
    mask: Tensor | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> LogProbability:
    """Log-densities of a stored trajectory under the sampler's (possibly changed) network.

    Args:
        sampler: network, plan, guidance and transform.
        states: [n + 1, B, ...], as ``sampler(..., trajectory=True)`` returns them.
        differentiable: record for autograd (in the network's parameters and the states).
        checkpoint: with differentiable, recompute each evaluation in the backward pass.
        mask: for samples of different lengths, True where an element of a state [B, ...] is live;
            any shape that broadcasts to it. Densities are those of the live elements.
        net_kwargs, **kwargs: passed to the network; see `Sampler.__call__`.

    Raises:
        ValueError: if the plan's steps are not Gaussian, or the states do not fit the plan.
    """
    _check(sampler, states)
    padding = None if mask is None else Padding(mask, states[0])
    found = _deviations(sampler, states, differentiable, checkpoint, merged(net_kwargs, kwargs))
    with nullcontext() if differentiable else torch.no_grad():
        rows = [_log_density(deviation, step.std, padding) for step, deviation in found]
    return LogProbability(torch.stack(rows), tuple(step.step for step, _ in found))


@untransformed(BACKWARD)
@typed
def transition_divergence(
    sampler: Sampler,
    reference: Sampler,
    states: Tensor,
    *,
    differentiable: bool = False,
    checkpoint: bool = False,
    mask: Tensor | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """Kullback-Leibler divergence in nats of each step that adds noise, [len(steps), B].

    KL(p || p') = |m - m'|^2 / (2 std^2) of the steps from the stored states under two networks: the
    penalty that keeps a fine-tuned sampler near its reference. Summed over the steps it is, on
    average over the sampler's own states, the divergence of whole trajectories.

    Args:
        sampler: the one that is trained.
        reference: the same plan with another network, of which no gradient is recorded.
        states: [n + 1, B, ...], of the sampler.
        differentiable, checkpoint, mask, net_kwargs, **kwargs: as in `trajectory_log_probability`.

    Raises:
        ValueError: if the two have different plans, or as `trajectory_log_probability`.
    """
    _check(sampler, states)
    _check(reference, states)
    if sampler.plan is not reference.plan and sampler.plan.to_json() != reference.plan.to_json():
        raise ValueError(
            "reference: its plan is another than the sampler's, so that their steps have other "
            "deviations; make both of one plan"
        )
    given = merged(net_kwargs, kwargs)
    padding = None if mask is None else Padding(mask, states[0])
    own = _deviations(sampler, states, differentiable, checkpoint, given)
    other = _deviations(reference, states, False, False, given)
    rows = []
    with nullcontext() if differentiable else torch.no_grad():
        for (step, deviation), (_, theirs) in zip(own, other, strict=True):
            apart = (deviation.double() - theirs.double()) / step.std
            apart = rows_of(apart if padding is None else padding.clear(apart))
            rows.append(0.5 * apart.square().sum(1))
    return torch.stack(rows)


@typed
def log_ratio(old: LogProbability, new: LogProbability) -> Tensor:
    """log p_new / p_old of each step, [len(steps), B]: what PPO and GRPO clip the exponential of.

    Raises:
        ValueError: if the two are not of the same steps and samples.
    """
    if old.steps != new.steps or old.values.shape != new.values.shape:
        raise ValueError(
            f"new: steps {new.steps} of {new.values.shape[1]} samples, but old has {old.steps} of "
            f"{old.values.shape[1]}; take both of one plan and batch"
        )
    return new.values - old.values


def _check(sampler: Sampler, states: Tensor) -> None:
    check_floating("states", states, "[n + 1, B, ...]", 2)
    expected = len(sampler.plan.states) + 1
    transitions(sampler.plan)  # with its errors
    if states.shape[0] != expected:
        raise ValueError(f"states: expected {expected} of them, got {states.shape[0]}")


def _deviations(
    sampler: Sampler,
    states: Tensor,
    differentiable: bool,
    checkpoint: bool,
    given: Mapping[str, Any],
) -> list[tuple[_Transition, Tensor]]:
    """Of each step that adds noise: what it is, and how far the state is from the mean."""
    plan = sampler.plan
    states = states.to(sampler.dtype)
    by_form = {id(t.form): t for t in transitions(plan)}
    nothing = torch.zeros(1, dtype=torch.int64, device=states.device)
    ids = nothing.expand(states.shape[1])
    evaluate = sampler.prepared.network_calls(states[0], nothing, ids, given)
    parametrisation = sampler.prepared.parametrisation
    values: dict[Value, Tensor] = {Value(0): states[0]}
    known = {s.value: states[k + 1] for k, s in enumerate(plan.states)}
    outputs: list[tuple[Evaluate, tuple[Tensor, ...]]] = []
    deviations: list[tuple[_Transition, Tensor]] = []

    def network(k: int, x: Tensor) -> tuple[Tensor, ...]:
        scaled = x * parametrisation.input_scale(plan.evaluations[k].time)
        found = evaluate(k, scaled.to(sampler.prepared.dtypes[1]), x)
        if sampler.model.reuses_output:
            return tuple([output.clone() for output in found])
        for output in found:
            check_fresh(output, dict(enumerate(held for _, held in outputs)))
        return found

    def prediction(symbol: Prediction) -> Tensor:
        e, found = outputs[symbol.evaluation]
        x, output = values[e.x], found[-1 if symbol.unconditional else 0]
        if len(found) > 1 and not symbol.unconditional and sampler.guidance is not None:
            output = sampler.guidance.merge(found, e.time).output
        if plan.clip is not None and not symbol.unconditional:
            p, q = parametrisation.conversion("data", e.time)
            data = (p * x + q * output.to(x.dtype)).clamp(*plan.clip)
            p, q = parametrisation.from_data(symbol.quantity, e.time)
            return p * x + q * data
        p, q = parametrisation.conversion(symbol.quantity, e.time)
        return p * x + q * output.to(x.dtype)

    def total(form: Form) -> Tensor:
        terms = [
            c * (values[s] if isinstance(s, Value) else prediction(s))
            for s, c in form.terms.items()
            if isinstance(s, Value | Prediction)
        ]
        return torch.stack(terms).sum(0) if terms else torch.zeros_like(states[0])

    with nullcontext() if differentiable else torch.no_grad():
        for i in plan.instructions:
            if isinstance(i, Evaluate):
                arguments = len(outputs), values[i.x]
                if checkpoint and differentiable:
                    outputs.append((i, recompute(network, *arguments, use_reentrant=False)))
                else:
                    outputs.append((i, network(*arguments)))
            elif isinstance(i, Let):
                mean = total(i.form)
                values[i.value] = known.get(i.value, mean)
                if id(i.form) in by_form:
                    deviations.append((by_form[id(i.form)], values[i.value] - mean))
    return deviations
