"""DPM-Solver's singlestep methods: groups of steps from one start."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from fastgen.integrations.diffusers.base import not_started
from fastgen.integrations.diffusers.contract_noise import Generators
from fastgen.integrations.diffusers.exponential import Exponential
from fastgen.integrations.diffusers.fused_step import Update, r, x
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.runs import SchedulerRun, distinct

START = 15  # register of the state that the group started from


class DPMSolverSinglestepScheduler(Exponential, diffusers.DPMSolverSinglestepScheduler):
    """DPM-Solver and DPM-Solver++ singlestep (Lu et al. 2022, arXiv 2206.00927, 2211.01095).

    Groups of 2 or 3 steps that go to each of their ends from the group's start.
    """

    _noise_dtype = "promoted"

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step."""
        if self.num_inference_steps is None:
            raise not_started("num_inference_steps", "step")
        run, k = self._place(timestep)
        known = len(run.registers) - 1 if run.registers else 0
        orders = self.order_list
        order = min(orders[k] if k < len(orders) else 1, known + 1)
        key = (k, order, known)
        output = self._output(model_output)
        results = self._advance(run, key, sample, output, generator, k + 1)
        self._step_index = k + 1
        return packed(SchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, order, known = key
        config: Any = self.__dict__["_internal_dict"]
        algorithm, kind = config["algorithm_type"], config["solver_type"]
        value, raw = self._value(run.sigmas_at(k)[0], algorithm.endswith("++"))
        # m[j]: the value j steps ago. The group started at the oldest, which is D0.
        # Levels that the grid has twice are one, at the start too.
        sigmas = run.host_sigmas[k + 1 - order : k + 2]
        start, end = sigmas[0], sigmas[-1]
        at = x if order == 1 else r[START]
        nodes, m = distinct(sigmas[-2::-1], [value, *r[: order - 1]])
        order = len(nodes)
        middle = first = second = None
        if order > 1:
            lam = [self._log_snr(sigma) for sigma in (end, *nodes)]  # end, newest, ..., start
            h = lam[0] - lam[-1]
            newest = h / (lam[1] - lam[-1]) * (m[0] - m[-1])
            if order == 2:
                middle, first = (newest, None) if kind == "midpoint" else (None, newest)
            elif kind == "midpoint":
                first = newest
            else:
                r0, r1 = (lam[1] - lam[-1]) / h, (lam[2] - lam[-1]) / h
                inner = (m[1] - m[-1]) / r1
                first = (r0 * inner - r1 * newest) / (r0 - r1)
                second = 2 * (newest - inner) / (r0 - r1)
        step = self._solve(algorithm, at, start, end, (m[-1], middle, first, second))
        size = config["solver_order"] - 1
        keep = dict(enumerate([value, *r[:known]][:size])) | {START: at}
        return Update(step, raw, keep=keep, draws=algorithm.startswith("sde"))
