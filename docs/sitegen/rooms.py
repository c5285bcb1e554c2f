"""How the reference is laid out: rooms of the package, and the groups of names within each."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, get_origin

import fastgen
from fastgen.common.options import Configurable

# Not for users of the library: the command line and the demonstration have pages of their own.
HIDDEN = {"__main__", "cli", "common", "demo", "integrations", "_C"}


@dataclass(frozen=True)
class Room:
    """A module with a page, and the headings under which its names stand.

    A name that no group holds stands under "More" at the end, so that none is ever missing.
    """

    module: str
    title: str
    groups: dict[str, list[str]] = field(default_factory=dict)
    picture: str = ""
    caption: str = ""


LAID_OUT = [
    Room(
        "fastgen",
        "fastgen: the names most programs need",
        {
            "Sampling": ["sample", "Sampler", "Parallel", "Step", "generate"],
            "Edits": ["invert", "Inversion", "flow_edit", "rf_inversion"],
            "Observations": ["posterior"],
            "Rewards": ["steer", "best_of"],
            "What is sampled": ["Model", "Guidance", "Latent"],
            "Plans": ["plan", "Plan", "race", "tune"],
            "Differential equations": ["odeint", "sdeint"],
            "Noise": ["randn", "interpolate", "brownian", "BrownianPath"],
            "Likelihoods": [
                "log_likelihood",
                "variational_bound",
                "trajectory_log_probability",
                "sampled_log_probability",
                "transition_divergence",
                "log_ratio",
            ],
            "Distances": ["wasserstein"],
        },
    ),
    Room("fastgen.model", "model: networks and guidance"),
    Room(
        "fastgen.rules",
        "rules: how guidance combines outputs",
        {
            "Published rules": [
                "CFG",
                "Rescale",
                "APG",
                "TCFG",
                "ZeroStar",
                "MagnitudeAware",
                "PerpNeg",
                "Semantic",
                "FrequencyDecoupled",
            ],
            "Your own": [
                "OfGram",
                "Pair",
                "Rule",
                "Branches",
                "Combined",
                "Space",
                "rescaled",
                "rule_of",
                "NAMES",
            ],
        },
    ),
    Room(
        "fastgen.observations",
        "observations: what is known of a sample",
        {
            "What was observed": ["Mask", "Linear", "Nonlinear", "Gaussian", "Poisson"],
            "Linear maps": [
                "average_pool",
                "blur",
                "gaussian_blur",
                "matrix",
                "radon",
                "random_projection",
                "real_time_chunk",
                "Operator",
            ],
            "Models given an observation": ["conditioned"],
            "Methods": [
                "MMPS",
                "TMPD",
                "PiGDM",
                "DPS",
                "DDNM",
                "DiffPIR",
                "Replacement",
                "METHODS",
            ],
            "Your own": ["Method", "Point", "Local", "Observation", "Noise"],
        },
    ),
    Room("fastgen.control", "control: samples that follow observations and rewards"),
    Room(
        "fastgen.schedules",
        "schedules: alpha and sigma of a process",
        {
            "Variance preserving": ["CosineVP", "LinearVP", "SubVP", "Trig", "DiscreteVP"],
            "Variance exploding": ["EDM", "VE"],
            "Flow matching": ["Rectified", "dynamic_shift"],
            "Your own": ["Schedule", "UserSchedule", "register", "names", "from_config"],
        },
    ),
    Room(
        "fastgen.timesteps",
        "timesteps: grids of times",
        {
            "Asking for times": ["times", "names", "options", "get", "register", "Grid", "Times"],
            "Even in time": [
                "uniform",
                "quadratic",
                "sgm_uniform",
                "normal",
                "linear_quadratic",
                "beta",
            ],
            "Even in noise": [
                "karras",
                "log_snr",
                "exponential",
                "polyexponential",
                "kl_optimal",
            ],
            "Of discrete levels": ["leading", "linspace", "trailing"],
            "Tables": ["ays", "gits", "table"],
        },
        picture="figures/drawn/grids.svg",
        caption="Twelve steps of every grid on the linear VP schedule, in time and in noise; "
        "those of discrete levels on 1000 levels of it.",
    ),
    Room(
        "fastgen.solvers",
        "solvers: the table, and your own",
        {
            "The table": ["names", "get", "Solver", "plan"],
            "Your own": ["register", "runge_kutta", "Tableau", "with_churn"],
            "Error-controlled methods": [
                "dopri5",
                "tsit5",
                "dopri8",
                "bosh3",
                "fehlberg45",
                "fehlberg2",
                "adaptive_heun",
                "dpm_adaptive",
                "ErrorControlled",
            ],
            "By name": list(fastgen.solvers.names()),
        },
    ),
    Room(
        "fastgen.plans",
        "plans: what a solver does",
        {
            "A plan": ["Plan", "Canonical", "Stage", "Program"],
            "Recording one": ["Builder", "Form", "Predictions", "MissingLimitError"],
        },
    ),
    Room("fastgen.sampling", "sampling: running plans"),
    Room(
        "fastgen.generation",
        "generation: sets of samples in folders",
        {
            "A set": ["generate", "Generated", "Block", "Place", "FORMATS"],
            "Statistics": [
                "Features",
                "Statistics",
                "stored_statistics",
                "Moments",
                "frechet",
                "frechet_distance",
                "precision_recall",
            ],
        },
    ),
    Room("fastgen.fitting", "fitting: plans made for one network"),
    Room("fastgen.noise", "noise: normals and Brownian motions"),
    Room(
        "fastgen.ode",
        "ode: error-controlled integration",
        {
            "Solving": ["odeint", "METHODS", "Controller", "Execution"],
            "What comes back": ["Solution", "Statistics", "Status"],
            "Events": ["Event", "Crossing"],
            "Gradients": ["Adjoint", "Through"],
        },
    ),
    Room("fastgen.sde", "sde: stochastic differential equations"),
    Room("fastgen.likelihood", "likelihood: log-densities"),
    Room(
        "fastgen.couplings",
        "couplings: optimal transport",
        {
            "Exact": ["assign", "Assignment", "wasserstein"],
            "Entropic": [
                "sinkhorn",
                "SinkhornResult",
                "SinkhornError",
                "sinkhorn_divergence",
                "sample_pairs",
                "round_to_permutation",
            ],
            "For training": [
                "Coupling",
                "Independent",
                "ExactOT",
                "Sinkhorn",
                "Sorted",
                "Hilbert",
                "ByLabel",
                "NamedCoupling",
                "LargeCoupling",
                "Semidiscrete",
                "GlobalBatch",
            ],
            "Data loaders": ["PairingCollate", "paired_batches"],
        },
    ),
    Room(
        "fastgen.training",
        "training: a trainer and its objectives",
        {
            "The trainer": ["Trainer", "Settings", "Batch", "Trained", "load", "describe"],
            "Around it": ["Engine", "Scaling", "Order"],
            "Objectives": ["Flow", "Denoising", "LatentScore", "Autoencoding"],
            "Reflow": ["reflow", "Pairs"],
        },
    ),
    Room(
        "fastgen.training.paths",
        "training.paths: probability paths",
        {
            "Paths": [
                "Path",
                "Linear",
                "Scheduled",
                "Brownian",
                "Encoded",
                "Interpolant",
                "FlatTorus",
                "Sphere",
            ],
            "What they give": ["PathSample", "Target", "TARGETS", "drift_weight"],
        },
    ),
    Room(
        "fastgen.training.losses",
        "training.losses: losses",
        {
            "Flows": [
                "flow_matching",
                "variational_flow_matching",
                "score_and_flow_matching",
                "latent_cross_entropy",
            ],
            "Few steps": ["consistency", "mean_flow", "shortcut", "interval_ends", "Boundary"],
            "Scores": ["denoising", "explicit", "implicit", "sliced", "annealed"],
            "Bounds": ["evidence_bound", "hybrid", "bits_per_dimension", "score_prior_bound"],
            "Weights": ["WEIGHTINGS", "min_snr", "sigmoid"],
        },
    ),
    Room("fastgen.training.times", "training.times: where times are drawn"),
    Room(
        "fastgen.networks",
        "networks: small ones to start with",
        {
            "Networks": ["MLP", "ModulatedMLP", "UNet", "DiT", "Embedding", "Network"],
            "Autoencoders": ["VAE", "ScoreVAE", "Posterior"],
            "By name": ["names", "register", "from_config", "to_config"],
        },
    ),
    Room(
        "fastgen.datasets",
        "datasets: data to train on",
        {
            "In the plane": ["eight_gaussians", "moons", "checkerboard", "s_curve", "SETS"],
            "Digits": ["load_digits", "Digits", "Part", "CLASSES"],
            "Files": ["load", "Data", "SAMPLES"],
            "On a disk": ["stored", "Arrays", "Images", "Items", "Shards"],
        },
    ),
    Room(
        "fastgen.plots",
        "plots: pictures on matplotlib",
        {
            "Samples": ["samples", "sheet", "trajectories", "TrainingSheets"],
            "Models": ["vector_field", "likelihood"],
            "Solvers and couplings": ["quality", "pairing"],
        },
    ),
    Room(
        "fastgen.kernels",
        "kernels: the fused operations",
        {
            "A stage": ["combine", "stochastic_combine", "bind_stochastic", "BACKENDS"],
            "Noise": ["normals", "brownian", "Noise", "Stream"],
            "A training batch": ["bridge", "batches", "plain", "times", "Clock", "Sampling"],
        },
    ),
]


def public_names(module: ModuleType) -> list[str]:
    """The names a module offers: ``__all__``, or what is defined in it without an underscore."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
    return sorted(own)


def found() -> list[Room]:
    """Every room: those laid out above, then any other package of fastgen, then each drop-in."""
    rooms = list(LAID_OUT)
    known = {room.module for room in rooms}
    for each in pkgutil.iter_modules(fastgen.__path__):
        name = f"fastgen.{each.name}"
        if each.name not in HIDDEN and name not in known and each.ispkg:
            rooms.append(Room(name, each.name))
    integrations = importlib.import_module("fastgen.integrations")
    for each in pkgutil.iter_modules(integrations.__path__):
        if each.name != "common":
            rooms.extend(_drop_in(f"fastgen.integrations.{each.name}"))
    return rooms


def _drop_in(name: str) -> list[Room]:
    """A drop-in's room, and one for every public module in it that has names of its own.

    None where the library it is for is not installed; `make docs` installs them all.
    """
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("fastgen"):
            raise
        return []
    rooms = [Room(name, name.removeprefix("fastgen."))]
    inner = [n for n in public_names(module) if inspect.ismodule(getattr(module, n))]
    if not public_names(module):  # a package of packages
        inner = [each.name for each in pkgutil.iter_modules(module.__path__)]
    for each in inner:
        rooms.append(Room(f"{name}.{each}", f"{name.removeprefix('fastgen.')}.{each}"))
    return rooms


def on_one_page(room: Room) -> bool:
    """Whether a room's names are described on its own page: the drop-ins', which peers describe."""
    return room.module.startswith("fastgen.integrations.")


def of(room: Room) -> tuple[ModuleType, dict[str, list[str]]]:
    """The module of a room, and its names by heading, without modules and what others describe."""
    module = importlib.import_module(room.module)
    names = [n for n in public_names(module) if not elsewhere(getattr(module, n))]
    groups = {
        heading: kept
        for heading, listed in room.groups.items()
        if (kept := [name for name in listed if name in names])
    }
    rest = [name for name in names if not any(name in listed for listed in groups.values())]
    if rest:
        groups["More" if groups else ""] = rest
    return module, groups


def configurable(value: Any) -> bool:
    """Whether a value is a solver or a grid, which is called with its options."""
    return isinstance(value, Configurable)


def canonical(value: Any, public: str) -> str:
    """The name under which a value has its page: that of `fastgen` itself, where it is there."""
    name = public.rpartition(".")[2]
    if name in fastgen.__all__ and getattr(fastgen, name) is value:
        return f"fastgen.{name}"
    return public


def elsewhere(value: Any) -> bool:
    """Modules, and classes of Python's or torch's that a drop-in has because its peer has them."""
    if inspect.isclass(value) and get_origin(value) is None:
        return value.__module__.partition(".")[0] in ("collections", "torch", "typing")
    return inspect.ismodule(value)
