"""k-diffusion's wrappers of networks, and a script as its users write it."""

import types

import torch

from fastgen.integrations import k_diffusion as K  # noqa: N812
from fastgen.integrations.k_diffusion import external, sampling
from tests.integrations.k_diffusion.denoising import close, start
from tests.support.peers import k_diffusion


def test_wrappers():
    append_zero = types.SimpleNamespace(append_zero=sampling.append_zero)
    peer = k_diffusion("V", "D", "O", "C", module="external", sampling=append_zero)
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)

    def net(x, t):
        return torch.tanh(x * (1 + t.reshape(-1, 1, 1, 1) / 1000))

    class Latent:
        alphas_cumprod = alphas

        def apply_model(self, x, t, cond):
            return net(x, t) + cond

    learned = types.SimpleNamespace(alphas_cumprod=alphas.numpy())
    x, noise = start(torch.float32, (4, 3, 2, 2)), torch.randn(4, 3, 2, 2)
    sigma = torch.tensor([0.001, 0.5, 3.0, 200.0])
    for quantize in (False, True):
        for name, arguments, extra in (
            ("DiscreteEpsDDPMDenoiser", (net, alphas, quantize), {}),
            ("DiscreteVDDPMDenoiser", (net, alphas, quantize), {}),
            ("CompVisDenoiser", (Latent(), quantize), {"cond": 0.1}),
            ("CompVisVDenoiser", (Latent(), quantize), {"cond": 0.1}),
            ("OpenAIDenoiser", (lambda x, t: torch.cat([net(x, t), x], 1), learned, quantize), {}),
            ("VDenoiser", (net,), {}),
        ):
            theirs, mine = peer[name](*arguments), getattr(external, name)(*arguments)
            torch.testing.assert_close(mine(x, sigma, **extra), theirs(x, sigma, **extra))
            torch.testing.assert_close(
                mine.loss(x, noise, sigma, **extra), theirs.loss(x, noise, sigma, **extra)
            )
            if name == "VDenoiser":
                torch.testing.assert_close(
                    mine.t_to_sigma(mine.sigma_to_t(sigma)), sigma, rtol=1e-5, atol=0.0
                )
                continue
            assert mine.state_dict().keys() == theirs.state_dict().keys()
            assert mine.sigma_min == theirs.sigma_min
            assert mine.sigma_max == theirs.sigma_max
            for n in (None, 7):
                torch.testing.assert_close(mine.get_sigmas(n), theirs.get_sigmas(n))
            many = torch.rand(200) * 20 + 0.001
            torch.testing.assert_close(mine.sigma_to_t(many), theirs.sigma_to_t(many))


def test_code_written_against_k_diffusion():
    """A sampling script as its users write it: K.sampling, K.external, a guided wrapper."""

    class Guided(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner_model = inner

        def forward(self, x, sigma, uncond, cond, cond_scale):
            both = self.inner_model(torch.cat([x] * 2), torch.cat([sigma] * 2), cond=uncond + cond)
            low, high = both.chunk(2)
            return low + (high - low) * cond_scale

    class Latent:
        alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)

        def apply_model(self, x, t, cond):
            return torch.tanh(x + torch.tensor(cond)[:, None, None, None] + t.sum() / 1e6)

    wrapped = K.external.CompVisDenoiser(Latent())
    sigmas = wrapped.get_sigmas(8)
    torch.manual_seed(3)
    x = torch.randn(2, 4, 8, 8) * sigmas[0]
    shown = []
    arguments = {"uncond": [0.0, 0.0], "cond": [0.5, -0.5], "cond_scale": 3.0}
    for name in ("euler_ancestral", "heun", "dpmpp_2m_sde", "lms"):
        y = getattr(K.sampling, f"sample_{name}")(
            Guided(wrapped),
            x,
            sigmas,
            extra_args=arguments,
            callback=lambda d: shown.append((d["i"], d["denoised"])),
        )
        assert y.shape == x.shape
        assert torch.isfinite(y).all()
        if name != "lms":  # all but the multistep method end at the last denoised state
            close(y, shown[-1][1], 1e-5)
    assert [i for i, _ in shown] == [*range(8)] * 4
