"""`odeint` and its drop-in under forward-mode derivatives and `torch.func`: y' = A y."""

import pytest
import torch
from torch import func
from torch.autograd import forward_ad, functional

import fastgen
from fastgen.integrations import torchdiffeq
from fastgen.ode import Adjoint

D = torch.float64
MATRIX = torch.tensor([[0.1, 1.0], [-0.5, -0.2]], dtype=D)
FLOW = torch.linalg.matrix_exp(MATRIX)
Y = torch.tensor([[0.7, -0.2], [1.1, 0.4], [-0.3, 0.9]], dtype=D)
TIMES = torch.tensor([0.0, 0.4, 1.0], dtype=D)
WAYS = {
    "dopri5": {"rtol": 1e-9, "atol": 1e-9},
    "joint steps": {"rtol": 1e-9, "atol": 1e-9, "step": "joint"},
    "bosh3": {"method": "bosh3", "rtol": 1e-8, "atol": 1e-8},
    "rk4": {"method": "rk4", "step_size": 0.02},
    "explicit_adams": {"method": "explicit_adams", "step_size": 0.005},
}


def field(t, y):
    return y @ MATRIX.T


def solve(y, way="dopri5", times=TIMES, f=field, **options):
    return fastgen.odeint(f, y, times, **WAYS[way], **options)[-1]


def own_jacobians(jacobian):
    """The blocks [B, D, D] of samples by themselves, of [B, D, B, D]."""
    return jacobian.diagonal(dim1=0, dim2=2).permute(2, 0, 1)


JACOBIANS = {
    "jacfwd": lambda f: func.jacfwd(f)(Y),
    "jacrev": lambda f: func.jacrev(f)(Y),
    "forward-mode": lambda f: functional.jacobian(f, Y, strategy="forward-mode", vectorize=True),
    "vectorised": lambda f: functional.jacobian(f, Y, vectorize=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", JACOBIANS)
def test_jacobians_are_matrix_exponentials(way, how):
    found = own_jacobians(JACOBIANS[how](lambda y: solve(y, way)))
    assert torch.allclose(found, FLOW.expand(3, 2, 2), atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_second_derivatives(way):
    found = own_jacobians(func.hessian(lambda y: solve(y, way).square().sum())(Y))
    assert torch.allclose(found, (2 * FLOW.T @ FLOW).expand(3, 2, 2), atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_dual_numbers_in_the_state_and_in_what_the_field_holds(way, mode):
    """d/da exp(a A) y = A exp(A) y at a = 1."""
    with mode(), forward_ad.dual_level():
        y = forward_ad.make_dual(Y, torch.ones_like(Y))
        found = forward_ad.unpack_dual(solve(y, way))
        a = forward_ad.make_dual(torch.ones((), dtype=D), torch.ones((), dtype=D))
        scaled = forward_ad.unpack_dual(solve(Y, way, f=lambda t, y: a * (y @ MATRIX.T)))
    assert torch.equal(found.primal, solve(Y, way))
    assert torch.allclose(found.tangent, torch.ones_like(Y) @ FLOW.T, atol=1e-6)
    assert torch.allclose(scaled.tangent, Y @ FLOW.T @ MATRIX.T, atol=1e-6)


@pytest.mark.parametrize("way", ["dopri5", "joint steps", "rk4"])
def test_derivatives_in_the_times(way):
    """y(t_1) moves by A y(t_1), and with the start by -A y(t_1)."""
    slope = Y @ FLOW.T @ MATRIX.T
    for tangent, sign in (([0.0, 1.0], 1.0), ([1.0, 0.0], -1.0)):
        times = torch.tensor([0.0, 1.0], dtype=D)
        move = torch.tensor(tangent, dtype=D)
        found = func.jvp(lambda t: solve(Y, way, t), (times,), (move,))[1]
        assert torch.allclose(found, sign * slope, atol=1e-6)


def test_trees_of_tensors():
    def both(a, b):
        found = fastgen.odeint(
            lambda t, s: {"a": s["b"], "b": -s["a"]}, {"a": a, "b": b}, [0.0, 1.0], **WAYS["dopri5"]
        )
        return found["a"][-1]

    ones = torch.ones_like(Y)
    along_a = func.jvp(lambda a: both(a, Y), (Y,), (ones,))[1]
    assert torch.allclose(along_a, torch.full_like(Y, 1.0).cos(), atol=1e-7)


def test_vmap_of_fixed_steps_and_of_what_the_field_holds():
    factors = torch.tensor([0.5, 1.0], dtype=D)

    def f(a):
        return solve(Y, "rk4", f=lambda t, y: a * (y @ MATRIX.T))

    found = torch.vmap(f)(factors)
    wanted = torch.stack([f(a) for a in factors])
    assert torch.allclose(found, wanted, atol=1e-12)
    pair = torch.stack([Y, 2 * Y])
    assert torch.allclose(torch.vmap(lambda y: solve(y, "rk4"))(pair)[1], 2 * solve(Y, "rk4"))


def test_varying_steps_under_vmap_are_refused_by_name():
    with pytest.raises(ValueError, match=r"y0: fastgen.odeint under torch.vmap"):
        torch.vmap(solve)(torch.stack([Y, Y]))
    with pytest.raises(ValueError, match=r"fastgen.odeint under torch.vmap or torch.func.func"):
        torch.vmap(lambda a: solve(Y, f=lambda t, y: a * y))(torch.ones(2, dtype=D))
    with pytest.raises(ValueError, match=r"fastgen.odeint under torch.vmap or torch.func.func"):
        func.functionalize(solve)(Y)


@pytest.mark.parametrize("gradient", ["adjoint", Adjoint()])
def test_the_adjoint_is_for_backward_alone(gradient):
    with pytest.raises(ValueError, match="use gradient='through'"):
        func.jvp(lambda y: solve(y, gradient=gradient), (Y,), (Y,))


def test_without_gradients_there_are_no_tangents():
    found = func.jvp(lambda y: solve(y, gradient="none"), (Y,), (Y,))
    assert torch.equal(found[0], solve(Y))
    assert not found[1].any()


def test_nothing_is_left_behind():
    before = solve(Y)
    func.grad(lambda y: solve(y).sum())(Y)
    assert torch.equal(solve(Y), before)


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "rk4", "euler"])
def test_the_drop_in(method):
    options = {"step_size": 0.02} if method in ("rk4", "euler") else None

    def run(y):
        return torchdiffeq.odeint(
            field, y, TIMES, method=method, rtol=1e-9, atol=1e-9, options=options
        )[-1]

    found = own_jacobians(func.jacfwd(run)(Y))
    reverse = own_jacobians(functional.jacobian(run, Y))
    assert torch.allclose(found, reverse, atol=1e-9)
    assert torch.allclose(found, FLOW.expand(3, 2, 2), atol=0.03 if method == "euler" else 1e-6)


def test_the_drop_ins_adjoint_refuses():
    with pytest.raises(ValueError, match="y0: odeint_adjoint"):
        func.jvp(
            lambda y: torchdiffeq.odeint_adjoint(field, y, TIMES, adjoint_params=()), (Y,), (Y,)
        )


def test_the_adjoint_refuses_what_is_not_recorded():
    def detached(t, y):
        return (y @ MATRIX.T).detach()

    y = Y.clone().requires_grad_()
    found = fastgen.odeint(detached, y, [0.0, 1.0], gradient="adjoint")
    with pytest.raises(ValueError, match=r"f: .*did not record"):
        found.sum().backward()
    constant = fastgen.odeint(lambda t, y: torch.ones_like(y), y, [0.0, 1.0], gradient="adjoint")
    (gradient,) = torch.autograd.grad(constant[-1].sum(), y)
    assert torch.allclose(gradient, torch.ones_like(y))


@pytest.mark.parametrize("needs", [False, True])
def test_the_adjoint_does_not_lose_what_a_closure_holds(needs):
    w = torch.ones((), dtype=D, requires_grad=True)
    y = Y.clone().requires_grad_(needs)
    with pytest.raises(ValueError, match=r"gradient=Adjoint\(parameters="):
        fastgen.odeint(lambda t, y: w * y, y, [0.0, 1.0], gradient="adjoint")
    named = Adjoint(parameters=(w,), rtol=1e-9, atol=1e-9)
    found = fastgen.odeint(lambda t, y: w * y, y, [0.0, 1.0], gradient=named, **WAYS["dopri5"])
    found[-1].sum().backward()
    assert w.grad.item() == pytest.approx((Y * torch.e).sum().item(), rel=1e-6)


def test_tolerances_of_fixed_steps_are_refused():
    for name in ("rtol", "atol"):
        with pytest.raises(ValueError, match=f"{name}=0.001: 'rk4' takes step_size"):
            fastgen.odeint(field, Y, [0.0, 1.0], method="rk4", step_size=0.1, **{name: 1e-3})


def test_a_field_that_takes_rows_runs_with_fixed_steps():
    rates = torch.tensor([1.0, 2.0, 3.0], dtype=D)

    def f(t, y, rows):
        return -rates[rows][:, None] * y

    found = fastgen.odeint(f, Y, [0.0, 1.0], method="rk4", step_size=0.01)[-1]
    assert torch.allclose(found, Y * torch.exp(-rates)[:, None], atol=1e-8)


def test_the_first_step_is_not_rounded():
    """One step of 0.1 in float64 ends where the times end."""
    seen = []

    def f(t, y):
        seen.extend(t.tolist())
        return torch.ones_like(y)

    fastgen.odeint(f, Y[:1], [0.0, 0.3], first_step=0.1, max_step=0.1, method="bosh3")
    assert 0.1 in seen
