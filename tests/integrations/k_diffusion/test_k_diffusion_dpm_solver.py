"""DPM-Solver-fast and the error-controlled one beside k-diffusion's."""

import math

import pytest
import torch

from fastgen.integrations.k_diffusion import sampling
from tests.integrations.k_diffusion.denoising import PRECISIONS, both, close, denoiser, start


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 11])
def test_dpm_fast(peer, n, eta):
    for dtype, tolerance in PRECISIONS:
        torch.set_default_dtype(dtype)  # of its times
        try:
            theirs, mine = both(peer, "dpm_fast", start(dtype), 0.03, 20.0, n, eta=eta)
        finally:
            torch.set_default_dtype(torch.float32)
        close(mine[0], theirs[0], tolerance)
        assert torch.equal(mine[2], theirs[2])
        for a, b in zip(theirs[1], mine[1], strict=True):
            assert a.keys() == b.keys()
            for key in ("x", "denoised", "sigma", "sigma_hat", "t", "t_up"):
                close(b[key], a[key], 10 * tolerance)


TIGHT = {"rtol": 1e-3, "atol": 1e-4, "h_init": 0.3, "pcoeff": 0.2, "icoeff": 0.4, "dcoeff": 0.1}


@pytest.mark.parametrize("options", [{}, {**TIGHT, "accept_safety": 0.9}, {"eta": 0.5}])
@pytest.mark.parametrize("order", [2, 3])
def test_dpm_adaptive(peer, order, options):
    """The same steps. In float32 k-diffusion rounds its times, so with noise only its law is kept.

    A rejected step is tried again without evaluating its first point again.
    """
    for dtype, tolerance in PRECISIONS[1:] if options.get("eta") else PRECISIONS:
        torch.set_default_dtype(dtype)
        try:
            theirs, mine = both(
                peer, "dpm_adaptive", start(dtype), 0.03, 20.0, order=order, return_info=True,
                **options,
            )  # fmt: skip
        finally:
            torch.set_default_dtype(torch.float32)
        (x, info), (own, mine_info) = theirs[0], mine[0]
        close(own, x, tolerance)
        assert torch.equal(mine[2], theirs[2])
        assert mine_info == info | {"nfe": info["nfe"] - info["n_reject"]}
        for a, b in zip(theirs[1], mine[1], strict=True):
            assert a.keys() == b.keys()
            if dtype == torch.float64:  # in float32 steps differ a little, and make up for it
                close(b["x"], a["x"], 10 * tolerance)
                close(b["error"], a["error"], 1e-8)


def test_dpm_adaptive_per_sample_does_not_depend_on_the_batch():
    x = start(torch.float64)
    options = {"per_sample": True, "disable": True, "rtol": 1e-3, "eta": 0.3, "noise": "contract"}
    together, info = sampling.sample_dpm_adaptive(
        denoiser, x, 0.03, 20.0, return_info=True, seed=[1, 2, 3], **options
    )
    assert len(set(info["steps"].tolist())) > 1
    alone = sampling.sample_dpm_adaptive(denoiser, x[:1], 0.03, 20.0, seed=[1], **options)
    close(alone, together[:1], 1e-12)


@pytest.mark.parametrize("per_sample", [False, True])
def test_dpm_adaptive_converges(per_sample):
    """D of Gaussian data with standard deviation 1: x falls as sqrt(1 + sigma^2)."""
    x = start(torch.float64)

    def gaussian(x, sigma):
        return x / (1 + sigma[:, None] ** 2)

    exact = x * math.sqrt((1 + 0.03**2) / (1 + 20.0**2))
    errors = []
    for rtol in (1e-3, 1e-5):
        y = sampling.sample_dpm_adaptive(
            gaussian, x, 0.03, 20.0, disable=True, rtol=rtol, atol=rtol / 10, per_sample=per_sample
        )
        errors.append(((y - exact).abs().max() / exact.abs().max()).item())
    assert errors[0] < 0.03
    assert errors[1] < errors[0] / 30
