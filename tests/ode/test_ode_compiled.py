"""Vector fields compiled by torch.compile: the same steps, and errors with names."""

import pytest
import torch
from torch import nn

import fastgen
from fastgen.common.compiled_calls import CompiledCall
from fastgen.common.compiled_kernels import kernels_of
from fastgen.kernels.runge_kutta.cpp import CppOperations
from fastgen.ode import compiled
from tests.support.compiling import counted

T = torch.linspace(0, 3, 7).double()


def van_der_pol(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, 3 * (1 - x * x) * v - x], -1)


def both(f, y0, t=T, **options):
    options = {"rtol": 1e-6, "atol": 1e-6, **options}
    return (fastgen.odeint(f, y0, t, compile=compile, **options) for compile in (True, False))


def states(rows, dtype=torch.float64):
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(rows)).to(dtype)


@pytest.fixture
def driven(monkeypatch):
    """How often C++ ran steps on compiled kernels by itself."""
    seen, whole = [], CppOperations.drive

    def drive(self, *arguments):
        seen.append(arguments)
        return whole(self, *arguments)

    monkeypatch.setattr(CppOperations, "drive", drive)
    return seen


def from_python(monkeypatch, f, y0, t=T, **options):
    """The same compiled code, called from Python."""
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "kernels_of", lambda call: None)
        return fastgen.odeint(f, y0, t, compile=True, return_solution=True, **options)


def test_one_compilation_serves_all_batches(monkeypatch, driven):
    made = counted(monkeypatch)
    for rows in (6, 9, 30):
        y0 = states(rows, torch.float32)
        got, wanted = both(van_der_pol, y0, return_solution=True)
        assert torch.allclose(got.ys, wanted.ys, rtol=0, atol=1e-4)
        assert driven
        driven.clear()
        same = from_python(monkeypatch, van_der_pol, y0, rtol=1e-6, atol=1e-6)
        assert not driven
        assert torch.equal(got.ys, same.ys)
        assert got.stats.calls == same.stats.calls
        assert torch.equal(got.stats.rejected, same.stats.rejected)
    assert len(made) == 1


@pytest.mark.slow
def test_kernels_of_trees_and_of_fewer_rows(monkeypatch, driven):
    speeds = torch.tensor([0.1, 5.0, 1.0, 2.0]).double()

    y0 = states(4)[:, 0], states(4)[:, 1]

    def f(t, y, rows):
        x, v = y
        return v * torch.sin(t), -speeds[rows] * x - 0.1 * v

    t = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 9.0], [0.0, 2.0]]).double()
    got, wanted = both(f, y0, t, return_solution=True)
    assert driven
    same = from_python(monkeypatch, f, y0, t, rtol=1e-6, atol=1e-6)
    for x, plain, y in zip(got.ys, wanted.ys, same.ys, strict=True):
        assert torch.equal(x, y)
        assert torch.allclose(x, plain, rtol=0, atol=1e-10)
    assert torch.equal(got.stats.accepted, wanted.stats.accepted)


@pytest.mark.slow
def test_random_values_are_noticed_in_compiled_kernels():
    def f(t, y):
        return y + torch.rand_like(y)

    with pytest.raises(RuntimeError, match="evaluated twice"):
        fastgen.odeint(f, states(3), T, compile=True)


class Code:
    """As torch makes it: a function of a list that it empties."""

    def __init__(self, source, **names):
        exec(f"def call(self, args):\n x, = args\n args.clear()\n {source}\n return ()", names)
        self.call = names["call"].__get__(self)


@pytest.mark.parametrize(
    "source",
    [
        "extern_kernels.mm(x, x, out=x)",
        "cpp_fused_0(x); x.copy_(x)",
        "cpp_fused_0(x); torch.sin(x)",
        "cpp_fused_0(x)",  # of no extension
    ],
)
def test_code_that_is_more_than_kernels_has_none(source):
    names = {"extern_kernels": torch, "torch": torch, "cpp_fused_0": lambda x: None}
    call = CompiledCall(Code(source, **names).call, [torch.ones(2, 2)])
    assert kernels_of(call) is None


def test_calls_that_are_not_code_have_no_kernels():
    assert kernels_of(lambda: None) is None


@pytest.mark.usefixtures("uncompiled")
class TestTraced:
    def test_bits_and_statistics(self):
        for rows in (1, 4):
            got, wanted = both(van_der_pol, states(rows), return_solution=True)
            assert torch.equal(got.ys, wanted.ys)
            assert got.stats.calls == wanted.stats.calls
            assert torch.equal(got.stats.accepted, wanted.stats.accepted)

    @pytest.mark.parametrize("backend", ["cpp", "reference"])
    def test_trees(self, backend):
        def f(t, y):
            return {"x": y["v"], "v": -y["x"] * t[:, None]}

        y0 = {"x": states(3), "v": states(3) + 1}
        got, wanted = both(f, y0, backend=backend)
        assert all(torch.equal(got[name], wanted[name]) for name in y0)

    def test_joint_steps(self):
        y0 = states(3)
        got, wanted = both(lambda t, y: -y * t, y0, step="joint")
        assert torch.equal(got, wanted)

    def test_mask(self):
        live = torch.tensor([[True, True], [True, False]])
        got, wanted = both(lambda t, y: y.sum(1, keepdim=True) - y, states(2), mask=live)
        assert torch.equal(got, wanted)
        assert (got[:, 1, 1] == 0).all()

    def test_rows_that_end_early_are_left_out(self):
        speeds = torch.tensor([0.1, 5.0, 1.0]).double()[:, None]

        def f(t, y, rows):
            return -speeds[rows] * y

        t = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 9.0]]).double()
        got, wanted = both(f, states(3), t)
        assert torch.equal(got, wanted)

    def test_event(self):
        got, wanted = both(
            van_der_pol, states(3), return_solution=True, event=lambda t, y: y[:, 0] - 0.5,
            gradient="none",
        )  # fmt: skip
        assert torch.equal(got.reached, wanted.reached)

    @pytest.mark.parametrize("gradient", ["through", "adjoint"])
    def test_gradients(self, gradient):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()

        class Flow(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = net

            def forward(self, t, y):
                return self.net(y)

        found = []
        for compile in (True, False):
            y0 = states(3).requires_grad_()
            ys = fastgen.odeint(Flow(), y0, T, compile=compile, gradient=gradient)
            found.append((ys.detach(), *torch.autograd.grad(ys.sum(), [y0, *net.parameters()])))
        for got, wanted in zip(*found, strict=True):
            assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-12)

    def test_hidden_parameters_have_gradients(self):
        rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        ys = fastgen.odeint(lambda t, y: -rate * y, states(2), T, compile=True)
        assert torch.autograd.grad(ys.sum(), rate)[0] != 0

    def test_what_f_depends_on_may_change_between_solves(self):
        class Decay:
            rate = 1.0
            weight = torch.ones(2).double()

            def __call__(self, t, y):
                return -self.rate * self.weight * y

        f = Decay()
        for rate, scale in ((1.0, 1.0), (2.0, 1.0), (2.0, 3.0)):
            f.rate = rate
            f.weight = f.weight.fill_(scale) if scale == 1 else f.weight * scale
            got, wanted = both(f, states(2))
            assert torch.equal(got, wanted)

    def test_functions_made_anew_are_not_compiled_anew(self, uncompiled):
        for shift in (0.5, 0.5, 0.5):
            fastgen.odeint(lambda t, y, shift=shift: shift - y, states(3), T, compile=True)
        assert len(uncompiled) == 1

    def test_callback_sees_every_step(self):
        seen = []
        fastgen.odeint(van_der_pol, states(2), T, compile=True, callback=seen.append)
        assert len(seen) > 5


@pytest.mark.usefixtures("uncompiled")
class TestRefused:
    def test_fixed_steps(self):
        with pytest.raises(ValueError, match=r"compile=True: for methods of varying steps"):
            fastgen.odeint(van_der_pol, states(2), T, method="rk4", step_size=0.1, compile=True)

    def test_transforms(self):
        def solve(y0):
            return fastgen.odeint(van_der_pol, y0, T, compile=True)

        with pytest.raises(ValueError, match="compile=True: not for forward-mode"):
            torch.func.jvp(solve, (states(2),), (states(2),))

    def test_f_that_reads_values_back(self):
        def f(t, y):
            return -y if float(y.sum()) > 0 else y

        with pytest.raises(ValueError, match=r"torch\.compile cannot make one graph"):
            fastgen.odeint(f, states(2), T, compile=True)

    def test_wrong_shape_and_writing_are_named_as_without(self):
        with pytest.raises(ValueError, match="f: expected a real tensor of shape"):
            fastgen.odeint(lambda t, y: y.T, states(3), T, compile=True)

        def writes(t, y):
            return y.neg_()

        with pytest.raises(ValueError, match="f: it changed its input in place"):
            fastgen.odeint(writes, states(3), T, compile=True)

    def test_an_error_of_f_is_its_own(self):
        def f(t, y):
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            fastgen.odeint(f, states(3), T, compile=True)
