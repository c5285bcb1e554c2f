"""diffusers' schedulers and ours, side by side, over whole loops with the same seeds."""

import inspect
import warnings

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
import fastgen.integrations.diffusers as drop_in  # noqa: E402

SHAPE = (2, 3, 6, 5)
_weights = torch.Generator().manual_seed(0)
MIX = torch.randn(3, 3, generator=_weights) / 2


def trained(length):
    """Betas that no schedule has by name."""
    return torch.linspace(0.01, 0.15, length).square().tolist()


TRAINING = {
    "num_train_timesteps": [1000, 400],
    "beta_start": [0.0001, 0.0004],
    "beta_end": [0.02, 0.012],
    "trained_betas": [None, trained(1000)],
}
BETAS = TRAINING | {"beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2"]}
CHAIN = BETAS | {
    "clip_sample": [False, True],
    "clip_sample_range": [1.0, 0.7],
    "set_alpha_to_one": [True, False],
    "steps_offset": [0, 1],
    "prediction_type": ["epsilon", "sample", "v_prediction"],
    "timestep_spacing": ["leading", "trailing"],
    "rescale_betas_zero_snr": [False, True],
}
THRESHOLD = {
    "thresholding": [False, True],
    "sample_max_value": [1.0, 1.5],
    "dynamic_thresholding_ratio": [0.995, 0.9],
}
# With squared cosines sigma starts at 20000, and float32 there leaves diffusers no 1e-5: those are
# compared with its loops in float64 (test_diffusers_float64.py).
SIGMAS = TRAINING | {
    "beta_schedule": ["linear", "scaled_linear"],
    "use_karras_sigmas": [False, True],
    "use_exponential_sigmas": [False, True],
    "use_beta_sigmas": [False, True],
    "prediction_type": ["epsilon", "v_prediction", "sample"],
    "timestep_spacing": ["linspace", "leading", "trailing"],
    "steps_offset": [0, 1],
}
SOLVERS = (
    SIGMAS
    | THRESHOLD
    | {
        "prediction_type": ["epsilon", "sample", "v_prediction", "flow_prediction"],
        "use_flow_sigmas": [False, True],
        "flow_shift": [1.0, 3.0],
        "use_dynamic_shifting": [False, True],
        "lower_order_final": [True, False],
    }
)
DPM = SOLVERS | {
    "solver_order": [2, 1, 3],
    "algorithm_type": ["dpmsolver++", "sde-dpmsolver++", "dpmsolver"],
    "solver_type": ["midpoint", "heun"],
    "final_sigmas_type": ["zero", "sigma_min"],
    "lambda_min_clipped": [-float("inf"), -5.1],
}
EDM = {
    "num_train_timesteps": [1000, 400],
    "sigma_min": [0.002, 0.01],
    "sigma_max": [80.0, 20.0],
    "sigma_data": [0.5, 1.0],
    "sigma_schedule": ["karras", "exponential"],
    "prediction_type": ["epsilon", "v_prediction"],
    "rho": [7.0, 5.0],
    "final_sigmas_type": ["zero", "sigma_min"],
}
# These make their tables for the whole chain when constructed: a short one is quicker.
SHORT = {"num_train_timesteps": [100], "trained_betas": [None, trained(100)]}
CHURN = {
    "s_churn": [0.0, 3.0],
    "s_noise": [1.0, 1.1],
    "s_tmin": [0.0, 0.5],
    "s_tmax": [float("inf"), 5.0],
}
FLOW = {
    "num_train_timesteps": [1000, 400],
    "shift": [1.0, 3.0],
    "use_dynamic_shifting": [False, True],
    "time_shift_type": ["exponential", "linear"],
    "invert_sigmas": [False, True],
    "shift_terminal": [None, 0.1],
    "use_karras_sigmas": [False, True],
    "use_exponential_sigmas": [False, True],
    "use_beta_sigmas": [False, True],
    "stochastic_sampling": [False, True],
}
# Scheduler: options of its configuration, options of its step.
OPTIONS = {
    "DDPMScheduler": (
        {k: v for k, v in (CHAIN | THRESHOLD).items() if k != "set_alpha_to_one"}
        | {
            "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"],
            "variance_type": ["fixed_small", "fixed_small_log", "fixed_large"],
            "timestep_spacing": ["leading", "trailing", "linspace"],
        },
        {},
    ),
    "DDIMScheduler": (
        CHAIN | THRESHOLD,
        {"eta": [0.0, 0.5, 1.0], "use_clipped_model_output": [False, True]},
    ),
    "DDIMInverseScheduler": (CHAIN, {}),
    "PNDMScheduler": (
        BETAS
        | {
            "skip_prk_steps": [False, True],
            "set_alpha_to_one": [False, True],
            "prediction_type": ["epsilon", "v_prediction"],
            "timestep_spacing": ["leading", "trailing"],
            "steps_offset": [0, 1],
        },
        {},
    ),
    "LMSDiscreteScheduler": (SIGMAS, {"order": [4, 1, 2, 3]}),
    "EulerDiscreteScheduler": (
        SIGMAS
        | {
            "interpolation_type": ["linear", "log_linear"],
            "timestep_type": ["discrete", "continuous"],
            "sigma_min": [None, 0.05],
            "sigma_max": [None, 20.0],
            "rescale_betas_zero_snr": [False, True],
            "final_sigmas_type": ["zero", "sigma_min"],
        },
        CHURN,
    ),
    "EulerAncestralDiscreteScheduler": (
        {k: v for k, v in SIGMAS.items() if not k.startswith("use_")}
        | {"rescale_betas_zero_snr": [False, True]},
        {},
    ),
    "HeunDiscreteScheduler": (
        SIGMAS | SHORT | {"clip_sample": [False, True], "clip_sample_range": [1.0, 0.7]},
        {},
    ),
    "KDPM2DiscreteScheduler": (SIGMAS | SHORT, {}),
    "KDPM2AncestralDiscreteScheduler": (SIGMAS | SHORT, {}),
    "DPMSolverMultistepScheduler": (
        DPM
        | {
            "algorithm_type": ["dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver"],
            "euler_at_final": [False, True],
            "use_lu_lambdas": [False, True],
            "rescale_betas_zero_snr": [False, True],
        },
        {},
    ),
    "DPMSolverSinglestepScheduler": (
        {k: v for k, v in DPM.items() if k not in ("timestep_spacing", "steps_offset")},
        {},
    ),
    "DPMSolverSDEScheduler": (
        SIGMAS | SHORT | {"noise_sampler_seed": [3]},
        {"s_noise": [1.0, 0.8]},
    ),
    "DEISMultistepScheduler": (
        SOLVERS
        | {
            "solver_order": [2, 1, 3],
            "algorithm_type": ["deis", "dpmsolver"],
            "solver_type": ["logrho", "midpoint"],
        },
        {},
    ),
    "UniPCMultistepScheduler": (
        SOLVERS
        | {
            "solver_order": [2, 1, 3, 4],
            "solver_type": ["bh2", "bh1"],
            "predict_x0": [True, False],
            "disable_corrector": [[], [0, 2]],
            "shift_terminal": [None, 0.1],
            "sigma_min": [None, 0.05],
            "sigma_max": [None, 20.0],
            "final_sigmas_type": ["zero", "sigma_min"],
            "rescale_betas_zero_snr": [False, True],
        },
        {},
    ),
    "SASolverScheduler": (
        {k: v for k, v in SOLVERS.items() if k != "use_dynamic_shifting"}
        | {
            "predictor_order": [2, 1],
            "corrector_order": [2, 1],
            "algorithm_type": ["data_prediction", "noise_prediction"],
            "tau_func": [None, lambda t: 0.3 if 100 <= t <= 700 else 0.0],
            "lambda_min_clipped": [-float("inf"), -5.1],
        },
        {},
    ),
    "IPNDMScheduler": (
        # Its betas are the sigmas of x = alpha x0 + sigma eps.
        {
            "num_train_timesteps": [1000, 400],
            "trained_betas": [None, torch.linspace(0.01, 0.99, 1000).tolist()],
        },
        {},
    ),
    "EDMEulerScheduler": (EDM, CHURN),
    "EDMDPMSolverMultistepScheduler": (
        EDM
        | THRESHOLD
        | {
            "solver_order": [2, 1, 3],
            "algorithm_type": ["dpmsolver++", "sde-dpmsolver++"],
            "solver_type": ["midpoint", "heun"],
            "lower_order_final": [True, False],
            "euler_at_final": [False, True],
        },
        {},
    ),
    "FlowMatchEulerDiscreteScheduler": (
        FLOW,
        # Accepted and read by nothing, in diffusers too.
        {"s_churn": [0.0, 3.0], "s_noise": [1.0, 1.1], "s_tmin": [0.0, 0.5], "s_tmax": [1.0]},
    ),
    "FlowMatchHeunDiscreteScheduler": (
        {"num_train_timesteps": [1000, 400], "shift": [1.0, 3.0]},
        CHURN,
    ),
    "LCMScheduler": (
        CHAIN | THRESHOLD | {"timestep_scaling": [10.0, 2.0], "original_inference_steps": [50, 40]},
        {},
    ),
    "TCDScheduler": (
        CHAIN | THRESHOLD | {"timestep_scaling": [10.0, 2.0], "original_inference_steps": [50, 40]},
        {"eta": [0.3, 0.0, 1.0]},
    ),
    "CMStochasticIterativeScheduler": (
        {
            "num_train_timesteps": [40, 20],
            "sigma_min": [0.002, 0.01],
            "sigma_max": [80.0, 20.0],
            "rho": [7.0, 5.0],
            "clip_denoised": [True, False],
            "s_noise": [1.0, 0.8],
            "sigma_data": [0.5, 1.0],
        },
        {},
    ),
    "UnCLIPScheduler": (
        {
            "num_train_timesteps": [1000, 400],
            "clip_sample": [False, True],
            "clip_sample_range": [1.0, 0.7],
            "prediction_type": ["epsilon", "sample"],
        },
        {},
    ),
    "CosineDPMSolverMultistepScheduler": (
        # To sigma_min its last step, from there to there, is not a number in diffusers.
        {k: v for k, v in EDM.items() if k != "final_sigmas_type"}
        | {
            "sigma_min": [0.3, 0.1],
            "sigma_max": [500.0, 80.0],
            "solver_order": [2, 1],
            "solver_type": ["midpoint", "heun"],
            "lower_order_final": [True, False],
            "euler_at_final": [False, True],
        },
        {},
    ),
    "FlowMatchLCMScheduler": (
        {k: v for k, v in FLOW.items() if k != "stochastic_sampling"},
        {},
    ),
    "LTXEulerAncestralRFScheduler": (
        {"num_train_timesteps": [1000, 400], "eta": [1.0, 0.0, 0.6], "s_noise": [1.0, 0.8, 0.0]},
        {},
    ),
    "FlowMapEulerDiscreteScheduler": (
        {"num_train_timesteps": [1000, 400], "shift": [1.0, 3.0]},
        {},
    ),
    "MiniMaxH3Scheduler": ({"shift": [1.0, 3.0]}, {}),
}
OPTIONS |= {
    "DDPMParallelScheduler": OPTIONS["DDPMScheduler"],
    "DDIMParallelScheduler": OPTIONS["DDIMScheduler"],
    "CogVideoXDDIMScheduler": (
        CHAIN | {"snr_shift_scale": [3.0, 1.0], "sample_max_value": [1.0, 1.5]},
        # Accepted and read by nothing, in diffusers too.
        {"eta": [0.0, 0.5], "use_clipped_model_output": [False, True]},
    ),
    "DPMSolverMultistepInverseScheduler": (
        {
            k: v
            for k, v in OPTIONS["DPMSolverMultistepScheduler"][0].items()
            if k
            not in (
                "final_sigmas_type",
                "rescale_betas_zero_snr",
                "use_dynamic_shifting",
                "use_lu_lambdas",
            )
        }
        | {"algorithm_type": ["dpmsolver++", "dpmsolver"]},
        {},
    ),
}

# Where diffusers' coefficients, differences of large float32 numbers, are off themselves; there
# its formulas in float64 decide (test_diffusers_float64.py). How much wider than 1e-5.
PEER_ROUNDS = {
    name: lambda config: 10 if config.get("rescale_betas_zero_snr") else 1  # sigma from 4096 on
    for name in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
} | {
    # With eta its 1 - alpha_bar - deviation^2 cancels in float32; ours is 2e-7 from float64 there.
    "DDIMScheduler": lambda config: (
        30
        if config.get("beta_schedule") == "squaredcos_cap_v2"
        and config.get("timestep_spacing") == "trailing"
        else 1
    ),
    "DEISMultistepScheduler": lambda config: (
        100 if config.get("use_flow_sigmas") or config.get("use_beta_sigmas") else 2
    ),
    # Its first steps divide by sigma = 0.01; ours is 2e-7 from its formulas in float64.
    "DPMSolverMultistepInverseScheduler": lambda config: 30,
    "UniPCMultistepScheduler": lambda config: 10 if config.get("solver_order", 2) > 2 else 1,
    "SASolverScheduler": lambda config: (
        1000
        if config.get("use_flow_sigmas") and config.get("algorithm_type") == "noise_prediction"
        else 1
    ),
}


def network(x, t):
    """A smooth network of x [B, 3, ...] and one time."""
    phase = torch.sin(torch.as_tensor(float(t)) / 300).to(x)
    return torch.tanh(torch.einsum("ij,bj...->bi...", MIX.to(x), x) + phase) / 2 + 0.3 * x


def run(scheduler, steps, step_options=None, dtype=torch.float32, net=network, grid=None):
    """A whole loop: the states, the second results and the generator's state afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grid = grid or {"num_inference_steps": steps}
        if scheduler.config.get("use_dynamic_shifting"):
            grid = grid | {"mu": 0.8}
        scheduler.set_timesteps(**grid)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)).to(dtype)
    x = x * float(getattr(scheduler, "init_noise_sigma", 1.0))
    generator = torch.Generator().manual_seed(9)
    options = dict(step_options or {})
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = generator
    states, others = [], []
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        result = scheduler.step(net(scaled, t), t, x, return_dict=False, **options)
        x = result[0]
        states.append(x)
        others.append(result[1] if len(result) > 1 else None)
    return states, others, generator.get_state()


def quietly(function, *args, **options):
    """The result, or the error; without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*args, **options), None
        except Exception as error:
            return None, error


def relative(mine, theirs):
    """Largest difference, relative to the largest value."""
    return ((mine.double() - theirs.double()).abs().max() / theirs.double().abs().max()).item()


def compare(name, config, step_options=None, steps=8, tolerance=1e-5, **options):
    """Compare both loops; False where diffusers has no answer: ours is then an error or finite."""
    theirs, error = quietly(getattr(diffusers, name), **config)
    if error is not None:
        _, mine = quietly(getattr(drop_in, name), **config)
        assert type(mine) is type(error), f"{error!r}, but {mine!r}"
        return False
    expected, error = quietly(run, theirs, steps, step_options, **options)
    mine = getattr(drop_in, name)(**config)
    if error is not None:
        _, own = quietly(run, mine, steps, step_options, **options)
        # A ValueError that says why, or a result where diffusers stumbles over its own names.
        # Grids with a first timestep twice start at the second, and run over the end: IndexError.
        stumbles = isinstance(error, (RuntimeError, UnboundLocalError)) and own is None
        known = isinstance(own, (ValueError, IndexError, type(error)))
        assert stumbles or known, f"{error!r}, but {own!r}"
        return False
    if not all(x.isfinite().all() for x in expected[0]):
        result, own = quietly(run, mine, steps, step_options, **options)
        assert isinstance(own, ValueError) or result is not None
        return False
    found = run(mine, steps, step_options, **options)
    tolerance *= PEER_ROUNDS.get(name, lambda config: 1)(config)
    assert len(found[0]) == len(expected[0])
    assert [x.dtype for x in found[0]] == [x.dtype for x in expected[0]]
    difference = relative(found[0][-1], expected[0][-1])
    assert difference < tolerance, f"{name} {config} {step_options}: {difference:.1e}"
    assert torch.equal(found[2], expected[2]), "the generators were used differently"
    for own, peer in zip(found[1], expected[1], strict=True):
        assert (own is None) == (peer is None)
    return True
