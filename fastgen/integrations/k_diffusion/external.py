"""Networks of noise, v or learned-variance outputs as denoisers model(x, sigma, **kwargs).

With c_in = 1 / sqrt(sigma^2 + 1) the network sees the variance-preserving state c_in x at the
time whose noise-to-signal ratio is sigma:

    noise:  D = x - sigma eps,     v:  D = c_skip x - sigma c_in v,    c_skip = 1 / (sigma^2 + 1).

(Ho et al. 2020, arXiv 2006.11239; Salimans and Ho 2022, arXiv 2202.00512.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.integrations.k_diffusion.utils import append_dims, append_zero


def _mean_square(error: Tensor) -> Tensor:
    return error.pow(2).flatten(1).mean(1)


class _VScalings:
    sigma_data = 1.0

    def get_scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out and c_in at noise levels of any shape."""
        total = sigma**2 + self.sigma_data**2
        c_in = total.rsqrt()
        return self.sigma_data**2 / total, -self.sigma_data * sigma * c_in, c_in

    def _scalings(self, sigma: Tensor, ndim: int) -> list[Tensor]:
        return [append_dims(c, ndim) for c in self.get_scalings(sigma)]


class VDenoiser(_VScalings, nn.Module):
    """A network of v in continuous time t, sigma = tan(pi t / 2) (v-diffusion-pytorch).

    Args:
        inner_model: called as inner_model(c_in x, t [B], **kwargs) -> v.
    """

    def __init__(self, inner_model: Any) -> None:
        super().__init__()
        self.inner_model = inner_model

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        """2 arctan(sigma) / pi."""
        return sigma.atan() / math.pi * 2

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """tan(pi t / 2)."""
        return (t * math.pi / 2).tan()

    def loss(self, input: Tensor, noise: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """Mean square of v - its target at input + sigma noise, [B]."""
        c_skip, c_out, c_in = self._scalings(sigma, input.ndim)
        noised = input + noise * append_dims(sigma, input.ndim)
        output = self.inner_model(noised * c_in, self.sigma_to_t(sigma), **kwargs)
        return _mean_square(output - (input - c_skip * noised) / c_out)

    def forward(self, input: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """The denoised state, [B, ...]."""
        c_skip, c_out, c_in = self._scalings(sigma, input.ndim)
        output: Tensor = self.inner_model(input * c_in, self.sigma_to_t(sigma), **kwargs)
        return output * c_out + input * c_skip


class DiscreteSchedule(nn.Module):
    """Between noise levels and the indices of a table of them; linear in log sigma in between.

    Args:
        sigmas: the table [n], rising.
        quantize: whether `sigma_to_t` gives the nearest index.
    """

    sigmas: Tensor
    log_sigmas: Tensor

    def __init__(self, sigmas: Tensor, quantize: bool) -> None:
        super().__init__()
        self.register_buffer("sigmas", sigmas)
        self.register_buffer("log_sigmas", sigmas.log())
        self.quantize = quantize

    @property
    def sigma_min(self) -> Tensor:
        """The lowest noise level."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        """The highest noise level."""
        return self.sigmas[-1]

    def get_sigmas(self, n: int | None = None) -> Tensor:
        """The table from its end, or n levels at even indices, and 0."""
        if n is None:
            return append_zero(self.sigmas.flip(0))
        t = torch.linspace(len(self.sigmas) - 1, 0, n, device=self.sigmas.device)
        return append_zero(self.t_to_sigma(t))

    def sigma_to_t(self, sigma: Tensor, quantize: bool | None = None) -> Tensor:
        """The index at each noise level, in the shape of sigma; outside the table its ends."""
        log_sigma, table = sigma.log(), self.log_sigmas
        above = torch.searchsorted(table, log_sigma.contiguous(), right=True)
        low = (above - 1).clamp(0, len(table) - 2)
        w = ((log_sigma - table[low]) / (table[low + 1] - table[low])).clamp(0, 1)
        if self.quantize if quantize is None else quantize:
            return low + (w > 0.5)
        return low + w

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """The noise level at each index."""
        t = t.float()
        low, high, w = t.floor().long(), t.ceil().long(), t.frac()
        return torch.lerp(self.log_sigmas[low], self.log_sigmas[high], w).exp()


def _ratios(alphas_cumprod: Tensor) -> Tensor:
    return ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5


class DiscreteEpsDDPMDenoiser(DiscreteSchedule):
    """A DDPM network of noise on a table of alphas_cumprod [n].

    Args:
        model: called as model(c_in x, t [B], **kwargs) -> eps.
        alphas_cumprod: the table.
        quantize: whether t is a whole index.
    """

    sigma_data = 1.0

    def __init__(self, model: Any, alphas_cumprod: Tensor, quantize: bool) -> None:
        super().__init__(_ratios(alphas_cumprod), quantize)
        self.inner_model = model

    def get_scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """c_out and c_in at noise levels of any shape."""
        return -sigma, (sigma**2 + self.sigma_data**2).rsqrt()

    def get_eps(self, *args: Any, **kwargs: Any) -> Tensor:
        """The network's noise."""
        eps: Tensor = self.inner_model(*args, **kwargs)
        return eps

    def loss(self, input: Tensor, noise: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """Mean square of eps - noise at input + sigma noise, [B]."""
        _, c_in = (append_dims(c, input.ndim) for c in self.get_scalings(sigma))
        noised = input + noise * append_dims(sigma, input.ndim)
        return _mean_square(self.get_eps(noised * c_in, self.sigma_to_t(sigma), **kwargs) - noise)

    def forward(self, input: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """The denoised state, [B, ...]."""
        c_out, c_in = (append_dims(c, input.ndim) for c in self.get_scalings(sigma))
        return input + self.get_eps(input * c_in, self.sigma_to_t(sigma), **kwargs) * c_out


class OpenAIDenoiser(DiscreteEpsDDPMDenoiser):
    """A network of guided-diffusion: noise, with learned variances in a second half of channels.

    Args:
        model: the network.
        diffusion: its diffusion, of which alphas_cumprod is read.
        quantize: whether t is a whole index.
        has_learned_sigmas: whether the output has that second half, which is dropped.
        device: of the table.
    """

    def __init__(
        self,
        model: Any,
        diffusion: Any,
        quantize: bool = False,
        has_learned_sigmas: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        table = torch.as_tensor(diffusion.alphas_cumprod, device=device, dtype=torch.float32)
        super().__init__(model, table, quantize)
        self.has_learned_sigmas = has_learned_sigmas

    def get_eps(self, *args: Any, **kwargs: Any) -> Tensor:
        """The network's noise."""
        output: Tensor = self.inner_model(*args, **kwargs)
        return output.chunk(2, dim=1)[0] if self.has_learned_sigmas else output


class CompVisDenoiser(DiscreteEpsDDPMDenoiser):
    """A latent-diffusion model of noise: model.apply_model and model.alphas_cumprod.

    device is accepted as k-diffusion does: the table is where the model's is.
    """

    def __init__(
        self, model: Any, quantize: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(model, model.alphas_cumprod, quantize)

    def get_eps(self, *args: Any, **kwargs: Any) -> Tensor:
        """The network's noise."""
        eps: Tensor = self.inner_model.apply_model(*args, **kwargs)
        return eps


class DiscreteVDDPMDenoiser(_VScalings, DiscreteSchedule):
    """A DDPM network of v on a table of alphas_cumprod [n].

    Args:
        model: called as model(c_in x, t [B], **kwargs) -> v.
        alphas_cumprod: the table.
        quantize: whether t is a whole index.
    """

    def __init__(self, model: Any, alphas_cumprod: Tensor, quantize: bool) -> None:
        super().__init__(_ratios(alphas_cumprod), quantize)
        self.inner_model = model

    def get_v(self, *args: Any, **kwargs: Any) -> Tensor:
        """The network's v."""
        v: Tensor = self.inner_model(*args, **kwargs)
        return v

    def loss(self, input: Tensor, noise: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """Mean square of v - its target at input + sigma noise, [B]."""
        c_skip, c_out, c_in = self._scalings(sigma, input.ndim)
        noised = input + noise * append_dims(sigma, input.ndim)
        output = self.get_v(noised * c_in, self.sigma_to_t(sigma), **kwargs)
        return _mean_square(output - (input - c_skip * noised) / c_out)

    def forward(self, input: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """The denoised state, [B, ...]."""
        c_skip, c_out, c_in = self._scalings(sigma, input.ndim)
        return self.get_v(input * c_in, self.sigma_to_t(sigma), **kwargs) * c_out + input * c_skip


class CompVisVDenoiser(DiscreteVDDPMDenoiser):
    """A latent-diffusion model of v: model.apply_model(x, t, cond) and model.alphas_cumprod."""

    def __init__(
        self, model: Any, quantize: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(model, model.alphas_cumprod, quantize)

    def get_v(self, x: Tensor, t: Tensor, cond: Any, **kwargs: Any) -> Tensor:
        """The network's v; as in k-diffusion, other keywords do not reach it."""
        v: Tensor = self.inner_model.apply_model(x, t, cond)
        return v
