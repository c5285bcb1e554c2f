"""Functions with the signatures of k-diffusion's samplers, made from a row of what differs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from fastgen.common.errors import nearest
from fastgen.integrations.common.levels import Callback, Denoiser, Unused, run
from fastgen.integrations.common.noise import NoiseSource
from fastgen.integrations.common.recipes import Build
from fastgen.integrations.k_diffusion.choices import noise_source

SamplerFunction = Callable[..., Tensor]
# The options of a solver from a sampler's own arguments and the noise levels of the call.
Options = Callable[[dict[str, Any], Any], Mapping[str, Any]]

# The arguments of all samplers: annotation, default and meaning.
COMMON = {
    "model": ("Denoiser", inspect.Parameter.empty, "model(x, sigma [B], **extra_args) -> denoised"),
    "x": ("Tensor", inspect.Parameter.empty, "[B, ...], the state at noise level sigmas[0]"),
    "sigmas": ("Tensor", inspect.Parameter.empty, "[n + 1], falling; the last may be 0"),
    "extra_args": ("dict[str, Any] | None", None, "passed to the model"),
    "callback": (
        "Callback | None",
        None,
        "called before each step with a dictionary of x, i, sigma, sigma_hat and denoised",
    ),
    "disable": ("bool | None", None, "of tqdm's bar; None: only on a terminal"),
}
# Those that only some have, whose defaults are the row's: annotation and meaning.
OWN = {
    "corrector_order": ("int", "order of the corrector"),
    "deis_mode": ("str", 'polynomials in VP time ("tab") or in sigma ("rhoab")'),
    "eta": ("float", "noise added back in each step, 0 (none) to 1"),
    "ge_gamma": ("float", "weight of the newest slope"),
    "max_order": ("int", "largest order, 1 to 4"),
    "max_stage": ("int", "largest order, 1 to 3"),
    "noise_sampler": ("NoiseSampler | None", "called as noise_sampler(sigma, sigma_next)"),
    "noise_scaler": (
        "Callable[[Tensor], Tensor] | None",
        "phi(sigma), by default sigma (exp(sigma^0.3) + 10)",
    ),
    "order": ("int", "largest order"),
    "predictor_order": ("int", "order of the predictor"),
    "r": ("float", "where the middle of a step lies in log sigma"),
    "s_churn": ("float", "noise added, in units of sigma / n, up to sqrt(2) - 1 of sigma"),
    "s_noise": ("float", "factor of the noise added"),
    "s_tmax": ("float", "highest level with churn"),
    "s_tmin": ("float", "lowest level with churn"),
    "simple_order_2": ("bool", "the authors' leading-order weight in formulas of order 2"),
    "solver_type": ("str", '"midpoint" or "heun"'),
    "tau_func": (
        "Callable[[float], float] | None",
        "tau at a noise level: one number on one range of levels and 0 elsewhere; None: 1 "
        "everywhere (ComfyUI takes 1 between 20 and 80 % of its model's time)",
    ),
    "use_pece": ("bool", "an evaluation after the corrector, too"),
}
# Those of samplers with noise, by keyword only.
NOISE = {
    "noise": (
        "str",
        "torch",
        "\"torch\", from torch's generator in k-diffusion's order, draws that it does not use "
        'included; "comfyui", seeded by extra_args["seed"] where that is given, without unused '
        'draws; "contract", made in the kernels, the same for a sample whatever its batch, device '
        "or dtype",
    ),
    "seed": (
        "Seeds | None",
        None,
        'of "contract", one or one per sample; None takes one from torch\'s generator',
    ),
}


NO_NOISE = NoiseSource()


def as_given(own: dict[str, Any], sigmas: Any) -> Mapping[str, Any]:
    """A solver whose options have the sampler's names."""
    return own


def renamed(**names: str) -> Options:
    """A solver that has other names for some options, given as theirs="ours"."""
    return lambda own, sigmas: {names.get(k, k): v for k, v in own.items()}


def sampler(
    name: str,
    build: Build,
    own: Mapping[str, Any],
    text: str,
    *,
    noisy: bool = True,
    brownian: bool = False,
    unused: Unused | None = None,
    options: Options = as_given,
) -> SamplerFunction:
    """A sampler under its peer's name and with its peer's signature.

    Args:
        name: of the function.
        build: the solver.
        own: the arguments after ``disable`` in the peer's order, and their defaults.
        text: the first line of its docstring, and more where there is more to say.
        noisy: whether it adds noise or draws any, and so has noise= and seed=.
        brownian: whether its default noise is a Brownian path.
        unused: the draws that k-diffusion makes without adding them.
        options: the solver's options.
    """
    signature = _signature(own, noisy)
    known = set(own) | (set(NOISE) if noisy else set())

    def sample(
        model: Denoiser,
        x: Tensor,
        sigmas: Any,
        extra_args: dict[str, Any] | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
        *positional: Any,
        **named: Any,
    ) -> Tensor:
        if positional or not known.issuperset(named):
            arguments = (model, x, sigmas, extra_args, callback, disable, *positional)
            named = _bound(name, signature, arguments, named)
        given, source = {**own, **named}, NO_NOISE
        if noisy:
            source = noise_source(
                x,
                given.pop("noise_sampler", None),
                given.pop("noise", "torch"),
                given.pop("seed", None),
                extra_args,
                sigmas if brownian else None,
            )
        return run(
            build,
            model,
            x,
            sigmas,
            extra_args,
            callback,
            disable,
            noise=source,
            unused=unused,
            options=options(given, sigmas),
        )

    sample.__name__ = sample.__qualname__ = name
    sample.__module__ = f"{__package__}.samplers"
    sample.__doc__ = _docstring(text, own, noisy)
    sample.__signature__ = signature  # type: ignore[attr-defined]
    return sample


def _signature(own: Mapping[str, Any], noisy: bool) -> inspect.Signature:
    either, named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    entries: list[tuple[str, Any, Any, str]] = []
    entries += [(k, either, default, kind) for k, (kind, default, _) in COMMON.items()]
    entries += [(k, either, default, OWN[k][0]) for k, default in own.items()]
    if noisy:
        entries += [(k, named, default, kind) for k, (kind, default, _) in NOISE.items()]
    return inspect.Signature(
        [inspect.Parameter(k, p, default=d, annotation=a) for k, p, d, a in entries],
        return_annotation="Tensor",
    )


def _bound(
    name: str, signature: inspect.Signature, arguments: tuple[Any, ...], named: dict[str, Any]
) -> dict[str, Any]:
    """The arguments after ``disable`` by name.

    Raises:
        TypeError: for one that is not known or given twice, and for too many.
    """
    unknown = [k for k in named if k not in signature.parameters]
    if unknown:
        hint = nearest(unknown[0], signature.parameters)
        raise TypeError(f"{name}() got an unexpected keyword argument {unknown[0]!r}: {hint}")
    try:
        bound = signature.bind(*arguments, **named)
    except TypeError as error:
        raise TypeError(f"{name}() got {error}") from None
    return {k: v for k, v in bound.arguments.items() if k not in COMMON}


def _docstring(text: str, own: Mapping[str, Any], noisy: bool) -> str:
    entries = [(k, meaning) for k, (_, _, meaning) in COMMON.items()]
    entries += [(k, OWN[k][1]) for k in own]
    if noisy:
        entries += [(k, meaning) for k, (_, _, meaning) in NOISE.items()]
    lines = [text, "", "Args:", *(f"    {k}: {meaning}." for k, meaning in entries)]
    lines += ["", "Returns:", "    The samples [B, ...] in the dtype of x.", "", "Raises:"]
    return "\n".join([*lines, "    ValueError: naming the argument that does not fit."])
