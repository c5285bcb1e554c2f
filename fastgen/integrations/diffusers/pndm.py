"""Pseudo linear multistep schedulers: PNDM and its improved start, IPNDM."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from fastgen.common.transforms import transforming
from fastgen.integrations.diffusers.base import FusedScheduler, not_started
from fastgen.integrations.diffusers.ddpm import Chain
from fastgen.integrations.diffusers.fused_step import FIRST_REGISTER, Transform, Update, out, r, x
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.runs import SchedulerRun
from fastgen.plans.forms import Form
from fastgen.solvers.multistep import CONSTANT_STEP

# Registers: 0 to 2 hold the last noise predictions, these the Runge-Kutta sum and start.
SUM, START = 8, 9
RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


def adams_bashforth(values: list[Form]) -> Form:
    """The constant-step combination of up to four predictions, newest first."""
    weights = CONSTANT_STEP[len(values) - 1]
    return sum((w * v for w, v in zip(weights, values, strict=True)), Form({}))


def _predictions(held: Iterable[int]) -> int:
    """How many registers hold noise predictions."""
    return sum(k < FIRST_REGISTER + SUM for k in held)


class PNDMScheduler(Chain, diffusers.PNDMScheduler):
    """Liu et al. 2022, arXiv 2202.09778, Algorithm 2: Runge-Kutta start, then multistep.

    x_prev = sqrt(ab' / ab) x - (ab' - ab) e / (ab sqrt(1 - ab') + sqrt(ab (1 - ab) ab')), eq. 11,
    with ab' = ab_prev and e the combined noise prediction.
    """

    ets: list[Tensor]

    def _check_steps(self, steps: int) -> None:
        if not self.config.skip_prk_steps and steps < len(RUNGE_KUTTA):
            raise ValueError(
                f"num_inference_steps={steps}: the Runge-Kutta start takes 4; take at least as "
                "many, or PNDMScheduler(skip_prk_steps=True)"
            )

    def _transform(self) -> Transform:
        return None

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step."""
        if self.num_inference_steps is None:
            raise not_started("num_inference_steps", "step")
        if self.counter < len(self.prk_timesteps) and not self.config.skip_prk_steps:
            return self.step_prk(model_output, timestep, sample, return_dict)
        return self.step_plms(model_output, timestep, sample, return_dict)

    def step_prk(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """One of the four stages of a Runge-Kutta step; as diffusers' step_prk."""
        return self._counted("prk", model_output, timestep, sample, return_dict)

    def step_plms(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """One multistep step; as diffusers' step_plms."""
        self._take_predictions()
        known = _predictions(self._current().registers)
        if not self.config.skip_prk_steps and known < 3:
            raise ValueError(
                f"step_plms after {self.counter} steps: it needs the 3 predictions of the 12 "
                "Runge-Kutta stages before, or skip_prk_steps=True"
            )
        return self._counted("plms", model_output, timestep, sample, return_dict)

    def _take_predictions(self) -> None:
        """The history that a user has assigned to ``ets``, oldest first, in place of our own."""
        if self.ets:
            held = self._current().registers
            held.clear()
            held.update(
                (FIRST_REGISTER + i, (e, False)) for i, e in enumerate(reversed(self.ets[-4:]))
            )
            self.ets = []

    def _counted(
        self,
        mode: str,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool,
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        if self.num_inference_steps is None:
            raise not_started("num_inference_steps", "step")
        self._take_predictions()
        run = self._current()
        start = int(self.prk_timesteps[self.counter // 4 * 4]) if mode == "prk" else None
        key = (mode, self.counter, run.value(timestep), tuple(sorted(run.registers)), start)
        results = self._advance(run, key, sample, model_output)
        self.counter += 1
        return packed(SchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        mode, count, t, held, start = key
        past = r[: _predictions(held)]
        stride = self.config.num_train_timesteps // self.num_inference_steps
        if mode == "prk":
            return self._runge_kutta(run, count, t, start, past, stride)
        previous = t - stride
        if count == 1:
            previous, t = t, t + stride
            if len(past) == 1:  # the second call of the first step: both ends' mean
                step = self._step(run, r[START], t, previous, (out + past[0]) / 2)
                return Update(step, keep={0: past[0]})
            values = past[:4]
            keep = dict(enumerate(past))
        else:
            values = [out, *past][:4]
            keep = dict(enumerate(values[: 4 if count == 0 else 3]))
        if count == 0:
            keep[START] = x
        step = self._step(run, x, t, previous, adams_bashforth(values))
        return Update(step, keep=keep)

    def _runge_kutta(
        self, run: SchedulerRun, count: int, t: float, start: float, past: list[Form], stride: int
    ) -> Update:
        stage = count % 4
        previous = t - (0 if count % 2 else stride // 2)
        first = stage == 0
        at = x if first else r[START]
        total = RUNGE_KUTTA[stage] * out + (Form({}) if first else r[SUM])
        values = [out, *past][:3] if first else past
        keep = dict(enumerate(values))
        if stage == 3:
            return Update(self._step(run, at, start, previous, total), keep=keep)
        step = self._step(run, at, start, previous, out)
        return Update(step, keep=keep | {SUM: total, START: at})

    def _step(self, run: SchedulerRun, at: Form, t: float, previous: float, output: Form) -> Form:
        here = self._alpha_bar(t)
        there = self._alpha_bar(previous) if previous >= 0 else self._final(run)
        kind = self.config.prediction_type
        if kind == "v_prediction":
            output = math.sqrt(here) * output + math.sqrt(1 - here) * at
        elif kind != "epsilon":
            raise ValueError(f"prediction_type={kind!r}: PNDM knows epsilon, v_prediction")
        divisor = here * math.sqrt(1 - there) + math.sqrt(here * (1 - here) * there)
        return math.sqrt(there / here) * at - (there - here) / divisor * output


class IPNDMScheduler(FusedScheduler, diffusers.IPNDMScheduler):
    """PNDM started with lower orders (Zhang and Chen 2022, arXiv 2204.13902, appendix H).

    On x = alpha x0 + sigma eps with the model's output v: eps = sigma x + alpha v.
    """

    _grids = ("betas", "alphas")

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step."""
        own = self.__dict__
        if own["num_inference_steps"] is None:
            raise not_started("num_inference_steps", "step")
        run, k, results = self._run, own["_step_index"], None
        if run is not None and k is not None and not transforming():
            key = (k, len(run.registers))
            results = own["_cpp_step"](own, key, timestep, sample, model_output)
        if results is None:
            run, k = self._place(timestep)
            results = self._advance(run, (k, len(run.registers)), sample, model_output)
        own["_step_index"] = k + 1
        return packed(SchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, known = key
        (sigma, to_sigma), (alpha, to_alpha) = (
            run.table(name)[k : k + 2] for name in ("betas", "alphas")
        )
        values = [sigma * x + alpha * out, *r[:known]][:4]
        eps = adams_bashforth(values)
        denoised = (x - sigma * eps) / max(alpha, 1e-8)
        return Update(to_alpha * denoised + to_sigma * eps, keep=dict(enumerate(values[:3])))
