"""Valid calls of the public API: a function and its arguments, of which some are replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch

import fastgen
import fastgen.integrations.diffusers as schedulers
import fastgen.integrations.torchcfm as torchcfm
import fastgen.integrations.torchdiffeq as torchdiffeq
from fastgen import couplings, kernels, networks, schedules, timesteps, training
from fastgen.common import compiled_calls
from fastgen.generation.run import made_task
from fastgen.integrations.k_diffusion import sampling as k_diffusion
from fastgen.schedules import CosineVP, DiscreteVP, LinearVP
from tests.modes.entries import denoiser, field, model, network, noise_like, observed, sampler
from tests.modes.modes import states
from tests.support.compiling import without_compiler

Call = tuple[Callable[..., Any], dict[str, Any]]
TARGETS: dict[str, Callable[[], Call]] = {}


def target(make: Callable[[], Call]) -> Callable[[], Call]:
    """Decorator: puts a call into the table, by its own name."""
    TARGETS[make.__name__] = make
    return make


@target
def sample():
    return fastgen.sample, {
        "model": model(), "shape_or_x": (3, 6), "solver": "ddim", "steps": 3, "seed": 1,
        "sample_ids": [0, 1, 2], "device": "cpu", "trajectory": False, "callback": None,
        "progress": False, "check_finite": False, "differentiable": False, "checkpoint": False,
        "guidance": None, "transform": None, "noise": "draws", "dtype": torch.float32,
        "backend": None, "net_kwargs": {"shift": 0.2}, "timesteps": "uniform", "start": 0.9,
        "end": 0.0, "clip": (-2.0, 2.0), "eta": 0.5,
    }  # fmt: skip


@target
def sample_from_state():
    return fastgen.sample, {
        "model": model(), "shape_or_x": states(), "solver": "dpmpp_2m", "steps": 3, "start": 0.9,
    }  # fmt: skip


@target
def sample_dopri5():
    return fastgen.sample, {
        "model": model(), "shape_or_x": states(), "solver": "dopri5", "start": 0.9, "end": 0.1,
        "rtol": 1e-3, "atol": 1e-3, "max_steps": 1000, "dtype": torch.float32, "net_kwargs": None,
    }  # fmt: skip


@target
def sample_dpm_adaptive():
    return fastgen.sample, {
        "model": model(), "shape_or_x": states(), "solver": "dpm_adaptive", "start": 0.9,
        "rtol": 0.05, "atol": 0.0078, "order": 3, "max_steps": 200,
    }  # fmt: skip


@target
def sampler_call():
    return sampler(), {
        "shape_or_x": states(), "seed": 3, "sample_ids": [4, 5, 6], "device": None,
        "trajectory": True, "check_finite": True, "shift": 0.3,
    }  # fmt: skip


@target
def sampler_made():
    return fastgen.Sampler, {
        "model": model(), "plan": fastgen.plan("ddim", LinearVP(), 3), "guidance": None,
        "transform": None, "noise": "draws", "dtype": torch.float32, "backend": "auto",
    }  # fmt: skip


@target
def captured():
    return sampler().capture, {"shape": (3, 6), "device": None, "warmup": 1, "shift": 0.2}


@target
def compiled():
    """Traced as it is; the compiler behind it takes longer than a case may."""

    def compile(**arguments):
        with patch.object(compiled_calls, "_backend", lambda graph, inputs: graph.forward):
            return sampler().compile(**arguments)

    return compile, {"shape": (3, 6), "loop": False, "device": None, "shift": 0.2}


@target
def served():
    return sampler().serve, {
        "shape": (3, 6), "plans": (), "device": None, "capture": None, "previews": True,
        "shift": torch.zeros(3),
    }  # fmt: skip


@target
def admitted():
    return sampler().serve((3, 6)).admit, {"x": None, "seed": 3, "sample_id": 2, "plan": None}


@target
def posterior():
    return fastgen.posterior, {
        "model": model(), "observation": observed(states()), "shape": (3, 6), "method": "mmps",
        "solver": "ddpm", "steps": 3, "seed": 1, "sample_ids": [0, 1, 2], "guidance": None,
        "dtype": torch.float32, "device": "cpu", "net_kwargs": None,
    }  # fmt: skip


@target
def denoised():
    return fastgen.control.denoise, {
        "model": model(), "y": states(), "noise": 0.5, "steps": 3, "solver": "ddim", "seed": 1,
        "sample_ids": [0, 1, 2], "net_kwargs": None,
    }  # fmt: skip


@target
def scored():
    return fastgen.control.anomaly_score, {
        "model": model(), "x": states(), "score": "denoising", "reference": None,
        "net_kwargs": None, "levels": 2, "seed": 1,
    }  # fmt: skip


@target
def observed_mask():
    return fastgen.observations.Mask, {
        "known": states(), "mask": torch.arange(6) < 3, "noise": 0.1,
    }  # fmt: skip


@target
def observed_linear():
    return fastgen.observations.Linear, {
        "A": lambda x: x[:, :2], "A_transpose": None, "y": states()[:, :2], "noise": 0.1,
        "pseudo_inverse": None,
    }  # fmt: skip


@target
def generated():
    """All of `fastgen.generate` but the folder, which it would make wherever it is told to."""
    return made_task, {
        "sampler": sampler(), "shape": (6,), "count": 9, "seed": 1, "shard": 4, "batch": None,
        "format": "npz", "dtype": None, "limits": (-1.0, 1.0), "labels": list(range(9)),
        "label_name": "shift", "net_kwargs": None, "decode": None, "features": None,
    }  # fmt: skip


@target
def divergence_of_steps():
    own = sampler("ddpm")
    way = torch.stack([states() * (1 - 0.1 * k) for k in range(len(own.plan.states) + 1)])
    return fastgen.transition_divergence, {
        "sampler": own, "reference": own, "states": way, "differentiable": False,
        "checkpoint": False, "mask": None, "net_kwargs": None,
    }  # fmt: skip


@target
def steered():
    return fastgen.steer, {
        "model": model(), "plan": fastgen.plan("ddpm", LinearVP(), 3),
        "reward": lambda x: x.sum(1), "shape": (3, 6), "particles": 2, "resample": 0.5,
        "potential": "max", "scale": 1.0, "every": 1, "interval": (0.0, 1.0), "seed": 1,
        "sample_ids": [0, 1, 2], "guidance": None, "transform": None, "dtype": torch.float32,
        "device": "cpu", "net_kwargs": None,
    }  # fmt: skip


@target
def best():
    return fastgen.best_of, {
        "model": model(), "plan": fastgen.plan("ddim", LinearVP(), 3),
        "reward": lambda x: x.sum(1), "shape": (3, 6), "n": 2, "scale": 1.0, "seed": 1,
    }  # fmt: skip


@target
def inverted():
    return fastgen.invert, {"model": model(), "x": states(), "solver": "ddim", "steps": 3}


@target
def edited():
    return fastgen.flow_edit, {
        "model": model(), "x": states(), "steps": 3, "source": {}, "target": {},
        "source_guidance": None, "target_guidance": None, "start": 0.6, "end": 0.1,
        "timesteps": "uniform", "average": 1, "seed": 1, "sample_ids": [0, 1, 2],
    }  # fmt: skip


@target
def edited_through_noise():
    return fastgen.rf_inversion, {
        "model": model(), "x": states(), "steps": 3, "source": {}, "target": {},
        "source_guidance": None, "target_guidance": None, "gamma": 0.5, "eta": 0.9,
        "until": 0.5, "solver": "ddim", "timesteps": "uniform", "seed": 1,
        "sample_ids": [0, 1, 2], "dtype": torch.float32,
    }  # fmt: skip


@target
def restored_along_singular_vectors():
    return fastgen.control.DDRM, {"eta": 0.85, "eta_b": 1.0}


@target
def semantic_rule():
    return fastgen.rules.Semantic, {
        "quantile": 0.9, "warm_up": 0.1, "momentum": 0.2, "beta": 0.4,
    }  # fmt: skip


@target
def model_made():
    return fastgen.Model, {
        "net": network, "schedule": LinearVP(), "predicts": "noise", "time_input": "unit",
        "data_at": 0, "sigma_data": 0.5, "reuses_output": False, "learned_variance": False,
        "dtype": None,
    }  # fmt: skip


@target
def predicted():
    return model().predict, {"quantity": "data", "x": states(), "t": 0.5}


@target
def guidance():
    return fastgen.Guidance, {
        "scale": 2.0, "unconditional": {"shift": 0.0}, "interval": (0.1, 0.9), "rescale": 0.5,
        "batched": True, "network": None, "rule": "apg",
    }  # fmt: skip


@target
def plan():
    return fastgen.plan, {
        "solver": "unipc", "schedule": CosineVP(), "steps": 4, "timesteps": "uniform",
        "start": 0.9, "end": 0.01, "reverse": False, "clip": (-1, 1), "predicts": "noise",
        "order": 2,
    }  # fmt: skip


@target
def plan_of_a_grid():
    return fastgen.plan, {
        "solver": "ddim", "schedule": LinearVP(), "steps": 4, "timesteps": "karras", "rho": 7.0,
        "start": 0.9, "end": 0.01, "eta": 0.5,
    }  # fmt: skip


@target
def times():
    return timesteps.times, {
        "grid": "karras", "schedule": LinearVP(), "steps": 4, "start": 0.9, "end": 0.01, "rho": 7.0,
    }  # fmt: skip


for kind in (LinearVP, CosineVP, schedules.VE, schedules.EDM, schedules.SubVP):
    TARGETS[f"schedule_{kind.__name__}"] = lambda kind=kind: (
        kind,
        {f: getattr(kind(), f) for f in kind.__dataclass_fields__},
    )


@target
def schedule_discrete():
    return DiscreteVP, {"betas": torch.linspace(0.05, 0.5, 5, dtype=torch.float64)}


@target
def schedule_alpha():
    return LinearVP().alpha, {"t": 0.5}


@target
def randn():
    return fastgen.randn, {
        "mask": torch.tensor([[True], [False], [True]]),
        "shape": (3, 6), "seed": 1, "draw": 0, "sample_ids": [0, 1, 2], "dtype": torch.float32,
        "device": "cpu",
    }  # fmt: skip


@target
def brownian():
    return fastgen.brownian, {
        "shape": (3, 6), "times": [0.25, 0.5], "seed": 1, "sample_ids": [0, 1, 2], "tree": 0,
        "dtype": torch.float64, "device": "cpu",
    }  # fmt: skip


@target
def odeint():
    return fastgen.odeint, {
        "f": field, "y0": states(), "t": [0.0, 1.0], "rtol": 1e-4, "atol": 1e-5,
        "method": "dopri5", "step": "per_sample", "first_step": None, "max_step": None,
        "max_steps": 1000, "controller": "pi", "event": None, "gradient": "through",
        "on_failure": "raise", "return_solution": False, "backend": None, "capture": False,
    }  # fmt: skip


def prepared_and_solved(f, y0, t, **options):
    """What only C++ does, beside the reference's `odeint`; no compiler is called."""
    if os.environ.get("FASTGEN_BACKEND") == "reference":
        return fastgen.odeint(f, y0, t, gradient="none", **options)
    without_compiler(pytest.MonkeyPatch())  # for the rest of this process
    return fastgen.ode.compile_odeint(f, y0, t, **options)(y0)


@target
def odeint_prepared():
    return prepared_and_solved, {
        "f": field, "y0": states(), "t": [0.0, 1.0], "rtol": 1e-4, "atol": 1e-5,
        "method": "dopri5", "step": "per_sample", "first_step": None, "max_step": None,
        "max_steps": 1000, "controller": "pi",
    }  # fmt: skip


@target
def odeint_fixed():
    return fastgen.odeint, {
        "f": field, "y0": states(), "t": torch.tensor([0.0, 1.0]), "method": "rk4",
        "step_size": 0.25,
    }  # fmt: skip


@target
def sdeint():
    return fastgen.sdeint, {
        "f": field, "g": lambda t, y: 0.1 * y, "y0": states(), "t": [0.0, 1.0],
        "method": "milstein", "noise_type": "diagonal", "sde_type": "ito", "steps": 4,
        "dt": None, "adaptive": False, "seed": 1,
        "sample_ids": [0, 1, 2], "noise": None, "gradient": "through",
        "on_failure": "raise", "backend": None, "compile": False,
    }  # fmt: skip


@target
def log_likelihood():
    return fastgen.log_likelihood, {
        "model": model(), "x": states(), "divergence": "hutchinson", "probes": 1, "seed": 1,
        "sample_ids": [0, 1, 2], "method": "dopri5", "rtol": 1e-2, "atol": 1e-2, "start": 0.9,
        "end": 0.1, "prior": None, "dequantise": None, "chunk": 64, "dtype": torch.float32,
        "differentiable": False, "return_solution": False, "net_kwargs": None,
    }  # fmt: skip


@target
def sampled_log_probability():
    return fastgen.sampled_log_probability, {
        "plan": fastgen.plan("ddpm", LinearVP(), 3), "shape": (3, 6), "seed": 1,
        "sample_ids": [0, 1, 2], "noise": "draws", "device": "cpu",
    }  # fmt: skip


@target
def trajectory_log_probability():
    return fastgen.trajectory_log_probability, {
        "sampler": sampler("ddpm"), "states": torch.zeros(5, 3, 6), "differentiable": False,
        "checkpoint": False,
    }  # fmt: skip


@target
def variational_bound():
    schedule = DiscreteVP(torch.linspace(0.05, 0.5, 5, dtype=torch.float64))
    return fastgen.variational_bound, {
        "model": model(schedule=schedule), "x": states(), "variance": "small", "levels": 256,
        "seed": 1, "sample_ids": [0, 1, 2], "clip": None, "net_kwargs": None,
    }  # fmt: skip


@target
def trainer():
    def losses(**arguments):
        return torch.tensor(training.Trainer(**arguments).run(2))

    return losses, {
        "network": networks.MLP((6,), (4,)), "loss": training.Flow().loss, "data": states(),
        "settings": training.Settings(steps=2, batch=3), "labels": None, "description": None,
        "engine": None, "scaling": None, "validation": None, "schedule": None, "workers": 0,
        "on_corrupt": "raise",
    }  # fmt: skip


@target
def scaling():
    return lambda mean, deviation, data: training.Scaling(mean, deviation).encode(data), {
        "mean": [0.0] * 6, "deviation": [1.0] * 6, "data": states(),
    }  # fmt: skip


@target
def order():
    return lambda first, count, seed, labels: training.Order(5, seed, labels).at(first, count), {
        "first": 3, "count": 5, "seed": 1, "labels": torch.tensor([0, 1, 1, 2, 2]),
    }  # fmt: skip


@target
def combine():
    x = states()
    return kernels.combine, {
        "inputs": [x, x + 1], "table": torch.tensor([[[0.5, 0.25]]], dtype=torch.float64),
        "dtypes": [torch.float32], "clip": None, "noise": None,
    }  # fmt: skip


@target
def loss_denoising():
    return training.losses.denoising, {
        "model": model(), "data": states(), "t": torch.tensor([0.2, 0.5, 0.8]), "noise": None,
        "seed": 1, "step": 0, "sample_ids": None, "weighting": "simple", "reduction": "mean",
        "mask": torch.tensor([[True], [False], [True]]),
    }  # fmt: skip


@target
def path_sample():
    return training.paths.Linear().sample, {
        "x0": noise_like(states()), "x1": states(), "t": None, "seed": 1, "step": 0,
        "sample_ids": [0, 1, 2], "targets": ("velocity",), "coupling": None,
        "mask": torch.tensor([[True], [False], [True]]),
    }  # fmt: skip


@target
def coupling_exact():
    return couplings.ExactOT().pair, {"x0": noise_like(states()), "x1": states()}


@target
def assignment():
    return couplings.assign, {"cost": torch.rand(4, 4, generator=torch.Generator().manual_seed(1))}


@target
def sinkhorn():
    return couplings.sinkhorn, {"x0": noise_like(states()), "x1": states(), "reg": 0.5}


@target
def wasserstein():
    return fastgen.wasserstein, {"x0": noise_like(states()), "x1": states()}


@target
def network_mlp():
    return networks.MLP, {"shape": (6,), "widths": (8, 8), "activation": "selu", "outputs": 1}


@target
def diffusers_step():
    scheduler = schedulers.DDIMScheduler()
    scheduler.set_timesteps(4)
    return scheduler.step, {
        "model_output": states(), "timestep": scheduler.timesteps[0], "sample": states(),
        "eta": 0.0, "generator": None,
    }  # fmt: skip


@target
def tuned():
    return fastgen.tune, {
        "model": model(), "shape": (6,), "nfe": None, "base": fastgen.plan("ddim", LinearVP(), 2),
        "what": "both", "optimiser": "gauss_newton", "iterations": 2, "samples": 32, "held_out": 16,
        "batch": 16, "seed": 9, "guidance": None, "net_kwargs": {"shift": 0.2}, "start": None,
        "end": 0.0, "clip": None, "dtype": torch.float32, "teacher": "unipc", "teacher_steps": 12,
        "rtol": 1e-4, "ridge": 1e-5, "rate": 0.3, "loss": "norm", "features": None,
        "relaxation": 0.0, "patience": 4, "checkpoint": False, "report": False,
    }  # fmt: skip


@target
def raced():
    return fastgen.race, {
        "model": model(), "shape": (6,), "nfe": 3, "solvers": ["ddim", "heun"],
        "timesteps": ["uniform"], "samples": 16, "batch": 16, "seed": 9, "guidance": None,
        "net_kwargs": None, "start": 0.99, "end": 0.0, "clip": None, "dtype": torch.float32,
        "teacher": "unipc", "rtol": 1e-4,
    }  # fmt: skip


@target
def diffusers_timesteps():
    return schedulers.UniPCMultistepScheduler().set_timesteps, {"num_inference_steps": 4}


@target
def k_diffusion_sample():
    return k_diffusion.sample_euler, {
        "model": denoiser, "x": states(), "sigmas": torch.tensor([2.0, 1.0, 0.0]),
        "extra_args": None, "callback": None, "disable": True, "s_churn": 0.0,
    }  # fmt: skip


@target
def torchdiffeq_odeint():
    return torchdiffeq.odeint, {
        "func": field, "y0": states(), "t": torch.tensor([0.0, 1.0]), "rtol": 1e-4, "atol": 1e-5,
        "method": "dopri5", "options": None, "event_fn": None,
    }  # fmt: skip


@target
def torchcfm_matcher():
    matcher = torchcfm.ConditionalFlowMatcher(sigma=0.1)
    return matcher.sample_location_and_conditional_flow, {
        "x0": noise_like(states()), "x1": states(), "t": None, "return_noise": False,
    }  # fmt: skip
