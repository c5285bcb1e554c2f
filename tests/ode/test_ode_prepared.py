"""Solves that are prepared once: the bits of `odeint`, whatever came before, and errors."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

import fastgen
from fastgen.ode import compile_odeint

T = torch.linspace(0, 3, 5).double()


def pendulum(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, -torch.sin(x) - 0.1 * v * t], -1)


def spring(t, y):
    return {"x": y["v"], "v": -y["x"] * t[:, None]}


def states(rows=4, seed=0, dtype=torch.float64):
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2, dtype=torch.float64)

    def forward(self, t, y):
        return torch.tanh(self.layer(y)) * t[:, None].cos()


class Scale(nn.Module):
    """An f whose compiled code is kernels alone, with a weight."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, t, y):
        return -self.rate * y


def test_compiled_kernels_and_their_weights():
    net = Scale()
    solve = compile_odeint(net, states(), T)
    assert solve._program is not None
    for seed in range(3):
        y0 = states(seed=seed)
        assert torch.equal(solve(y0), fastgen.odeint(net, y0, T, compile=True, gradient="none"))
    exact = states() * torch.exp(-T[:, None, None])
    assert torch.allclose(solve(states()), exact, rtol=1e-4, atol=0)
    with torch.no_grad():
        net.rate.mul_(2)
    assert torch.allclose(solve(states()), exact * torch.exp(-T[:, None, None]), rtol=1e-3, atol=0)
    net.rate.data = torch.zeros(2, dtype=torch.float64)  # other memory
    assert torch.equal(solve(states()), states().expand(5, -1, -1))


@pytest.mark.slow
def test_compiled_code_with_products():
    net = Net()
    solve = compile_odeint(net, states(), T)
    assert solve._program is None
    for seed in range(2):
        y0 = states(seed=seed)
        assert torch.equal(solve(y0), fastgen.odeint(net, y0, T, compile=True, gradient="none"))


@pytest.mark.usefixtures("uncompiled")
class TestTraced:
    @pytest.mark.parametrize("method", ["dopri5", "bosh3", "dopri8", "tsit5"])
    @pytest.mark.parametrize("step", ["per_sample", "joint"])
    def test_bits_of_odeint(self, method, step):
        options = {"method": method, "step": step, "rtol": 1e-7, "atol": 1e-8, "first_step": 0.01}
        f = pendulum if step == "per_sample" else lambda t, y: pendulum(t[None], y)
        solve = compile_odeint(f, torch.zeros(4, 2).double(), T, **options)
        for seed in range(3):
            y0 = states(seed=seed)
            assert torch.equal(solve(y0), fastgen.odeint(f, y0, T, **options))

    def test_no_samples(self):
        solve = compile_odeint(pendulum, states(0), T)
        assert solve(states(0)).shape == (5, 0, 2)

    def test_other_times_and_back(self):
        solve, y0 = compile_odeint(pendulum, states(), T, max_step=0.3), states(seed=1)
        own = solve(y0)
        back = T.flip(0)
        assert torch.equal(solve(y0, back), fastgen.odeint(pendulum, y0, back, max_step=0.3))
        assert torch.equal(solve(y0), own)

    def test_times_and_tolerances_of_each_sample(self):
        t = torch.tensor([[0.0, 1.0], [1.0, 0.5], [0.0, 0.0], [2.0, 9.0]]).double()
        rtol = torch.tensor([1e-3, 1e-5, 1e-5, 1e-7])
        solve = compile_odeint(pendulum, states(), t, rtol=rtol, controller="pid")
        wanted = fastgen.odeint(pendulum, states(seed=2), t, rtol=rtol, controller="pid")
        assert torch.equal(solve(states(seed=2)), wanted)

    def test_trees_and_layouts(self):
        y0 = {"x": states(3), "v": states(3, 1)}
        solve = compile_odeint(spring, y0, T)
        y0 = {"x": states(3, 2), "v": states(6, 3)[::2]}
        for name, wanted in fastgen.odeint(spring, y0, T).items():
            assert torch.equal(solve(y0)[name], wanted)

    def test_images_with_channels_last(self):
        y0 = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
        solve = compile_odeint(lambda t, y: -y, y0, [0.0, 1.0])
        assert torch.equal(solve(y0), fastgen.odeint(lambda t, y: -y, y0, [0.0, 1.0]))
        plain = y0.contiguous()
        assert torch.equal(solve(plain), solve(y0))

    def test_results_are_left_alone_by_later_solves(self):
        solve = compile_odeint(pendulum, states(), T)
        first = solve(states())
        kept = first.clone()
        solve(states(seed=5))
        assert torch.equal(first, kept)

    def test_inference_mode_and_out_of_it(self):
        with torch.inference_mode():
            solve = compile_odeint(pendulum, states(), T)
            inside = solve(states())
        assert torch.equal(solve(states()), inside)

    def test_threads_wait_for_one_another(self):
        solve, found = compile_odeint(pendulum, states(), T), {}

        def work(seed):
            found[seed] = [solve(states(seed=seed)) for _ in range(5)]

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for seed, results in found.items():
            wanted = fastgen.odeint(pendulum, states(seed=seed), T)
            assert all(torch.equal(x, wanted) for x in results)

    def test_copies_have_their_own_memory(self):
        solve = compile_odeint(pendulum, states(), T, rtol=1e-3)
        for other in (copy.deepcopy(solve), pickle.loads(pickle.dumps(solve))):
            assert other._w is not solve._w
            assert torch.equal(other(states(seed=1)), solve(states(seed=1)))

    def test_a_failed_solve_names_the_sample_and_the_next_is_right(self):
        def f(t, y):
            return torch.where(y > 5, torch.nan, y)

        y0 = torch.tensor([[1.0], [2.0]]).double()
        solve = compile_odeint(f, y0, [0.0, 1.0])
        with pytest.raises(RuntimeError, match=r"sample 1 stopped at .* not finite"):
            solve(y0)
        assert torch.equal(solve(y0 / 10), fastgen.odeint(f, y0 / 10, [0.0, 1.0]))

    def test_random_values_are_noticed(self):
        solve = compile_odeint(lambda t, y: y + torch.rand_like(y), states(), T)
        with pytest.raises(RuntimeError, match="evaluated twice"):
            solve(states())

    def test_what_was_not_prepared_is_refused(self):
        solve = compile_odeint(pendulum, states(), T)
        for y0, message in (
            (states(5), r"y0: prepared for torch.float64 \(4, 2\)"),
            (states().float(), r"got torch.float32"),
            (states().to("meta"), "y0: expected a tensor with memory"),
            (states().requires_grad_(), "y0: no gradients go through"),
        ):
            with pytest.raises(ValueError, match=message):
                solve(y0)
        with pytest.raises(TypeError, match="y0: expected a tensor"):
            solve([1.0, 2.0])
        with pytest.raises(ValueError, match="t: prepared for times"):
            solve(states(), [0.0, 1.0])
        with pytest.raises(ValueError, match="t: no gradients"):
            solve(states(), T.clone().requires_grad_())
        with pytest.raises(ValueError, match=r"torch\.func"):
            torch.func.jvp(solve, (states(),), (states(),))
        tree = compile_odeint(spring, {"x": states(), "v": states()}, T)
        with pytest.raises(TypeError, match="y0: prepared for the structure"):
            tree((states(), states()))
        assert torch.equal(solve(states()), fastgen.odeint(pendulum, states(), T))

    def test_what_cannot_be_prepared_is_refused(self):
        for options, message in (
            ({"method": "rk4"}, "method='rk4': a compiled solve has varying steps"),
            ({"y0": states().requires_grad_()}, "y0: no gradients go through"),
            ({"y0": states().to("meta")}, "y0: .* meta"),
            ({"step": "each"}, "step"),
        ):
            given = {"f": pendulum, "y0": states(), "t": T, **options}
            with pytest.raises(ValueError, match=message):
                compile_odeint(**given)

        def printing(t, y):
            print(float(y.sum()))
            return y

        with pytest.raises(ValueError, match="cannot make one graph of f"):
            compile_odeint(printing, states(), T)


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setenv("FASTGEN_BACKEND", "reference")
    with pytest.raises(ValueError, match="FASTGEN_BACKEND"):
        compile_odeint(pendulum, states(), T)
