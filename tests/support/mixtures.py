"""A mixture of Gaussians whose log-density is known at every time, and its ideal networks."""

import math

import torch

import fastgen
from fastgen import schedules

SCHEDULES = [
    schedules.Rectified(),
    schedules.LinearVP(),
    schedules.CosineVP(),
    schedules.SubVP(),
    schedules.VE(),
    schedules.EDM(),
]
PREDICTIONS = ["data", "noise", "velocity", "v", "score", "edm"]
MEANS = torch.tensor([[-1.0, 0.4], [0.8, -0.6], [0.3, 1.2]], dtype=torch.float64)
STDS = torch.tensor([0.5, 0.6, 0.4], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


class Mixture(torch.nn.Module):
    """The ideal network for a mixture of Gaussians, with a time for every sample."""

    def __init__(self, schedule, predicts, single=False, data_at=0):
        super().__init__()
        self.schedule, self.predicts, self.data_at = schedule, predicts, data_at
        self.parts = slice(0, 1) if single else slice(None)
        self.shift = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def log_density(self, x, t):
        """log p_t(x), [B], and what of it each part has, [B, K]."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        means, stds, weights = MEANS[self.parts], STDS[self.parts], WEIGHTS[self.parts]
        v = (alpha[:, None] * stds) ** 2 + sigma[:, None] ** 2
        apart = x[:, None] - alpha[:, None, None] * means
        logits = (weights / weights.sum()).log() - torch.log(2 * math.pi * v)
        logits = logits - apart.square().sum(-1) / (2 * v)
        return torch.logsumexp(logits, 1), logits, apart, v

    def forward(self, x, t, shift=None):
        t = (1 - t if self.data_at else t).double()
        given = x
        x = x.double() + self.shift
        if shift is not None:
            x = x - self.schedule.alpha(t)[:, None] * shift
        alpha, sigma = (f(t)[:, None] for f in (self.schedule.alpha, self.schedule.sigma))
        if self.predicts == "edm":
            x = x * torch.hypot(sigma, alpha * 0.5)
        _, logits, apart, v = self.log_density(x, t)
        c2 = STDS[self.parts] ** 2
        each = MEANS[self.parts] + (alpha * c2 / v)[..., None] * apart
        data = (torch.softmax(logits, 1)[..., None] * each).sum(1)
        if shift is not None:
            data, x = data + shift, x + alpha * shift
        noise = (x - alpha * data) / sigma
        found = {
            "data": lambda: data,
            "noise": lambda: noise,
            "score": lambda: -noise / sigma,
            "v": lambda: alpha * noise - sigma * data,
            "velocity": lambda: (
                self.schedule.d_alpha(t)[:, None] * data + self.schedule.d_sigma(t)[:, None] * noise
            ),
            "edm": lambda: sigma**2 * 0 + self._inner(data, x, alpha, sigma),
        }[self.predicts]()
        return (-found if self.data_at else found).to(given.dtype)

    def _inner(self, data, x, alpha, sigma):
        r = sigma / alpha
        skip = 0.25 / (r**2 + 0.25)
        return (data - skip * x / alpha) / (r * 0.5 / torch.sqrt(r**2 + 0.25))


def model_of(schedule, predicts, **options):
    net = Mixture(schedule, predicts, **options)
    return fastgen.Model(
        net, schedule, predicts, data_at=options.get("data_at", 0), dtype=torch.float64
    )


def between(schedule, predicts="velocity"):
    """Times at which every prediction determines the flow, and the exact density at both."""
    end, start = 0.02, 0.95
    net = Mixture(schedule, predicts)

    def prior(x):
        return net.log_density(x.double(), torch.full((len(x),), start, dtype=torch.float64))[0]

    return {"start": start, "end": end, "prior": prior}, end


def points(count=12):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(5)).double()
