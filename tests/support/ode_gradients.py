"""A field with parameters, and the gradients of a loss on its solution."""

import torch
from torch import nn

import fastgen
from fastgen.ode import Execution

TIGHT = {"rtol": 1e-9, "atol": 1e-9, "method": "dopri8"}
Y0 = torch.tensor([[0.3, -0.2], [1.1, 0.4], [2.5, -1.5]], dtype=torch.float64)
T = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)


def field(weights):
    def f(t, y):
        time = t[:, None] if t.ndim else t
        return torch.tanh(y @ weights) * (1 + 0.3 * torch.sin(3 * time)) - 0.1 * y

    return f


def weights():
    return torch.tensor([[0.4, -1.2], [0.8, 0.3]], dtype=torch.float64, requires_grad=True)


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(weights().detach())

    def forward(self, t, y):
        return field(self.weights)(t, y)


def gradients(gradient, t, step="per_sample", compact=None, **options):
    module, y0 = Module(), Y0.clone().requires_grad_()
    time = t.clone().requires_grad_()
    options |= {"step": step, "execution": Execution(compact=compact)}
    ys = fastgen.odeint(module, y0, time, gradient=gradient, **TIGHT, **options)
    loss = (ys[1:] * torch.arange(1.0, 3.0).double()[:, None, None]).sin().sum()
    return torch.autograd.grad(loss, (y0, module.weights, time))
