"""Likelihoods in inference mode, of networks that autograd does not see, and their derivatives."""

import math

import pytest
import torch
import torch.utils.checkpoint
from torch import func, nn

import fastgen
from fastgen import schedules
from fastgen.common.derivatives import check_whole_derivative
from fastgen.integrations.flow_matching.solver import ODESolver
from fastgen.likelihood.divergence import Divergence
from fastgen.ode import Adjoint

D = torch.float64
MATRIX = torch.tensor([[0.3, 1.0], [-0.5, -0.7]], dtype=D)
FLOW = torch.linalg.matrix_exp(MATRIX)
X = torch.tensor([[0.4, -1.0], [1.3, 0.2], [0.0, 2.0]], dtype=D)
TIGHT = {"rtol": 1e-9, "atol": 1e-9, "dtype": D}


class Linear(nn.Module):
    """v = A x, whose flow is a matrix exponential."""

    def __init__(self, matrix=MATRIX):
        super().__init__()
        self.a = nn.Parameter(matrix.clone())

    def forward(self, x, t):
        return x @ self.a.T


def log_normal(x):
    return -0.5 * x.square().sum(1) - math.log(2 * math.pi)


# d log p / dt = -div v, from data at 0 to noise at 1.
EXACT = log_normal(X @ FLOW.T) + MATRIX.trace()


def model_of(net):
    return fastgen.Model(net, schedules.Rectified(), "velocity", dtype=D)


def in_one_place(f):
    """A network whose outputs all lie in the same memory, as those of a captured graph."""
    memory = torch.zeros_like(X)
    return lambda x, t: memory[: len(x)].copy_(f(x, t).detach())


UNSEEN = {
    "one memory": in_one_place,
    "no_grad": torch.no_grad(),
    "inference mode": torch.inference_mode(),
    "detach": lambda f: lambda x, t: f(x, t).detach(),
    "numpy": lambda f: lambda x, t: torch.from_numpy(f(x, t).detach().numpy()),
}
KINDS = {
    "exact": {},
    "hutchinson": {"divergence": "hutchinson", "probes": 2},
    "hutch++": {"divergence": "hutch++"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made_there", [False, True])
def test_inference_mode_gives_what_grad_mode_gives(kind, made_there):
    net = Linear()
    wanted = fastgen.log_likelihood(model_of(net), X, **KINDS[kind], **TIGHT)
    with torch.inference_mode():
        x = X.clone() if made_there else X
        found = fastgen.log_likelihood(model_of(net), x, **KINDS[kind], **TIGHT)
    assert torch.equal(found, wanted)
    if kind == "exact":
        assert torch.allclose(found, EXACT, atol=1e-7)


@pytest.mark.parametrize("method", [{"method": "rk4", "step_size": 0.02}, {"method": "dopri5"}])
def test_the_drop_in_in_inference_mode(method):
    options = {"step_size": None, "rtol": 1e-9, "atol": 1e-9, **method}
    solver = ODESolver(lambda x, t: x @ MATRIX.T)
    with torch.inference_mode():
        found = solver.compute_likelihood(X.clone(), log_normal, exact_divergence=True, **options)
    back = torch.linalg.matrix_exp(-MATRIX)
    assert torch.allclose(found[1], log_normal(X @ back.T) - MATRIX.trace(), atol=1e-6)


@pytest.mark.parametrize("how", UNSEEN)
@pytest.mark.parametrize("predicts", ["velocity", "noise", "data", "score", "v", "edm"])
def test_networks_that_autograd_does_not_see_are_refused(how, predicts):
    schedule = schedules.EDM() if predicts == "edm" else schedules.CosineVP()
    net = UNSEEN[how](lambda x, t: x @ MATRIX.T)
    model = fastgen.Model(net, schedule, predicts, dtype=D)
    for kind in KINDS.values():
        with pytest.raises(ValueError, match=r"net: .*did not record.*divergence=function"):
            fastgen.log_likelihood(model, X, start=0.5, end=0.4, **kind, **TIGHT)


def test_the_drop_in_refuses_them_too():
    solver = ODESolver(torch.no_grad()(lambda x, t: x @ MATRIX.T))
    for exact in (False, True):
        with pytest.raises(ValueError, match=r"velocity_model: .*did not record"):
            solver.compute_likelihood(X, log_normal, 0.1, exact_divergence=exact)


@pytest.mark.parametrize("how", UNSEEN)
def test_a_divergence_of_the_users_own(how):
    net = UNSEEN[how](lambda x, t: x @ MATRIX.T)
    found = fastgen.log_likelihood(
        model_of(net),
        X,
        divergence=lambda x, t: MATRIX.trace().expand(len(x)),
        return_solution=True,
        **TIGHT,
    )
    assert torch.allclose(found.log_prob, EXACT, atol=1e-7)
    assert (found.standard_error == 0).all()


@pytest.mark.parametrize("predicts", ["noise", "data", "score", "v", "edm"])
def test_it_is_that_of_the_networks_output_in_its_input(predicts):
    """c_in and the conversion to a velocity are applied here."""
    schedule = schedules.EDM() if predicts == "edm" else schedules.CosineVP()
    options = {"start": 0.6, "end": 0.4, **TIGHT}

    def net(x, t, shift):
        return torch.tanh(x @ MATRIX.T + shift[:, None])

    def own(x, t, shift):
        slope = 1 - torch.tanh(x @ MATRIX.T + shift[:, None]).square()
        return (slope * MATRIX.diagonal()).sum(1)

    model = fastgen.Model(net, schedule, predicts, dtype=D)
    options["net_kwargs"] = {"shift": torch.tensor([0.1, -0.4, 1.0], dtype=D)}
    wanted = fastgen.log_likelihood(model, X, **options)
    found = fastgen.log_likelihood(model, X, divergence=own, **options)
    assert torch.allclose(found, wanted, atol=1e-7)


def test_a_divergence_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"divergence: expected a tensor of shape \[3\]"):
        fastgen.log_likelihood(model_of(Linear()), X, divergence=lambda x, t: x, **TIGHT)


@pytest.mark.parametrize("kind", KINDS)
def test_constant_velocities_need_no_graph(kind):
    shift = torch.tensor([0.5, -1.0], dtype=D)
    model = model_of(lambda x, t: shift.expand(len(x), 2))
    found = fastgen.log_likelihood(model, X, **KINDS[kind], **TIGHT)
    assert torch.allclose(found, log_normal(X + shift), atol=1e-7)


class WithoutVmap(torch.autograd.Function):
    """An operation as users write it: neither vmap nor a forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].cos()


@pytest.mark.parametrize("kind", KINDS)
def test_an_operation_without_vmap(kind):
    seen, own = (
        model_of(lambda x, t, f=f: f(x @ MATRIX.T)) for f in (torch.sin, WithoutVmap.apply)
    )
    wanted, found = (
        fastgen.log_likelihood(m, X, seed=1, **KINDS[kind], **TIGHT) for m in (seen, own)
    )
    assert torch.allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_network(kind):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))

    def field(x, t):
        return net(x) + t[:, None]

    options = {"rtol": 1e-4, "atol": 1e-4, **KINDS[kind]}
    schedule = schedules.Rectified()
    eager, compiled = (
        fastgen.Model(f, schedule, "velocity") for f in (field, torch.compile(field))
    )
    wanted = fastgen.log_likelihood(eager, X.float(), **options)
    found = fastgen.log_likelihood(compiled, X.float(), **options)
    assert torch.allclose(found, wanted, atol=1e-3)


def test_derivatives_of_the_likelihood_in_every_mode():
    """log p is quadratic: grad = -F^T F x."""
    net = model_of(lambda x, t: x @ MATRIX.T)

    def of(x):
        return fastgen.log_likelihood(net, x, differentiable=True, **TIGHT)

    wanted = -X @ FLOW.T @ FLOW
    assert torch.allclose(func.grad(lambda x: of(x).sum())(X), wanted, atol=1e-7)
    assert torch.allclose(func.jvp(of, (X,), (X,))[1], (wanted * X).sum(1), atol=1e-7)
    x = X.clone().requires_grad_()
    (found,) = torch.autograd.grad(of(x).sum(), x)
    assert torch.allclose(found, wanted, atol=1e-7)


def test_forward_mode_sees_the_divergence():
    """Of v = x^2 / 2: div v = sum x, whose derivative is 1."""
    x = X.abs()
    estimate = Divergence("exact", None, 64, x, 0, None)

    def divergence(x):
        return estimate(lambda x: x.square() / 2, x, torch.arange(len(x)))[1].sum(1)

    found = func.jvp(divergence, (x,), (torch.ones_like(x),))[1]
    assert torch.allclose(found, torch.full((3,), 2.0, dtype=D))


def test_the_gradient_at_a_jacobian_of_zero():
    """Estimates by hutch++ have the gradient of the trace itself on average over the probes."""
    net = Linear(torch.zeros(2, 2, dtype=D))
    x = torch.zeros(256, 2, dtype=D)  # every sample has probes of its own
    found = fastgen.log_likelihood(
        model_of(net), x, divergence="hutch++", seed=0, differentiable=True, **TIGHT
    )
    (gradient,) = torch.autograd.grad(found.mean(), net.a)
    assert torch.isfinite(gradient).all()
    assert torch.allclose(gradient, torch.eye(2, dtype=D), atol=0.2)  # d tr A / dA


@pytest.mark.parametrize("needs", [False, True])
@pytest.mark.parametrize("way", ["adjoint", Adjoint(rtol=1e-9, atol=1e-9)])
def test_the_adjoint_finds_the_networks_parameters(needs, way):
    results = []
    for gradient in ("through", way):
        net, x = Linear(), X.clone().requires_grad_(needs)
        found = fastgen.log_likelihood(
            model_of(net), x, differentiable=True, gradient=gradient, **TIGHT
        )
        found.mean().backward()
        results.append(net.a.grad)
    assert torch.allclose(*results, atol=1e-6)


def test_fixed_steps():
    found = fastgen.log_likelihood(model_of(Linear()), X, method="rk4", step_size=0.01, dtype=D)
    assert torch.allclose(found, EXACT, atol=1e-7)
    with pytest.raises(ValueError, match=r"rtol=0.1: 'rk4' takes step_size"):
        fastgen.log_likelihood(model_of(Linear()), X, method="rk4", step_size=0.01, rtol=0.1)


PARTS = {
    "a column": lambda y: torch.cat([y[:, :1], y[:, 1:].detach()], 1),
    "a term": lambda y: 0.5 * y + (0.5 * y).detach(),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_that_is_detached_does_not_count_as_zero(part, kind):
    net = Linear()
    model = model_of(lambda x, t: PARTS[part](net(x, t)))
    with pytest.raises(ValueError, match="net: autograd recorded a part of its derivative in x"):
        fastgen.log_likelihood(model, X, **KINDS[kind], **TIGHT)
    solver = ODESolver(lambda x, t: PARTS[part](net(x, t)))
    with pytest.raises(ValueError, match="velocity_model: autograd recorded a part"):
        solver.compute_likelihood(X, log_normal, step_size=0.5)


def test_a_detached_diffusion_of_milstein_does_not_count_as_constant():
    def diffusion(t, y):
        return 0.3 * torch.cos(y).detach() + 0.1 * y

    with pytest.raises(ValueError, match="g: autograd recorded a part of its derivative in y"):
        fastgen.sdeint(lambda t, y: -y, diffusion, X, [0.0, 1.0], method="milstein", steps=4)


NOT_IN_DOUBT = {
    "kinks": nn.Sequential(nn.Linear(2, 64, dtype=D), nn.ReLU(), nn.Linear(64, 2, dtype=D)),
    "steep": lambda x: torch.sin(1e4 * x),
    "of the whole batch": lambda x: x - x.mean(0) + torch.tanh(x),
    "by itself once": lambda x: torch.utils.checkpoint.checkpoint(
        torch.sin, x, use_reentrant=False
    ),
}


@pytest.mark.parametrize("name", NOT_IN_DOUBT)
def test_derivatives_that_are_whole_pass(name):
    torch.manual_seed(0)
    net = NOT_IN_DOUBT[name]
    x = torch.cat([torch.zeros(1, 2, dtype=D), X])
    check_whole_derivative("f", net, x)
    check_whole_derivative("f", lambda x: net(x) + torch.randn_like(x), x)
