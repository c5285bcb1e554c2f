"""Wording shared by error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# What a name of another library, or of a paper, is here. "name=value" is an argument's value.
_MEANT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("epsilon", "eps", "e", "epsilon_prediction"), ("noise",)),
    **dict.fromkeys(("x0", "x_0", "xstart", "start_x", "sample", "denoised", "x1"), ("data",)),
    **dict.fromkeys(("v_prediction", "vprediction", "v_pred"), ("v",)),
    **dict.fromkeys(
        ("flow", "flow_prediction", "vector_field", "vf", "u", "drift", "flow_matching"),
        ("velocity",),
    ),
    **dict.fromkeys(("edm_f", "f", "precond", "preconditioned"), ("edm",)),
    **dict.fromkeys(("mean_flow", "meanflow", "shortcut"), ("average_velocity",)),
    **dict.fromkeys(("sf2m", "velocity_score", "score_and_velocity"), ("velocity_and_score",)),
    **dict.fromkeys(
        ("num_steps", "n_steps", "num_inference_steps", "nfe", "n_timesteps", "num_timesteps"),
        ("steps", "max_steps"),
    ),
    **dict.fromkeys(
        ("label", "labels", "y", "class_labels", "class_label", "cond", "condition", "context"),
        ("net_kwargs={'label': ...}",),
    ),
    **dict.fromkeys(
        ("extra_args", "model_kwargs", "kwargs", "extras", "model_args"), ("net_kwargs",)
    ),
    **dict.fromkeys(("cfg", "cfg_scale", "guidance_scale", "scale", "w"), ("guidance",)),
    **dict.fromkeys(("generator", "rng", "random_state", "manual_seed", "key"), ("seed",)),
    **dict.fromkeys(("ids", "sample_id"), ("sample_ids",)),
    **dict.fromkeys(("schedule_type", "grid", "time_grid", "times", "sigmas"), ("timesteps",)),
    **dict.fromkeys(("method", "sampler", "scheduler", "algorithm"), ("solver", "method")),
    **dict.fromkeys(("return_trajectory", "return_intermediates", "save"), ("trajectory",)),
    **dict.fromkeys(("t_start", "t0", "t_max", "sigma_max"), ("start",)),
    **dict.fromkeys(("t_end", "t1", "t_min", "sigma_min", "denoise_to"), ("end",)),
    **dict.fromkeys(("clip_denoised", "clip_sample", "clamp"), ("clip",)),
    **dict.fromkeys(("progress_bar", "verbose", "disable"), ("progress",)),
    **dict.fromkeys(("enable_grad", "grad", "requires_grad"), ("differentiable", "gradient")),
    **dict.fromkeys(("tol", "tolerance", "relative_tolerance"), ("rtol",)),
    **dict.fromkeys(("dt", "h", "stepsize"), ("step_size",)),
    **dict.fromkeys(("dpm++_2m", "dpmpp2m", "dpm_solver_pp_2m", "dpmsolver++"), ("dpmpp_2m",)),
}


def _plain(name: object) -> str:
    return str(name).strip().lower().replace("-", "_").replace(" ", "_")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown `name`.

    >>> nearest("karas", ["uniform", "karras"])
    "did you mean 'karras'? Known: karras, uniform"

    Names that other libraries use for the same are known too; without a similar name only the
    known ones are listed.
    """
    options = sorted(set(known))
    listing = f"Known: {', '.join(options) if options else '(none)'}"
    for meant in _MEANT.get(_plain(name), ()):
        if meant.partition("=")[0] in options:
            return f"did you mean {meant!r}? {listing}"
    folded = {option.lower(): option for option in options}
    close = difflib.get_close_matches(str(name).lower(), folded, n=1)
    return f"did you mean {folded[close[0]]!r}? {listing}" if close else listing
