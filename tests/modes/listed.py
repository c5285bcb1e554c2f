"""Where an entry point refuses a mode, and what it says. Everything else works.

docs/modes.md has the same as a table, written by `python -m tests.modes`.
"""

from __future__ import annotations

from typing import NamedTuple


class Listed(NamedTuple):
    """The class of the error and a pattern in its text."""

    error: type[Exception]
    says: str


LISTED: dict[tuple[str, str], Listed] = {}
TRANSFORMS = ("forward_mode", "func_jvp", "func_grad", "vmap", "functionalize")


def _listed(names: str, modes: tuple[str, ...], error: type[Exception], says: str) -> None:
    LISTED.update({(name, mode): Listed(error, says) for name in names.split() for mode in modes})


# Runs in buffers of their own, through which no derivative goes.
_listed(
    "sample_ode sample_sde sample_brownian sample_guided sample_guided_apart "
    "sample_guided_by_a_rule sample_transformed inverted captured compiled_run served generated "
    "odeint_prepared "
    "edited_through_noise k_diffusion_dpmpp_2m edm edm2 posterior_by_moments steered",
    TRANSFORMS,
    ValueError,
    "under forward-mode derivatives or torch.func|does not run inside of torch.func",
)
_listed("scored", TRANSFORMS, ValueError, "denoising_error under forward-mode derivatives")
_listed(
    "posterior_replaced",
    ("functionalize",),
    ValueError,
    "under forward-mode derivatives or torch.func",
)
_listed(
    "sample_parallel", TRANSFORMS, ValueError, "parallel: a run parallel in time is not recorded"
)
_listed("sample_retraced", TRANSFORMS, ValueError, "not within torch.func's transforms")
_listed("inverted_exactly", TRANSFORMS, ValueError, "exact=True: no derivative goes through")
_listed("edited", TRANSFORMS, ValueError, "x: flow_edit under forward-mode derivatives")
# Whose results have gradients by backward(), or none.
_listed(
    "log_likelihood log_likelihood_hutchinson trajectory_log_probability variational_bound "
    "loss_implicit_score coupling_sinkhorn wasserstein",
    TRANSFORMS,
    ValueError,
    "under forward-mode derivatives or torch.func|no memory of its own",
)
_listed("sinkhorn_divergence", ("vmap", "functionalize"), ValueError, "no memory of its own")
_listed(
    "odeint_compiled sdeint_compiled",
    TRANSFORMS,
    ValueError,
    "compile=True: not for forward-mode derivatives and torch.func",
)
_listed("odeint_prepared", ("grad",), ValueError, "y0: no gradients go through")
_listed("odeint_adjoint", TRANSFORMS, ValueError, r"serves backward\(\) alone")
# Step sizes and pairs are chosen from numbers, which an axis of vmap hides.
_listed(
    "sample_dopri5 sample_dpm_adaptive odeint_dopri5 torchdiffeq_odeint coupling_exact",
    ("vmap",),
    ValueError,
    r"torch\.vmap",
)
_listed(
    "sample_dopri5 sample_dpm_adaptive odeint_dopri5 coupling_exact",
    ("functionalize",),
    ValueError,
    r"torch\.vmap or torch\.func\.functionalize",
)
# torch's own refusals: random numbers of its generator, and tables that a peer reads as numbers.
_listed("torchcfm_matcher torchsde_sdeint", ("vmap",), RuntimeError, "random operation")
_listed(
    "diffusers_euler diffusers_ddpm diffusers_unipc k_diffusion_dpmpp_2m edm torchdiffeq_odeint "
    "torchsde_sdeint",
    ("functionalize",),
    RuntimeError,
    "unallocated storage",
)
_listed(
    "diffusers_euler diffusers_unipc",
    ("func_jvp", "func_grad"),
    RuntimeError,
    "storage",
)
# diffusers' own tables are on the default device, which has no numbers in this mode.
_listed("diffusers_euler diffusers_ddpm diffusers_unipc", ("default_device",),
        NotImplementedError, "meta tensor")  # fmt: skip
# Tensors that wrap others.
_listed(
    "sample_dopri5 log_likelihood log_likelihood_hutchinson odeint_dopri5 odeint_adjoint "
    "sdeint_euler sdeint_milstein coupling_exact coupling_sinkhorn sinkhorn_divergence wasserstein "
    "torchdiffeq_odeint torchsde_sdeint generated odeint_compiled odeint_prepared sdeint_compiled",
    ("wrapper_subclass",),
    ValueError,
    "memory of its own",
)
# Where the state is the library's own and the network gives what wraps another tensor.
_listed(
    "steered edited_through_noise",
    ("wrapper_subclass",),
    ValueError,
    "a tensor with memory of its own",
)
# Integrators keep the state's dtype, in which these have too few digits for error control.
_listed(
    "odeint_dopri5 odeint_rk4 odeint_adjoint sdeint_euler sdeint_milstein torchdiffeq_odeint "
    "torchsde_sdeint odeint_compiled odeint_prepared sdeint_compiled",
    ("float16", "bfloat16"),
    TypeError,
    "expected float32 or float64",
)
# NumPy, which stores the samples, has no such numbers.
_listed("generated", ("bfloat16",), ValueError, "dtype='bfloat16'")
# Nothing to pair, nothing to draw for.
_listed("generated", ("no_rows",), ValueError, "count=0")
_listed(
    "coupling_exact coupling_sinkhorn sinkhorn_divergence wasserstein torchsde_sdeint",
    ("no_rows",),
    ValueError,
    "x0: expected|y0: expected",
)
