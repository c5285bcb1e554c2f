"""The problem of k-diffusion's tests: a smooth denoiser, noise levels, and noise that repeats."""

import torch

from fastgen.integrations.k_diffusion import sampling

PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-10)]
DTYPE = torch.float64


def denoiser(x, sigma, shift=0.0):
    """Smooth in x and in log sigma."""
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return 0.7 * torch.tanh(x / (s**2 + 1).sqrt() + torch.sin(s.log() / 2) + shift) + 0.3 * x / (
        s**2 + 1
    )


def start(dtype, shape=(3, 6)):
    torch.manual_seed(0)
    return torch.randn(shape, dtype=dtype) * 20


def levels(dtype, steps=9):
    return sampling.get_sigmas_karras(steps, 0.03, 20.0).to(dtype)


def close(mine, theirs, tolerance=1e-10):
    assert mine.dtype == theirs.dtype
    assert ((mine - theirs).abs().max() / theirs.abs().max()).item() < tolerance


class Noise:
    """The same numbers for us and for the textbook."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(3)

    def __call__(self, sigma, sigma_next):
        return torch.randn(3, 6, generator=self.generator, dtype=DTYPE)


def both(peer, name, *arguments, seed=1, **options):
    """(theirs, mine), each with what its callback saw and the random number after it."""
    results = []
    for function in (peer[f"sample_{name}"], getattr(sampling, f"sample_{name}")):
        seen = []
        torch.manual_seed(seed)
        result = function(denoiser, *arguments, callback=seen.append, disable=True, **options)
        results.append((result, seen, torch.rand(3)))
    return results
