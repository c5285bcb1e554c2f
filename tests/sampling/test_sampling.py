"""`Sampler` and `sample`: reproducibility, observation, gradients, dtypes and refusals."""

import itertools
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fastgen
from fastgen import schedules
from fastgen.kernels import dispatch

SCHEDULE = schedules.LinearVP()
SOLVERS = [n for n in fastgen.solvers.names() if not fastgen.solvers.get(n).two_times]


def network(x, t):
    shape = (-1, *[1] * (x.ndim - 1))
    return torch.tanh(x + 0.3) * (0.5 + t.reshape(shape).to(x.dtype))


def make(solver="ddpm", steps=5, net=network, predicts="noise", schedule=SCHEDULE, **options):
    dtype = options.pop("dtype", torch.float32)
    backend = options.pop("backend", None)
    model_options = options.pop("model", {})
    plan = fastgen.plan(solver, schedule, steps=steps, **options)
    return fastgen.Sampler(
        fastgen.Model(net, schedule, predicts, **model_options), plan, dtype=dtype, backend=backend
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_any_part_of_a_batch_can_be_drawn_again_alone(solver, backend):
    sampler = make(solver, steps=4, start=0.9, backend=backend)
    whole = sampler((6, 2, 3), seed=11)
    part = sampler((2, 2, 3), seed=11, sample_ids=[4, 1])
    assert torch.equal(part, whole[[4, 1]])
    own = sampler((3, 2, 3), seed=[7, 11, 2**64 - 1])
    assert torch.equal(own[1], whole[1])
    assert not torch.equal(own[0], whole[0])


@pytest.mark.parametrize("solver", SOLVERS)
def test_backends_agree_bit_for_bit(solver):
    results = [
        make(solver, steps=4, start=0.9, backend=b)((3, 2, 5), seed=4) for b in ("reference", "cpp")
    ]
    assert torch.equal(*results)


@pytest.mark.parametrize("solver", ["ddpm", "dpmpp_2m"])
def test_state_dtype_threads_and_layout_do_not_change_the_noise(solver):
    single = make(solver)((2, 3, 160, 160), seed=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.equal(make(solver)((2, 3, 160, 160), seed=1), single)
    torch.set_num_threads(threads)
    double = make(solver, dtype=torch.float64)((2, 3, 160, 160), seed=1)
    torch.testing.assert_close(single, double.float(), rtol=1e-4, atol=1e-4)

    def channels_last(x, t):
        return network(x, t).to(memory_format=torch.channels_last)

    assert torch.equal(make(solver, net=channels_last)((2, 3, 160, 160), seed=1), single)


def test_initial_state_from_shape_is_scaled_contract_noise():
    schedule = schedules.EDM()
    z = fastgen.randn((3, 4), seed=9)
    sampler = make("euler", schedule=schedule, predicts="data")
    x = torch.tensor(80.0) * z
    assert torch.equal(sampler((3, 4), seed=9), sampler(x, seed=9))


def test_given_state_is_left_alone_and_results_are_not_overwritten():
    x = torch.randn(2, 3)
    before = x.clone()
    sampler = make()
    first = sampler(x, seed=1)
    kept = first.clone()
    second = sampler(x, seed=2)
    assert torch.equal(x, before)
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("solver", SOLVERS)
def test_trajectory_and_callback_see_every_state(solver):
    sampler = make(solver, steps=4, start=0.9)
    plain = sampler((2, 3), seed=3)
    seen = []
    x, states = sampler(
        (2, 3),
        seed=3,
        trajectory=True,
        callback=lambda step: seen.append((step.index, step.time, step.state.clone())),
    )
    assert torch.equal(x, plain)
    visited = [state.time for state in sampler.plan.states]
    assert visited[-1] == 0
    assert states.shape == (len(visited) + 1, 2, 3)
    assert torch.equal(states[-1], plain)
    assert [index for index, _, _ in seen] == list(range(len(visited)))
    assert [time for _, time, _ in seen] == visited
    for (_, _, state), kept in zip(seen, states[1:], strict=True):
        assert torch.equal(state, kept)
    torch.testing.assert_close(states[0], fastgen.randn((2, 3), seed=3) * SCHEDULE.sigma(0.9))


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("clip", [None, (-0.8, 0.9)])
def test_gradients_through_the_loop(checkpoint, clip):
    weight = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()

    def run(state, w):
        def net(y, t):
            return torch.tanh(w * y) * (1 + t[:, None])

        sampler = make(
            "predictor_corrector",
            steps=3,
            net=net,
            clip=clip,
            dtype=torch.float64,
            model={"time_dtype": torch.float64},
        )
        return sampler(state, seed=2, differentiable=True, checkpoint=checkpoint)

    torch.testing.assert_close(run(x, weight), run(x.detach(), weight.detach()))
    assert torch.autograd.gradcheck(run, (x, weight))
    assert torch.autograd.gradgradcheck(run, (x, weight))


def test_checkpointing_keeps_the_activations_of_one_evaluation():
    net = nn.Sequential(nn.Linear(8, 256), nn.Tanh(), nn.Linear(256, 8))
    saved = {}
    for checkpoint in (False, True):
        count = []

        def pack(tensor, count=count):
            count.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            sampler = make("ddim", steps=10, net=lambda x, t: net(x))
            x = sampler((64, 8), seed=0, differentiable=True, checkpoint=checkpoint)
        saved[checkpoint] = sum(count)
        (gradient,) = torch.autograd.grad(x.square().sum(), [net[0].weight])
        saved[checkpoint, "gradient"] = gradient
    assert saved[True] < saved[False] / 5
    torch.testing.assert_close(saved[True, "gradient"], saved[False, "gradient"])


def test_nothing_is_recorded_by_default_and_the_result_can_be_trained_on():
    layer = nn.Linear(3, 3)
    modes = []

    def net(x, t):
        modes.append(torch.is_inference_mode_enabled() or torch.is_grad_enabled())
        return layer(x)

    x = make(net=net)((2, 3))
    assert modes
    assert not any(modes)
    assert not x.is_inference()
    layer(x).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_network_keeps_a_float32_state(dtype):
    layer = nn.Linear(4, 4, dtype=dtype)
    seen = set()

    def forward(x, t):
        seen.add((x.dtype, t.dtype))
        return layer(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, t):
            return forward(x, t)

    result = make("dpmpp_2m", net=Net())((5, 4), seed=1)
    assert seen == {(dtype, torch.float32)}
    assert result.dtype == torch.float32
    reference = make("dpmpp_2m", net=lambda x, t: layer(x.to(dtype)).float())((5, 4), seed=1)
    torch.testing.assert_close(result, reference, rtol=1e-6, atol=1e-6)


def test_network_that_answers_in_another_dtype_now_and_then():
    calls = []

    def net(x, t):
        calls.append(0)
        return network(x, t).to(torch.bfloat16 if len(calls) % 2 else torch.float32)

    first = make("dpmpp_2m", net=net)((3, 4), seed=1)
    assert len(calls) == 5
    calls.clear()
    again = make("dpmpp_2m", net=net, backend="reference")((3, 4), seed=1)
    assert torch.equal(first, again)


def test_network_that_returns_its_input():
    for solver in SOLVERS:
        sampler = make(solver, steps=3, start=0.9, net=lambda x, t: x)
        expected = make(solver, steps=3, start=0.9, net=lambda x, t: x.clone())
        assert torch.equal(sampler((4, 3)), expected((4, 3))), solver


def test_network_that_overwrites_its_output():
    memory = torch.empty(4, 3)

    def net(x, t):
        return torch.mul(x, 0.5, out=memory)

    options = {"solver": "dpmpp_2m", "predicts": "data", "steps": 5}
    with pytest.raises(ValueError, match="reuses_output=True"):
        make(net=net, **options)((4, 3))
    result = make(net=net, **options, model={"reuses_output": True})((4, 3))
    expected = make(net=lambda x, t: 0.5 * x, **options)((4, 3))
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


def test_a_network_may_write_its_outputs_side_by_side():
    """Parts of one block are not the same memory."""
    block, turn = torch.empty(8, 4, 3), itertools.count()

    def net(x, t):
        return torch.sin(x, out=block[next(turn) % 8])

    options = {"solver": "lms", "steps": 6, "order": 4}
    result = make(net=net, **options)((4, 3))
    assert torch.equal(result, make(net=lambda x, t: torch.sin(x), **options)((4, 3)))


def test_a_network_may_return_a_view_of_its_input():
    for view in (lambda x: x, lambda x: x.T.contiguous().T, lambda x: x.view(4, 3)[:]):
        result = make(net=lambda x, t, f=view: f(x), solver="lms", steps=6)((4, 3))
        assert torch.equal(result, make(net=lambda x, t: x.clone(), solver="lms", steps=6)((4, 3)))


@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=4), solver=st.sampled_from(SOLVERS))
def test_any_shape(shape, solver):
    result = make(solver, steps=2, start=0.9)(shape)
    assert result.shape == torch.Size(shape)
    assert torch.isfinite(result).all()


def test_network_keywords_and_progress(capsys):
    seen = []

    def net(x, t, label):
        seen.append(label)
        return x

    make("heun", net=net, steps=3)((1, 2), label="seven", progress=True)
    assert seen == ["seven"] * 5
    assert "5/5" in capsys.readouterr().err


def test_sample_is_plan_and_sampler():
    model = fastgen.Model(network, SCHEDULE, "noise")
    plan = fastgen.plan("ddim", SCHEDULE, steps=4, timesteps="karras", rho=5.0, eta=0.3)
    expected = fastgen.Sampler(model, plan)((3, 2), seed=8)
    result = fastgen.sample(model, (3, 2), "ddim", 4, timesteps="karras", rho=5.0, eta=0.3, seed=8)
    assert torch.equal(result, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_check_finite_names_the_evaluation(bad):
    calls = []

    def net(x, t):
        calls.append(0)
        return x if len(calls) < 3 else x + bad

    with pytest.raises(FloatingPointError, match="evaluation 2 of 5"):
        make("ddim", net=net)((2, 3), check_finite=True)
    calls.clear()
    assert not torch.isfinite(make("ddim", net=net)((2, 3))).all()


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda x, t: x[:, :1], r"expected a real tensor of shape \(2, 3\).*got.*\(2, 1\)"),
        (lambda x, t: (x,), "got tuple"),
        (lambda x, t: x.to(torch.int64), "got torch.int64"),
        (lambda x, t: x.to("meta"), "on meta"),
    ],
)
def test_a_bad_network_output_is_named_at_the_first_evaluation(net, message):
    with pytest.raises(ValueError, match=message):
        make(net=net)((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: fastgen.sample(m, (2, 3), "dpmpp2m", 4), ValueError, "mean 'dpmpp_2m'"),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", 4, etta=1), TypeError, "mean 'eta'"),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", 4, trajectry=1), TypeError, "'trajectory'"),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", 4, timesteps="karas"), ValueError, "'karras'"),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", 0), ValueError, "steps = 0"),
        (lambda m: fastgen.sample(m, (2, 3), "ddim"), ValueError, "steps = None"),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", timesteps=[0.1, 0.5]), ValueError, "fall"),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", timesteps=[0.5, 0.5]), ValueError, "fall"),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", timesteps=[1.5, 0.5]), ValueError, "within"),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", 4, eta=-1.0), ValueError, "eta=-1.0"),
        (lambda m: fastgen.sample(m, (2, 3), "ddpm", 4, variance="big"), ValueError, "'big'"),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", 4, clip=(1, -1)), ValueError, "clip="),
        (lambda m: fastgen.sample(m, (), "ddim", 4), ValueError, "shape_or_x"),
        (lambda m: fastgen.sample(m, (2, -3), "ddim", 4), ValueError, "shape_or_x"),
        (lambda m: fastgen.sample(m, torch.ones(2, 3).int(), "ddim", 4), ValueError, "real"),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", 4, seed=[1, 2, 3]), ValueError, "1 or 2 s"),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", 4, seed=2**64), ValueError, "64-bit"),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", 4, sample_ids=[1]), ValueError, "sample_ids"),
        (lambda m: fastgen.sample(m, (1, 3), "ddim", 4, sample_ids=[-1]), ValueError, "id < 2"),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", 4, dtype=torch.half), ValueError, "dtype="),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", 4, backend="cuda"), ValueError, "backend="),
        (lambda m: fastgen.sample(m, (2, 3), "ddim", 4, checkpoint=True), ValueError, "checkpoint"),
        (lambda m: fastgen.sample(m, (2, 3), "adams_bashforth", 4, order=0), ValueError, "order=0"),
        (lambda m: fastgen.Model(m.net, SCHEDULE, "noize"), ValueError, "mean 'noise'"),
        (lambda m: fastgen.Model(3, SCHEDULE, "noise"), TypeError, "net: expected a callable"),
        (lambda m: fastgen.Model(m.net, "vp", "noise"), TypeError, "schedule: expected"),
        (lambda m: fastgen.Model(m.net, SCHEDULE, "noise", time_input="index"), ValueError, "Disc"),
        (lambda m: fastgen.Model(m.net, SCHEDULE, "noise", time_input="x"), ValueError, "'x'"),
        (lambda m: fastgen.Model(m.net, SCHEDULE, "noise", data_at=2), ValueError, "data_at=2"),
        (lambda m: fastgen.Model(m.net, SCHEDULE, "edm", sigma_data=0), ValueError, "sigma_data=0"),
        (
            lambda m: fastgen.Sampler(m, fastgen.plan("ddim", schedules.EDM(), 4)),
            ValueError,
            "made for EDM",
        ),
        (
            lambda m: fastgen.sample(
                fastgen.Model(m.net, schedules.CosineVP(), "noise"), (2, 3), "ddim", 4, start=1.0
            ),
            ValueError,
            "data cannot be computed from a prediction of noise",
        ),
        (
            lambda m: fastgen.sample(
                fastgen.Model(m.net, SCHEDULE, "noise", time_dtype=torch.int64), (2, 3), "ddim", 4
            ),
            ValueError,
            "is not whole",
        ),
        (
            lambda m: fastgen.sample(
                fastgen.Model(m.net, schedules.Rectified(), "velocity", time_input="log_snr"),
                (2, 3),
                "euler",
                4,
            ),
            ValueError,
            "time_input='log_snr' is -inf at t=1.0",
        ),
    ],
)
def test_bad_input_is_refused_before_the_network_is_called(call, error, message):
    def never(x, t):
        raise AssertionError("the network was called")

    with pytest.raises(error, match=message):
        call(fastgen.Model(never, SCHEDULE, "noise"))


def test_without_the_extension_the_reference_runs_and_says_so_once(monkeypatch):
    error = ImportError("no module named fastgen._C")
    monkeypatch.setattr(dispatch, "missing", lambda backend: error)
    dispatch._warn.cache_clear()
    monkeypatch.delenv("FASTGEN_BACKEND", raising=False)
    with pytest.warns(RuntimeWarning, match="C\\+\\+ kernels are not available"):
        first = make()((2, 3), seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = make()((2, 3), seed=1)
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="could not be loaded"):
        make(backend="cpp")((2, 3))
    dispatch._warn.cache_clear()


def test_environment_chooses_the_backend(monkeypatch):
    monkeypatch.setenv("FASTGEN_BACKEND", "reference")
    assert dispatch.choose(torch.device("cpu")) == "reference"
    monkeypatch.setenv("FASTGEN_BACKEND", "refrence")
    with pytest.raises(ValueError, match="mean 'reference'"):
        dispatch.choose(torch.device("cpu"))
