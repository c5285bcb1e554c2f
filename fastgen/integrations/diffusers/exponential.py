"""Exponential integrators in log-SNR: DPM-Solver (++), multistep and singlestep, and DEIS.

With lambda = log(alpha / sigma), h = lambda_t - lambda_s, and m the data prediction ("++") or the
noise prediction, a step of first order is x_t = (sigma_t / sigma_s) x - alpha_t (e^-h - 1) m, or
x_t = (alpha_t / alpha_s) x - sigma_t (e^h - 1) m; higher orders add divided differences of m.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import diffusers
import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from fastgen.common.transforms import transforming
from fastgen.integrations.diffusers.base import FusedScheduler, not_started, prediction
from fastgen.integrations.diffusers.contract_noise import Generators
from fastgen.integrations.diffusers.fused_step import Transform, Update, data, noise, out, r, x
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.runs import SchedulerRun
from fastgen.integrations.diffusers.sigmas import edm_denoised
from fastgen.plans.forms import Form

KINDS = ("epsilon", "sample", "v_prediction", "flow_prediction")
# Divided differences: D0, D1 for the midpoint rule's weight, D1 for Heun's weight, D2.
Terms: TypeAlias = "tuple[Form, Form | None, Form | None, Form | None]"


class Exponential(FusedScheduler):
    """Half log-SNR, conversions and the updates of DPM-Solver's papers."""

    def _missing(self, run: SchedulerRun, timestep: float | Tensor) -> int:
        return len(run.host_timesteps) - 1

    def _transform(self) -> Transform:
        return "threshold" if self.__dict__["_internal_dict"]["thresholding"] else None

    def _scales(self, sigma: float) -> tuple[float, float]:
        """alpha and sigma of the process where the grid says sigma."""
        if self.__dict__["_internal_dict"].get("use_flow_sigmas"):
            return 1 - sigma, sigma
        alpha = 1 / math.sqrt(sigma**2 + 1)
        return alpha, sigma * alpha

    def _log_snr(self, sigma: float) -> float:
        alpha, sigma = self._scales(sigma)
        if sigma == 0:
            return math.inf
        return math.log(alpha) - math.log(sigma) if alpha > 0 else -math.inf

    def _value(self, sigma: float, data_prediction: bool) -> tuple[Form, Form | None]:
        """What the multistep formula is of, and the data prediction behind it if it is that."""
        config: Any = self.__dict__["_internal_dict"]
        kind, (a, s) = config["prediction_type"], self._scales(sigma)
        kinds = KINDS if data_prediction else KINDS[:3]
        name = f"{type(self).__name__} with this algorithm_type"
        raw = self._data(kind, sigma, kinds, name)
        if data_prediction:
            return data, raw
        if config["thresholding"]:
            return (x - a * data) / s, raw
        return self._epsilon(kind, sigma), None

    def _data(self, kind: str, sigma: float, kinds: tuple[str, ...], name: str) -> Form:
        """The data prediction; of a flow with the grid's own sigma, whatever the process."""
        own = sigma if kind == "flow_prediction" else None
        a, s = self._scales(sigma)
        return prediction(kind, a, s if own is None else own, kinds, name)

    def _epsilon(self, kind: str, sigma: float) -> Form:
        a, s = self._scales(sigma)
        if kind == "epsilon":
            return out
        if kind == "sample":
            return (x - a * out) / s
        if kind == "v_prediction":
            return a * out + s * x
        return ((1 - a) * x + a * sigma * out) / sigma

    def _output(self, model_output: Tensor) -> Tensor:
        """The model's output without a learned variance, which these solvers have no use for."""
        config: Any = self.__dict__["_internal_dict"]
        learned = config.get("variance_type") in ("learned", "learned_range")
        if learned and config["prediction_type"] == "epsilon":
            return model_output[:, :3].contiguous()
        return model_output

    def _solve(self, algorithm: str, at: Form, start: float, end: float, terms: Terms) -> Form:
        """x_t of DPM-Solver from ``at``, with D0, D1 (midpoint's), D1 and D2 (heun's) as terms.

        "dpmsolver++": (sigma_t / sigma_s) x - alpha_t [E D0 + E/2 D1 or -(E/h + 1) D1 +
        ((E + h) / h^2 - 1/2) D2], E = e^-h - 1; "dpmsolver": sigma_t and e^h - 1 in place of
        alpha_t and E, (alpha_t / alpha_s) x; the SDE's forms are those with e^-2h and noise.
        """
        (a_s, s_s), (a_t, s_t) = self._scales(start), self._scales(end)
        h = self._log_snr(end) - self._log_snr(start)
        zeroth, middle, first, second = terms
        if algorithm.endswith("++"):
            # The SDE's form has -2h in place of -h, and the other sign before D2's 1/2.
            z = -h if algorithm == "dpmsolver++" else -2 * h
            linear, weight, sign = s_t / s_s, a_t, -0.5 if z == -h else 0.5
            if z != -h:
                linear *= math.exp(-h)
        else:
            z, linear, sign = h, a_t / a_s, -0.5
            weight = s_t if algorithm == "dpmsolver" else 2 * s_t
        e = math.expm1(z)
        result = linear * at - weight * e * zeroth
        if middle is not None:
            result = result - 0.5 * weight * e * middle
        if first is not None:
            result = result - weight * (e / z - 1) * first
        if second is not None:
            result = result - weight * ((e - z) / z**2 + sign) * second
        # The last sigmas of a grid may be equal but for a rounding, with h < 0: no noise then.
        if algorithm == "sde-dpmsolver++":
            result = result + s_t * math.sqrt(max(-e, 0.0)) * noise
        elif algorithm == "sde-dpmsolver":
            result = result + s_t * math.sqrt(max(math.expm1(2 * h), 0.0)) * noise
        return result


class Multistep(Exponential):
    """Order and history of DPM-Solver's multistep methods (Lu et al. 2022, arXiv 2211.01095)."""

    def _order(self, run: SchedulerRun, k: int) -> int:
        """1, 2 or 3: lower at the start and, with lower_order_final, in the last steps."""
        me, config = self.__dict__, self.__dict__["_internal_dict"]
        left, few = len(run.host_timesteps) - k, len(run.host_timesteps) < 15
        known = min(me["lower_order_nums"], len(run.registers))
        final = left == 1 and (
            config.get("euler_at_final", False)
            or (config["lower_order_final"] and few)
            or config.get("final_sigmas_type") == "zero"
        )
        if config["solver_order"] == 1 or known < 1 or final:
            return 1
        second = left == 2 and config["lower_order_final"] and few
        return 2 if config["solver_order"] == 2 or known < 2 or second else 3

    def _multistep(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        own = self.__dict__
        if own["num_inference_steps"] is None:
            raise not_started("num_inference_steps", "step")
        order = own["_internal_dict"]["solver_order"]
        known, k, results = own["lower_order_nums"], own["_step_index"], None
        output = self._output(model_output)
        if k is not None and variance_noise is None and not transforming():
            key = (k, min(known, order - 1))
            results = own["_cpp_step"](own, key, timestep, sample, output)
        if results is None:
            run, k = self._place(timestep)
            key = (k, min(known, order - 1))
            results = self._advance(run, key, sample, output, generator, k + 1, variance_noise)
        if known < order:
            own["lower_order_nums"] = known + 1
        own["_step_index"] = k + 1
        return results

    def _history(self, run: SchedulerRun, current: Form) -> dict[int, Form]:
        """The registers after the step: this value and the ones before, as many as are read."""
        size = self.__dict__["_internal_dict"]["solver_order"] - 1
        values = [current, *r[: min(len(run.registers), size - 1)]]
        return dict(enumerate(values[:size]))

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, _ = key
        config: Any = self.__dict__["_internal_dict"]
        algorithm, kind = self._algorithm(), config["solver_type"]
        s, t = run.sigmas_at(k)
        value, raw = self._value(s, algorithm.endswith("++"))
        if s == t:  # the last timestep of a full grid may be there twice
            draws = algorithm.startswith("sde")
            return Update(1.0 * x, raw, keep=self._history(run, value), draws=draws)
        order = self._distinct(run, k, self._order(run, k))
        middle = first = second = None
        if order > 1:
            lam = [self._log_snr(run.host_sigmas[i]) for i in range(k + 1, k - order, -1)]
            h, h0 = lam[0] - lam[1], lam[1] - lam[2]
            slope = h / h0 * (value - r[0])
            if order == 2:
                middle, first = (slope, None) if kind == "midpoint" else (None, slope)
            else:
                if algorithm == "sde-dpmsolver" or not self._third(algorithm):
                    raise ValueError(
                        f"solver_order=3 with algorithm_type={algorithm!r}: "
                        f"{type(self).__name__} has no such step; use order 2"
                    )
                h1 = lam[2] - lam[3]
                older = h / h1 * (r[0] - r[1])
                difference = slope - older
                first = slope + h0 / (h0 + h1) * difference
                second = h / (h0 + h1) * difference
        step = self._solve(algorithm, x, s, t, (value, middle, first, second))
        draws = algorithm.startswith("sde")
        return Update(step, raw, keep=self._history(run, value), draws=draws)

    def _distinct(self, run: SchedulerRun, k: int, order: int) -> int:
        """The order that the distinct ones among the last sigmas have."""
        sigmas = run.host_sigmas
        for i in range(1, order):
            if sigmas[k - i] == sigmas[k - i + 1]:
                return i
        return order

    def _third(self, algorithm: str) -> bool:
        return True

    def _algorithm(self) -> str:
        name: str = self.__dict__["_internal_dict"]["algorithm_type"]
        return name


class DPMSolver(Multistep):
    """DPM-Solver's multistep methods."""

    _noise_dtype = torch.float32

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step."""
        results = self._multistep(model_output, timestep, sample, generator, variance_noise)
        return packed(SchedulerOutput, results) if return_dict else results


class DPMSolverMultistepScheduler(DPMSolver, diffusers.DPMSolverMultistepScheduler):
    """DPM-Solver and DPM-Solver++ multistep, ODE and SDE, orders 1 to 3 (arXiv 2211.01095)."""


class EDMDPMSolverMultistepScheduler(Multistep, diffusers.EDMDPMSolverMultistepScheduler):
    """DPM-Solver++ multistep on EDM's preconditioned network, alpha = 1 (arXiv 2206.00364)."""

    def _scales(self, sigma: float) -> tuple[float, float]:
        return 1.0, sigma

    def _value(self, sigma: float, data_prediction: bool) -> tuple[Form, Form | None]:
        return data, edm_denoised(self, x, sigma)

    def _third(self, algorithm: str) -> bool:
        return algorithm == "dpmsolver++"

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """The network's input for the state ``sample``."""
        run = self._current()
        sigma = run.host_sigmas[self._at(timestep)]
        self.is_scale_input_called = True
        return sample / math.sqrt(sigma**2 + self.config.sigma_data**2)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step."""
        results = self._multistep(model_output, timestep, sample, generator)
        return packed(SchedulerOutput, results) if return_dict else results


class DEISMultistepScheduler(Multistep, diffusers.DEISMultistepScheduler):
    """Exponential Adams-Bashforth in log rho, rho = sigma / alpha (DEIS, arXiv 2204.13902).

    x_t = alpha_t (x / alpha_s + sum_j c_j eps_j), c_j the integral over rho of the Lagrange
    polynomial in log rho. The end of a Karras grid is its last sigma again, as in diffusers.
    """

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step."""
        results = self._multistep(model_output, timestep, sample)
        return packed(SchedulerOutput, results) if return_dict else results

    def _value(self, sigma: float, data_prediction: bool) -> tuple[Form, Form | None]:
        config: Any = self.__dict__["_internal_dict"]
        kind, (a, s) = config["prediction_type"], self._scales(sigma)
        raw = self._data(kind, sigma, KINDS, type(self).__name__)
        if config["thresholding"]:
            return (x - a * data) / (sigma if kind == "flow_prediction" else s), raw
        if kind == "v_prediction":  # from x0 = a x - s v; on a flow's scales it is not a v + s x
            return ((1 - a**2) * x + a * s * out) / s, None
        return self._epsilon(kind, sigma), None

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, _ = key
        s, t = run.sigmas_at(k)
        value, raw = self._value(s, False)
        (a_s, s_s), (a_t, s_t) = self._scales(s), self._scales(t)
        keep = self._history(run, value)
        if s == t:
            return Update(1.0 * x, raw, keep=keep)
        order = self._distinct(run, k, self._order(run, k))
        if order == 1:
            h = self._log_snr(t) - self._log_snr(s)
            return Update(a_t / a_s * x - s_t * math.expm1(h) * value, raw, keep=keep)
        logs = [-self._log_snr(run.host_sigmas[k - i]) for i in range(order)]
        weights = log_adams(logs, s_s / a_s, s_t / a_t)
        values = [value, *r[: order - 1]]
        step = sum((c * m for c, m in zip(weights, values, strict=True)), x / a_s)
        return Update(a_t * step, raw, keep=keep)


def log_adams(nodes: list[float], start: float, end: float) -> list[float]:
    """Integrals of the Lagrange polynomials in log rho, d rho from start to end, 2 or 3 nodes.

    The antiderivatives of 1, log rho and log^2 rho are rho, rho (log rho - 1) and
    rho (log^2 rho - 2 log rho + 2).
    """
    log_end, log_start = math.log(end), math.log(start)
    moments = [
        end - start,
        end * (log_end - 1) - start * (log_start - 1),
        end * (log_end**2 - 2 * log_end + 2) - start * (log_start**2 - 2 * log_start + 2),
    ]
    result = []
    for j, own in enumerate(nodes):
        others = [n for i, n in enumerate(nodes) if i != j]
        if len(others) == 1:
            result.append((moments[1] - others[0] * moments[0]) / (own - others[0]))
        else:
            b, c = others
            area = moments[2] - (b + c) * moments[1] + b * c * moments[0]
            result.append(area / ((own - b) * (own - c)))
    return result
