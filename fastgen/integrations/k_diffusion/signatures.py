"""Functions with the signatures of k-diffusion's samplers, made from a row of what differs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from fastgen.common.errors import nearest
from fastgen.integrations.common.levels import Callback, Denoiser, Unused, run
from fastgen.integrations.common.noise import NoiseSource
from fastgen.integrations.common.recipes import Build
from fastgen.integrations.k_diffusion.choices import draws_in_place, noise_source, still

SamplerFunction = Callable[..., Tensor]
# The options of a solver from a sampler's own arguments and the noise levels of the call.
Options = Callable[[dict[str, Any], Any], Mapping[str, Any]]


class Argument(NamedTuple):
    """An argument of a sampler: its type as it is shown, what it means, and its default."""

    kind: str
    meaning: str
    default: Any = inspect.Parameter.empty


# Of all samplers.
COMMON = {
    "model": Argument("Denoiser", "model(x, sigma [B], **extra_args) -> denoised"),
    "x": Argument("Tensor", "[B, ...], the state at noise level sigmas[0]"),
    "sigmas": Argument("Tensor", "[n + 1], falling; the last may be 0"),
    "extra_args": Argument("dict[str, Any] | None", "passed to the model", None),
    "callback": Argument(
        "Callback | None",
        "called before each step with a dictionary of x, i, sigma, sigma_hat and denoised",
        None,
    ),
    "disable": Argument("bool | None", "of tqdm's bar; None: only on a terminal", None),
}
# Of some, whose rows have the defaults.
OWN = {
    "corrector_order": Argument("int", "order of the corrector"),
    "deis_mode": Argument("str", 'polynomials in VP time ("tab") or in sigma ("rhoab")'),
    "eta": Argument("float", "noise added back in each step, 0 (none) to 1"),
    "ge_gamma": Argument("float", "weight of the newest slope"),
    "max_order": Argument("int", "largest order, 1 to 4"),
    "max_stage": Argument("int", "largest order, 1 to 3"),
    "noise_sampler": Argument(
        "NoiseSampler | None", "called as noise_sampler(sigma, sigma_next) for unit noise"
    ),
    "noise_scaler": Argument(
        "Callable[[Tensor], Tensor] | None", "phi(sigma), by default sigma (exp(sigma^0.3) + 10)"
    ),
    "order": Argument("int", "largest order"),
    "predictor_order": Argument("int", "order of the predictor"),
    "r": Argument("float", "where the middle of a step lies in log sigma"),
    "s_churn": Argument("float", "noise added, in units of sigma / n, up to sqrt(2) - 1 of sigma"),
    "s_noise": Argument("float", "factor of the noise added"),
    "s_tmax": Argument("float", "highest level with churn"),
    "s_tmin": Argument("float", "lowest level with churn"),
    "simple_order_2": Argument("bool", "the authors' leading-order weight in formulas of order 2"),
    "solver_type": Argument("str", '"midpoint" or "heun"'),
    "tau_func": Argument(
        "Callable[[float], float] | None",
        "tau at a noise level: one number on one range of levels and 0 elsewhere; None: 1 "
        "everywhere (ComfyUI takes 1 between 20 and 80 % of its model's time)",
    ),
    "use_pece": Argument("bool", "an evaluation after the corrector, too"),
}
# Of those with noise, by keyword only.
NOISE = {
    "noise": Argument(
        "str",
        "\"torch\", from torch's generator in k-diffusion's order, draws that it does not use "
        'included; "comfyui", seeded by extra_args["seed"] where that is given, without unused '
        'draws; "contract", made in the kernels, the same for a sample whatever its batch, device '
        "or dtype",
        "torch",
    ),
    "seed": Argument(
        "Seeds | None",
        'of "contract", one or one per sample; None takes one from torch\'s generator',
        None,
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
    renews: bool = False,
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
        renews: whether a step between equal levels changes the state.
        options: the solver's options.
    """
    further = {k: OWN[k]._replace(default=default) for k, default in own.items()}
    arguments = COMMON | further | (NOISE if noisy else {})
    signature = _signature(arguments)
    known = arguments.keys() - COMMON.keys()

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
            places = (model, x, sigmas, extra_args, callback, disable, *positional)
            named = _bound(name, signature, places, named)
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
        moves, taken = still(given, sigmas, renews)
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
            moves=moves,
            drawn_in_place=draws_in_place(unused, given) if noisy else 0,
            options=options(given, taken),
        )

    sample.__name__ = sample.__qualname__ = name
    sample.__module__ = f"{__package__}.samplers"
    sample.__doc__ = _docstring(text, arguments)
    sample.__signature__ = signature  # type: ignore[attr-defined]
    return sample


def _signature(arguments: Mapping[str, Argument]) -> inspect.Signature:
    either, named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            inspect.Parameter(
                k, named if k in NOISE else either, default=a.default, annotation=a.kind
            )
            for k, a in arguments.items()
        ],
        return_annotation="Tensor",
    )


def _bound(
    name: str, signature: inspect.Signature, places: tuple[Any, ...], named: dict[str, Any]
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
        bound = signature.bind(*places, **named)
    except TypeError as error:
        raise TypeError(f"{name}() got {error}") from None
    return {k: v for k, v in bound.arguments.items() if k not in COMMON}


def _docstring(text: str, arguments: Mapping[str, Argument]) -> str:
    lines = [text, "", "Args:", *(f"    {k}: {a.meaning}." for k, a in arguments.items())]
    lines += ["", "Returns:", "    The samples [B, ...] in the dtype of x.", "", "Raises:"]
    return "\n".join([*lines, "    ValueError: naming the argument that does not fit."])
