"""UniPC and SA-Solver: predictor and corrector of one step in one kernel call."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from fastgen.integrations.diffusers.base import not_started
from fastgen.integrations.diffusers.contract_noise import Generators
from fastgen.integrations.diffusers.exponential import Exponential
from fastgen.integrations.diffusers.fused_step import FIRST_REGISTER, Update, noise, r, x
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.runs import ResultDtype, SchedulerRun, distinct
from fastgen.plans.forms import Form

LAST_NOISE, LAST = 14, 15  # registers: the last step's noise and corrected state
MAX_ORDER = 8


class UniPCMultistepScheduler(Exponential, diffusers.UniPCMultistepScheduler):
    """UniPC (Zhao et al. 2023, arXiv 2302.04867, Algorithms 5 to 8), bh1 and bh2.

    The corrector redoes the last step with the prediction at its end, then the predictor goes on
    from there: with m the predictions, r_j = (lambda_j - lambda_0) / h and D_j = (m_j - m_0) / r_j,
    x_t = (sigma_t / sigma_s) x - alpha_t (h phi_1 m_0 + B(h) sum_j rho_j D_j).
    """

    _result_dtype: ClassVar[ResultDtype] = "sample"
    this_order: int

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step."""
        own = self.__dict__
        if own["num_inference_steps"] is None:
            raise not_started("num_inference_steps", "step")
        run, k = self._place(timestep)
        config, known = own["_internal_dict"], own["lower_order_nums"]
        order = config["solver_order"]
        if order > MAX_ORDER:
            raise ValueError(f"solver_order={order}: at most {MAX_ORDER} here")
        correct = k > 0 and run.holds(LAST) and k - 1 not in own["disable_corrector"]
        last_order = own["this_order"] if correct else 0
        left = len(run.host_timesteps) - k
        this = min(order, left) if config["lower_order_final"] else order
        this = min(this, known + 1)
        extra = own["solver_p"]
        key = (
            k, this, last_order, max(len(run.registers) - 1, 0), own["predict_x0"], extra is None,
        )  # fmt: skip
        results = self._advance(run, key, sample, model_output)
        if extra is not None:  # the fused step ends at the corrected state
            solved = extra.step(model_output, timestep, results[0])
            results = (solved.prev_sample,)
        own["this_order"] = this
        if known < order:
            own["lower_order_nums"] = known + 1
        own["_step_index"] = k + 1
        return packed(SchedulerOutput, results) if return_dict else results

    def _value(self, sigma: float, data_prediction: bool) -> tuple[Form, Form | None]:
        value, raw = super()._value(sigma, data_prediction)
        if data_prediction:
            return value, raw
        # diffusers thresholds the data prediction only if the solver integrates it.
        return self._epsilon(self.config.prediction_type, sigma), None

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, order, last_order, known, data_prediction, predict = key
        sigmas = run.host_sigmas
        value, raw = self._value(run.sigmas_at(k)[0], data_prediction)
        past, at = r[:known], x
        if last_order:
            start = (
                sigmas[k - 1 : k - 1 - last_order : -1] if k > last_order else sigmas[k - 1 :: -1]
            )
            at = self._unified(r[LAST], start, sigmas[k], past[:last_order], value, data_prediction)
        values = [value, *past]
        keep = dict(enumerate(values[: self.config.solver_order])) | {LAST: at}
        if not predict:
            return Update(at, raw, keep=keep)
        start = sigmas[k : k - order : -1] if k >= order else sigmas[k::-1]
        step = self._unified(at, start, sigmas[k + 1], values[:order], None, data_prediction)
        return Update(step, raw, keep=keep)

    def _unified(
        self,
        at: Form,
        nodes: list[float],
        end: float,
        values: list[Form],
        corrector: Form | None,
        data_prediction: bool,
    ) -> Form:
        """The step from nodes[0] to end through ``values`` at the nodes, newest first.

        corrector: the prediction at the end, for UniC.
        """
        nodes, values = distinct(nodes[: len(values)], values)
        (a_s, s_s), (a_t, s_t) = self._scales(nodes[0]), self._scales(end)
        start = self._log_snr(nodes[0])
        h = self._log_snr(end) - start
        if h == 0:  # some grids end with the same sigma twice
            return at
        z = -h if data_prediction else h
        first = math.expm1(z)
        linear, weight = (s_t / s_s, a_t) if data_prediction else (a_t / a_s, s_t)
        result = linear * at - weight * first * values[0]
        ratios = [(self._log_snr(sigma) - start) / h for sigma in nodes[1 : len(values)]]
        differences = [(m - values[0]) / q for m, q in zip(values[1:], ratios, strict=True)]
        if corrector is not None:
            ratios.append(1.0)
            differences.append(corrector - values[0])
        if not differences:
            return result
        scale = z if self.config.solver_type == "bh1" else first
        rho = [0.5] if len(differences) == 1 else unified_weights(ratios, z, scale)
        total = sum((c * d for c, d in zip(rho, differences, strict=True)), Form({}))
        return result - weight * scale * total


def unified_weights(ratios: list[float], z: float, scale: float) -> list[float]:
    """rho with sum_j r_j^(i-1) rho_j = i! phi_{i+1}(z) z / B, i = 1 .. n (eq. 10 of the paper)."""
    phi, factorial, moments = math.expm1(z) / z - 1, 1.0, []
    for i in range(1, len(ratios) + 1):
        moments.append(phi * factorial / scale)
        factorial *= i + 1
        phi = phi / z - 1 / factorial
    powers = np.vander(ratios, increasing=True).T
    return [float(c) for c in np.linalg.solve(powers, moments)]


class SASolverScheduler(Exponential, diffusers.SASolverScheduler):
    """SA-Solver (Xue et al. 2023, arXiv 2309.05019): stochastic Adams, predictor and corrector.

    Data prediction, with a = 1 + tau^2: x_t = e^(-tau^2 h) (sigma_t / sigma_s) x + a sigma_t
    e^(-tau^2 lambda_t) sum_j m_j int e^(a lambda) L_j d lambda +
    sigma_t sqrt(1 - e^(-2 tau^2 h)) z; at order 2 the second moment is that of the authors' code.
    """

    _result_dtype: ClassVar[ResultDtype] = "sample"
    this_corrector_order: int
    _last_tau: float

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step. tau_func is given host numbers."""
        if self.num_inference_steps is None:
            raise not_started("num_inference_steps", "step")
        run, k = self._place(timestep)
        config = self.config
        size = max(config.predictor_order, config.corrector_order - 1)
        correct = k > 0 and run.holds(LAST)
        last = (self.this_corrector_order, self._last_tau) if correct else None
        predictor, corrector = config.predictor_order, config.corrector_order
        if config.lower_order_final:
            left = len(run.host_timesteps) - k
            predictor, corrector = min(predictor, left), min(corrector, left + 1)
        self.this_predictor_order = min(predictor, self.lower_order_nums + 1)
        self.this_corrector_order = min(corrector, self.lower_order_nums + 2)
        tau = float(self.tau_func(run.value(timestep, k)))
        known = sum(i < FIRST_REGISTER + LAST_NOISE for i in run.registers)
        key = (k, self.this_predictor_order, tau, last, known)
        output = self._output(model_output)
        results = self._advance(run, key, sample, output, generator, k + 1)
        self._last_tau = tau
        if self.lower_order_nums < size:
            self.lower_order_nums += 1
        self._step_index = k + 1
        return packed(SchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, order, tau, last, known = key
        value, raw = self._value(run.sigmas_at(k)[0], self.predict_x0)
        past, at = r[:known], x
        if last is not None:
            at = self._adams(run, k - 1, [value, *past][: last[0]], last[1], corrected=True)
        values = [value, *past]
        size = max(self.config.predictor_order, self.config.corrector_order - 1)
        keep = dict(enumerate(values[:size])) | {LAST: at, LAST_NOISE: noise}
        step = self._adams(run, k, values[:order], tau, at=at)
        return Update(step, raw, keep=keep, draws=True)

    def _adams(
        self,
        run: SchedulerRun,
        k: int,
        values: list[Form],
        tau: float,
        at: Form | None = None,
        corrected: bool = False,
    ) -> Form:
        """The step from sigma k to k + 1 through ``values``, of which the newest is at k.

        corrected: the newest is at k + 1, and state and noise are the last step's.
        """
        sigmas = run.host_sigmas
        (a_s, s_s), (a_t, s_t) = self._scales(sigmas[k]), self._scales(sigmas[k + 1])
        start, end = self._log_snr(sigmas[k]), self._log_snr(sigmas[k + 1])
        newest = k + 1 if corrected else k
        given = [self._log_snr(sigmas[newest - i]) for i in range(len(values))]
        nodes, values = distinct(given, values)
        order = len(values)
        h, a = end - start, 1 + tau**2
        z = r[LAST_NOISE] if corrected else noise
        state = r[LAST] if corrected else at
        assert state is not None
        if h == 0:  # the grid has this sigma twice
            return state
        if not self.predict_x0:
            # The peer's gradient part is the ODE's, times 1 + tau^2.
            weights = lagrange_integrals(nodes, start, end, -1.0)
            spread = tau * s_t * math.sqrt(max(math.expm1(2 * h), 0.0))
            total = sum((w * m for w, m in zip(weights, values, strict=True)), Form({}))
            return a_t / a_s * state - a * a_t * total + spread * z
        # The integrals are of e^(a (lambda - lambda_t)); the factor e^(a lambda_t) is in a_t below.
        weights = lagrange_integrals(nodes, start, end, a, relative=True)
        if order == 2:
            moment = (h * a - 1 + math.exp(-a * h)) / a**2
            change = h / 2 - moment / h if corrected else (h**2 / 2 - moment) / (start - nodes[1])
            weights = [weights[0] + change, weights[1] - change]
        total = sum((w * m for w, m in zip(weights, values, strict=True)), Form({}))
        linear = math.exp(-(tau**2) * h) * s_t / s_s
        # sigma_t e^(-tau^2 lambda_t) e^(a lambda_t) = sigma_t e^(lambda_t) = alpha_t
        spread = s_t * math.sqrt(max(-math.expm1(-2 * tau**2 * h), 0.0))
        return linear * state + a * a_t * total + spread * z


def lagrange_integrals(
    nodes: list[float], start: float, end: float, rate: float, relative: bool = False
) -> list[float]:
    """Integrals from start to end of e^(rate u) L_j(u), L_j the Lagrange polynomials at the nodes.

    relative: of e^(rate (u - end)). By parts, from u = end + v with v in [start - end, 0].
    """
    h, n = end - start, len(nodes)
    moments: list[float] = []  # of e^(rate v) v^i over [-h, 0]
    for i in range(n):
        boundary = -((-h) ** i) * math.exp(-rate * h) + (1.0 if i == 0 else 0.0)
        moments.append((boundary - (i * moments[-1] if i else 0.0)) / rate)
    if rate * h < 0.5:  # the differences above would lose digits
        v, w = np.polynomial.legendre.leggauss(16)
        at = h * (v - 1) / 2
        moments = [float(h / 2 * (w @ (np.exp(rate * at) * at**i))) for i in range(n)]
    scale = 1.0 if relative else math.exp(rate * end)
    result = []
    for j, own in enumerate(nodes):
        polynomial = np.ones(1)
        for i, other in enumerate(nodes):
            if i != j:
                polynomial = np.convolve(polynomial, [1.0, end - other]) / (own - other)
        result.append(scale * float(polynomial[::-1] @ moments))
    return result
