"""Networks and stages compiled together: the same samples, whatever changes between runs."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import fastgen
from fastgen.common.compiled_calls import CompiledFunction
from fastgen.networks import MLP
from fastgen.schedules import EDM, CosineVP, Rectified
from tests.support.compiling import counted

SHAPE = (3, 2)


def mlp(seed=0):
    torch.manual_seed(seed)
    return MLP((2,), [8, 8])


def pair(model, solver, steps, compile=True, **options):
    plan = fastgen.plan(solver, model.schedule, steps, **options)
    return fastgen.Sampler(model, plan, compile=compile), fastgen.Sampler(model, plan)


def agree(sampler, plain, shape=SHAPE, **arguments):
    got, wanted = sampler(shape, **arguments), plain(shape, **arguments)
    assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_compiled_code(monkeypatch):
    made = counted(monkeypatch)
    model = fastgen.Model(mlp(), Rectified(), "velocity")
    sampler, plain = pair(model, "euler", 12)
    for rows in (3, 5):
        agree(sampler, plain, (rows, 2), seed=rows)
    assert len(made) == 1
    agree(*pair(model, "adams_bashforth", 4, "loop"))


@pytest.mark.parametrize("solver", ["dopri5", "heun"])
def test_tangents_are_those_of_the_network_itself(solver):
    def net(x, t):
        return torch.sin(x) * (0.5 + t[:, None])

    model = fastgen.Model(net, CosineVP(), "noise", time_dtype=torch.float64)
    x, v = torch.randn(2, *SHAPE, dtype=torch.float64)

    def run(x, compile=False):
        if solver == "dopri5":
            options = {"start": 0.9, "end": 0.1, "rtol": 1e-9, "atol": 1e-9, "compile": compile}
            return fastgen.sample(model, x, solver, dtype=torch.float64, **options)
        plan = fastgen.plan(solver, model.schedule, 4, start=0.9, end=0.1)
        sampler = fastgen.Sampler(model, plan, dtype=torch.float64, compile=compile)
        return sampler(x, differentiable=True)

    with forward_ad.dual_level():
        dual = run(forward_ad.make_dual(x, v), compile=True)
        tangent = forward_ad.unpack_dual(dual).tangent
    step = 1e-6
    want = (run(x + step * v) - run(x - step * v)) / (2 * step)
    torch.testing.assert_close(tangent, want, rtol=1e-5, atol=1e-5 * want.abs().max().item())


@pytest.mark.usefixtures("uncompiled")
class TestTraced:
    @pytest.mark.parametrize(
        ("solver", "options"),
        [
            ("ddpm", {}),
            ("dpmpp_2m", {"clip": (-1, 1)}),
            pytest.param("adams_bashforth", {"order": 4}, marks=pytest.mark.slow),
            pytest.param("dpmpp_sde", {}, marks=pytest.mark.slow),
            pytest.param("heun", {}, marks=pytest.mark.slow),
            pytest.param("unipc", {}, marks=pytest.mark.slow),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_solvers(self, solver, options):
        model = fastgen.Model(mlp(), CosineVP(), "noise")
        sampler, plain = pair(model, solver, 4, **options)
        for seed in (1, 2):
            agree(sampler, plain, seed=seed)

    @pytest.mark.parametrize("compile", [True, pytest.param("loop", marks=pytest.mark.slow)])
    def test_scaled_inputs_of_another_dtype(self, compile):
        model = fastgen.Model(mlp().to(torch.bfloat16), EDM(), "edm")
        sampler, plain = pair(model, "dpmpp_2m", 3, compile)
        assert torch.allclose(sampler(SHAPE), plain(SHAPE), rtol=2e-2, atol=2e-2)

    def test_steps_of_one_kind_are_one_graph(self, uncompiled):
        model = fastgen.Model(mlp(), Rectified(), "velocity")
        agree(*pair(model, "euler", 20))
        assert len(uncompiled) <= 1  # 0 where another test has made it

    def test_a_loop_is_one_graph(self, uncompiled):
        model = fastgen.Model(mlp(), Rectified(), "velocity")
        agree(*pair(model, "adams_bashforth", 5, "loop", order=3))
        assert len(uncompiled) == 1

    @pytest.mark.parametrize("compile", [True, "loop"])
    def test_what_a_network_depends_on_may_change_between_runs(self, compile):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner, self.factor = mlp(), 1.0

            def forward(self, x, t):
                return self.factor * self.inner(x, t)

        net = Scaled()
        sampler, plain = pair(fastgen.Model(net, Rectified(), "velocity"), "heun", 3, compile)
        agree(sampler, plain)
        net.factor = 2.0
        agree(sampler, plain)
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(1.1)
        agree(sampler, plain)
        net.inner = mlp(seed=5)
        agree(sampler, plain)
        net.load_state_dict(net.state_dict(), assign=True)
        agree(sampler, plain)

    @pytest.mark.parametrize("loop", [False, True])
    def test_made_for_a_shape(self, loop, uncompiled):
        net = mlp()
        plan = fastgen.plan("heun", Rectified(), 3)
        plain = fastgen.Sampler(fastgen.Model(net, Rectified(), "velocity"), plan)
        sampler = plain.compile(SHAPE, loop=loop)
        made = len(uncompiled)
        agree(sampler, plain, seed=3)
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(1.1)
        agree(sampler, plain, seed=4)
        assert len(uncompiled) == made
        agree(sampler, plain, (5, 2), seed=5)
        x, states = sampler(SHAPE, trajectory=True)
        assert torch.equal(x, states[-1])

    def test_the_network_is_looked_at_once_for_a_shape(self, monkeypatch):
        model = fastgen.Model(mlp(), Rectified(), "velocity")
        sampler = fastgen.Sampler(model, fastgen.plan("euler", Rectified(), 3)).compile(SHAPE)
        looks = []
        bound = CompiledFunction.bound
        monkeypatch.setattr(CompiledFunction, "bound", lambda *a: looks.append(a) or bound(*a))
        for seed in range(3):
            sampler(SHAPE, seed=seed)
        assert not looks
        sampler((4, 2))
        assert looks

    def test_modes_of_a_shape(self):
        plain = fastgen.Sampler(
            fastgen.Model(mlp(), CosineVP(), "noise"), fastgen.plan("ddpm", CosineVP(), 3)
        )
        sampler = plain.compile(SHAPE)
        for other in (sampler, copy.deepcopy(sampler), copy.copy(sampler)):
            with torch.inference_mode():
                agree(other, plain, seed=3)
            agree(other, plain, seed=4)
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda seed: sampler(SHAPE, seed=seed), range(9)))
        for seed, x in enumerate(found):
            assert torch.allclose(x, plain(SHAPE, seed=seed), rtol=1e-5, atol=1e-6)

    def test_arguments_of_a_shape(self):
        def net(x, t, shift):
            return x * t[:, None] + shift

        plain = fastgen.Sampler(
            fastgen.Model(net, CosineVP(), "noise"), fastgen.plan("ddpm", CosineVP(), 3)
        )
        sampler = plain.compile(SHAPE, shift=torch.zeros(SHAPE))
        for shift in (0.5, 1.5):
            agree(sampler, plain, seed=[3, 4, 5], shift=torch.full(SHAPE, shift))
            agree(sampler, plain, seed=3, shift=torch.full(SHAPE, shift))

    def test_guidance_of_a_shape(self):
        def net(x, t, label):
            return x * label[:, None]

        plain = fastgen.Sampler(
            fastgen.Model(net, Rectified(), "velocity"),
            fastgen.plan("euler", Rectified(), 3),
            guidance=fastgen.Guidance(2.0, unconditional={"label": torch.zeros(3)}),
        )
        agree(plain.compile(SHAPE, label=torch.ones(3)), plain, label=torch.ones(3))

    def test_arguments(self):
        def net(x, t, shift, power=1):
            return x * t[:, None] ** power + shift

        sampler, plain = pair(fastgen.Model(net, Rectified(), "velocity"), "euler", 3)
        for shift, power in ((0.5, 1), (1.5, 1), (0.5, 2)):
            agree(sampler, plain, shift=torch.full(SHAPE, shift), power=power)

    def test_times_that_a_network_scales_in_place_stay(self):
        def net(x, t):
            return x * t.mul_(2)[:, None]

        sampler, plain = pair(fastgen.Model(net, Rectified(), "velocity"), "euler", 3)
        for _ in range(2):
            agree(sampler, plain)

    def test_runs_that_are_watched(self):
        model = fastgen.Model(mlp(), Rectified(), "velocity")
        sampler, plain = pair(model, "euler", 3)
        for got, wanted in zip(
            sampler(SHAPE, trajectory=True), plain(SHAPE, trajectory=True), strict=True
        ):
            assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-6)
        x = torch.randn(SHAPE, requires_grad=True)
        (grad,) = torch.autograd.grad(sampler(x, differentiable=True).sum(), x)
        assert grad.abs().min() > 0

    def test_error_controlled_steps(self, uncompiled):
        def draw(model, shape=SHAPE, **options):
            options = {"rtol": 1e-6, "atol": 1e-6, "dtype": torch.float64, **options}
            got, wanted = (
                fastgen.sample(model, shape, "dopri5", seed=3, compile=compile, **options)
                for compile in (True, False)
            )
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)  # of a float32 network

        net = mlp()
        model = fastgen.Model(net, CosineVP(), "noise")
        draw(model)
        made = len(uncompiled)
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(1.1)
        draw(model)
        draw(model, callback=lambda step: None)
        assert len(uncompiled) == made  # what is around the network is made anew in each call
        for rows in (7, 4, 9):  # all of them, some, and one
            draw(model, (rows, 2))
        assert len(uncompiled) <= 2 * made

        def labelled(x, t, shift):
            return torch.sin(x) * t[:, None] + shift

        conditioned = fastgen.Model(labelled, CosineVP(), "data", per_sample=("shift",))
        for value in (0.5, 1.5):
            shift = torch.full(SHAPE, value, dtype=torch.float64)
            draw(conditioned, net_kwargs={"shift": shift})

    def test_gradients_of_error_controlled_steps(self):
        model = fastgen.Model(mlp().double(), Rectified(), "velocity")
        found = []
        for compile in (True, False):
            x = torch.ones(SHAPE, dtype=torch.float64).requires_grad_()
            options = {"differentiable": True, "dtype": torch.float64}
            y = fastgen.sample(model, x, "dopri5", compile=compile, **options)
            found.append(torch.autograd.grad(y.square().sum(), [x, *model.net.parameters()]))
        for got, wanted in zip(*found, strict=True):
            torch.testing.assert_close(got, wanted)

    def test_guided_error_controlled_steps(self):
        def net(x, t, label):
            return x * label[:, None]

        model = fastgen.Model(net, Rectified(), "velocity")
        guidance = fastgen.Guidance(2.0, unconditional={"label": torch.zeros(3)})
        options = {"guidance": guidance, "net_kwargs": {"label": torch.ones(3)}}
        got, wanted = (
            fastgen.sample(model, SHAPE, "dopri5", compile=compile, **options)
            for compile in (True, False)
        )
        assert torch.allclose(got, wanted, rtol=1e-3, atol=1e-3)

    def test_guidance(self):
        def net(x, t, label):
            return x * label[:, None]

        model = fastgen.Model(net, Rectified(), "velocity")
        plan = fastgen.plan("euler", model.schedule, 3)
        label = torch.ones(3)
        found = [
            fastgen.Sampler(
                model,
                plan,
                guidance=fastgen.Guidance(2.0, unconditional={"label": torch.zeros(3)}),
                compile=compile,
            )(SHAPE, label=label)
            for compile in (True, False)
        ]
        assert torch.allclose(*found)


@pytest.mark.usefixtures("uncompiled")
class TestRefused:
    def test_other_words(self):
        with pytest.raises(ValueError, match="compile='whole'"):
            pair(fastgen.Model(mlp(), Rectified(), "velocity"), "euler", 3, "whole")

    def test_loops_of_a_shape(self):
        model = fastgen.Model(mlp(), CosineVP(), "noise")
        sampler = fastgen.Sampler(model, fastgen.plan("ddpm", CosineVP(), 3))
        with pytest.raises(ValueError, match="compile='loop': for plans without noise"):
            sampler.compile(SHAPE, loop=True)
        with pytest.raises(TypeError, match="parallel:"):
            sampler.compile(SHAPE, parallel=4)

    def test_loops_with_noise_and_long_ones(self):
        with pytest.raises(ValueError, match="compile='loop': for plans without noise"):
            pair(fastgen.Model(mlp(), CosineVP(), "noise"), "ddpm", 3, "loop")
        with pytest.raises(ValueError, match="compile='loop': 33 evaluations"):
            pair(fastgen.Model(mlp(), Rectified(), "velocity"), "euler", 33, "loop")

    def test_networks_that_read_values_back(self):
        def net(x, t):
            return x if float(x.sum()) > 0 else -x

        sampler, _ = pair(fastgen.Model(net, Rectified(), "velocity"), "euler", 3)
        with pytest.raises(ValueError, match="compile=True: torch"):
            sampler(SHAPE)

    def test_networks_of_another_shape_are_named_as_without(self):
        model = fastgen.Model(lambda x, t: x[:, :1], Rectified(), "velocity")
        for sampler in pair(model, "euler", 3):
            with pytest.raises(ValueError, match="shape"):
                sampler(SHAPE)
