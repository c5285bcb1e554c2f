"""Data whose denoiser, probability flow and marginals are known, as networks of every kind.

x_t = alpha x_0 + sigma eps throughout. For x_0 ~ N(m, c^2) the marginal is N(alpha m, v) with
v = alpha^2 c^2 + sigma^2, and everything below follows from dv/dt = 2 f v + g^2.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from fastgen.plans.forms import Evaluate, Let, Normal, Prediction, Value

# Solvers that go through the sampler's whole battery in every run; the others do so in slow runs.
CORE = (
    "adams_bashforth",
    "annealed_langevin",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "euler",
    "euler_ancestral",
    "heun",
    "predictor_corrector",
    "rk4",
)


def tiered(names):
    """Test parameters of which those outside `CORE` are marked slow."""
    return [n if n in CORE else pytest.param(n, marks=pytest.mark.slow) for n in names]


@dataclass(frozen=True)
class Gaussian:
    """x_0 ~ N(mean, std^2), every dimension with its own."""

    mean: tuple[float, ...] = (0.3, -1.0, 0.5, 2.0)
    std: tuple[float, ...] = (0.2, 0.5, 1.0, 1.7)

    def marginal(self, schedule, t):
        """Mean and variance of x_t."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return alpha * np.array(self.mean), (alpha * np.array(self.std)) ** 2 + sigma**2

    def affine(self, schedule, t):
        """(A, B) with E[x_0 | x_t = x] = A x + B."""
        _, v = self.marginal(schedule, t)
        gain = schedule.alpha(t) * np.array(self.std) ** 2 / v
        return gain, np.array(self.mean) * (1 - gain * schedule.alpha(t))

    def predictions(self, schedule, t, x):
        """The exact predictions for x = c_0 + sum_j c_j z_j, given and returned as rows c."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        gain, offset = self.affine(schedule, t)
        data = gain * x
        data[0] += offset
        noise = (x - alpha * data) / sigma
        return {
            "data": data,
            "noise": noise,
            "score": -noise / sigma,
            "v": alpha * noise - sigma * data,
            "velocity": schedule.d_alpha(t) * data + schedule.d_sigma(t) * noise,
        }

    def data(self, schedule, x, t):
        """E[x_0 | x_t = x] for a tensor x [B, dims]."""
        gain, offset = self.affine(schedule, t)
        return torch.from_numpy(gain).to(x) * x + torch.from_numpy(offset).to(x)

    def flow(self, schedule, x, s, t):
        """Where the probability flow takes x from time s to time t."""
        mean_s, v_s = self.marginal(schedule, s)
        mean_t, v_t = self.marginal(schedule, t)
        return mean_t + np.sqrt(v_t / v_s) * (np.asarray(x) - mean_s)

    def reverse_sde(self, schedule, shift, excess, s, t, eta=1.0):
        """Mean and variance at t of dx = [f x - (1 + eta^2)/2 g^2 score] dt + eta g dW.

        From N(mean_s + shift, v_s + excess) at s. A shift of the mean obeys
        d log(shift)/dt = f + (1 + eta^2) g^2 / (2 v), an excess of the variance twice that.
        """
        mean_t, v_t = self.marginal(schedule, t)
        _, v_s = self.marginal(schedule, s)
        alphas = schedule.alpha(s) / schedule.alpha(t)
        decay = (v_t / v_s) ** ((1 + eta**2) / 2) * alphas ** (eta**2)
        return mean_t + decay * shift, v_t + decay**2 * excess


@dataclass(frozen=True)
class Mixture:
    """x_0 from a mixture of isotropic Gaussians: not linear, so its flow is integrated."""

    means: tuple[tuple[float, ...], ...] = ((-1.0, 0.4), (0.8, -0.6), (0.3, 1.2))
    stds: tuple[float, ...] = (0.5, 0.6, 0.4)
    weights: tuple[float, ...] = (0.5, 0.3, 0.2)

    def data(self, schedule, x, t):
        """E[x_0 | x_t = x] for a tensor x [B, dims]."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        means = torch.tensor(self.means).to(x)
        c2 = torch.tensor(self.stds).to(x) ** 2
        v = alpha**2 * c2 + sigma**2
        apart = x[:, None, :] - alpha * means
        logits = torch.tensor(self.weights).to(x).log() - x.shape[1] / 2 * v.log()
        posterior = torch.softmax(logits - apart.square().sum(-1) / (2 * v), -1)
        each = means + (alpha * c2 / v)[:, None] * apart
        return (posterior[..., None] * each).sum(1)

    def flow(self, schedule, x, s, t):
        """The probability flow from s to t to 1e-12 (DOP853)."""
        shape = np.asarray(x).shape

        def slope(time, flat):
            state = torch.from_numpy(flat.reshape(shape))
            return output(self, schedule, "velocity", state, time).numpy().reshape(-1)

        flat = np.asarray(x, dtype=np.float64).reshape(-1)
        solution = solve_ivp(slope, (s, t), flat, method="DOP853", rtol=1e-12, atol=1e-13)
        assert solution.success
        return solution.y[:, -1].reshape(shape)


def output(distribution, schedule, predicts, x, t, sigma_data=0.5):
    """What an ideal network of that kind returns at the state x, from the definitions."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    data = distribution.data(schedule, x, t)
    noise = (x - alpha * data) / sigma
    if predicts == "data":
        return data
    if predicts == "noise":
        return noise
    if predicts == "velocity":
        return schedule.d_alpha(t) * data + schedule.d_sigma(t) * noise
    if predicts == "v":
        return alpha * noise - sigma * data
    if predicts == "score":
        return -noise / sigma
    assert predicts == "edm"
    r = sigma / alpha  # Karras et al. 2022, table 1, for the state x / alpha
    c_skip = sigma_data**2 / (r**2 + sigma_data**2)
    c_out = r * sigma_data / math.sqrt(r**2 + sigma_data**2)
    return (data - c_skip * x / alpha) / c_out


def network(distribution, schedule, predicts, data_at=0, sigma_data=0.5):
    """An ideal network, fed "unit" time (and EDM's scaled state)."""

    def net(x, t):
        assert bool((t == t[0]).all())
        time = 1.0 - float(t[0]) if data_at == 1 else float(t[0])
        if predicts == "edm":
            x = x * math.hypot(schedule.sigma(time), schedule.alpha(time) * sigma_data)
        result = output(distribution, schedule, predicts, x, time, sigma_data)
        return -result if predicts == "velocity" and data_at == 1 else result

    return net


def propagate(plan, gaussian, mean, variance):
    """Exact mean and variance of the plan's result for a Gaussian initial state and data.

    The plan is linear and the denoiser affine, so every value is c_0 + c_x x + sum_j c_j z_j.
    """
    schedule, dims = plan.schedule, len(gaussian.mean)
    lets = [i for i in plan.instructions if isinstance(i, Let)]
    draws = sorted({s for i in lets for s in i.form.terms if isinstance(s, Normal)})
    column = {draw: 2 + j for j, draw in enumerate(draws)}

    def unit(j):
        coefficients = np.zeros((2 + len(draws), dims))
        coefficients[j] = 1
        return coefficients

    def quantity(symbol):
        e = plan.evaluations[symbol.evaluation]
        return gaussian.predictions(schedule, e.time, values[e.x])[symbol.quantity]

    values = {Value(0): unit(1)}
    for i in plan.instructions:
        if isinstance(i, Let):
            total = np.zeros((2 + len(draws), dims))
            for symbol, c in i.form.terms.items():
                if isinstance(symbol, Value):
                    total += c * values[symbol]
                elif isinstance(symbol, Prediction):
                    total += c * quantity(symbol)
                else:
                    total += c * unit(column[symbol])
            values[i.value] = total
        else:
            assert not isinstance(i, Evaluate) or i.x in values
    constant, x, *noises = values[plan.result]
    return constant + x * mean, x**2 * variance + sum(z**2 for z in noises)


def slope(counts, errors):
    """The order of convergence: minus the slope of log error against log count."""
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]
