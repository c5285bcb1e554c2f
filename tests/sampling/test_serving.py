"""`Sampler.serve`: requests that share a batch get the bits of runs of their own."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fastgen
from fastgen import schedules
from fastgen.common import graphs
from fastgen.kernels import dispatch
from tests.support.tape import Noting, Tape

SCHEDULE = schedules.LinearVP()
SOLVERS = ["ddim", "euler", "dpmpp_2m", "unipc", "ddpm", "heun", "euler_ancestral", "rk4"]
SHAPE = (3, 2, 5)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)


def network(x, t, shift=None):
    shape = (-1, *[1] * (x.ndim - 1))
    y = torch.tanh(x + 0.3) * (0.5 + t.reshape(shape).to(x.dtype))
    return y if shift is None else y + shift.reshape(shape)


def plan(solver, steps=4, schedule=SCHEDULE, **options):
    return fastgen.plan(solver, schedule, steps, **{"start": 0.9} | options)


def make(plan, net=network, predicts="noise", schedule=SCHEDULE, **options):
    model = fastgen.Model(net, schedule, predicts, **options.pop("model", {}))
    return fastgen.Sampler(model, plan, **options)


def serve(batch, requests, order=None):
    """Admit requests as rows get free, with steps in between; samples by request number."""
    waiting, numbers, found = list(enumerate(requests)), {}, {}
    chance = order or random.Random(0)
    while waiting or batch.active:
        while waiting and batch.free and (not batch.active or chance.random() < 0.6):
            number, request = waiting.pop(0)
            numbers[batch.admit(**request)] = number
        for ticket, x in batch.step().items():
            found[numbers[ticket]] = x
    return [found[n] for n in range(len(requests))]


def alone(sampler, request, device, **changes):
    """The same request as a run of its own."""
    own = dict(request)
    chosen = own.pop("plan", sampler.plan)
    guidance = sampler.guidance
    if "scale" in own:
        guidance = fastgen.Guidance(own.pop("scale"), guidance.unconditional, guidance.interval)
    runner = fastgen.Sampler(
        sampler.model, chosen, guidance=guidance, dtype=sampler.dtype, **changes
    )
    x = own.pop("x", None)
    kwargs = {k: v[None] for k, v in own.items() if isinstance(v, torch.Tensor)}
    start = (1, *SHAPE[1:]) if x is None else x[None]
    ids = [own.get("sample_id", 0)]
    return runner(start, seed=own.get("seed", 0), sample_ids=ids, device=device, **kwargs)[0]


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_requests_at_different_steps_equal_runs_of_their_own(solver, captured, device):
    sampler = make(plan(solver))
    batch = sampler.serve(SHAPE, device=device, capture=captured)
    requests = [{"seed": 10 + n, "sample_id": n * 2**33} for n in range(7)]
    requests[3] = {"seed": 1, "x": torch.randn(SHAPE[1:], device=device)}
    for x, request in zip(serve(batch, requests), requests, strict=True):
        assert torch.equal(x, alone(sampler, request, device))
    assert batch.free == 3
    assert batch.graphed == (captured and device.type == "cuda")


def test_different_solvers_grids_and_steps_share_a_batch(device):
    plans = [plan(solver, steps) for solver in SOLVERS for steps in (2, 5)]
    plans += [plan("dpmpp_2m", 3, timesteps="log_snr"), plan("ddpm", 1)]
    sampler = make(plan("ddim", 3))
    batch = sampler.serve((5, *SHAPE[1:]), plans=plans, device=device)
    requests = [{"seed": n, "plan": p} for n, p in enumerate(plans + plans[::-1])]
    for x, request in zip(serve(batch, requests), requests, strict=True):
        assert torch.equal(x, alone(sampler, request, device)), request["plan"].solver


@pytest.mark.parametrize("schedule", [SCHEDULE, schedules.Rectified()], ids=["vp", "flow"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "dpmpp_2s", "unipc", "dpmpp_3s"])
def test_the_state_is_the_networks_input_where_it_can_be(solver, schedule):
    """Without a scale or a cast it is not written twice, wherever the batch's plans have it."""
    sampler = make(plan(solver, 6, schedule), schedule=schedule, predicts="velocity")
    batch = sampler.serve(SHAPE)
    assert batch.layout.fed is not None
    assert batch._input is batch._slots[batch.layout.fed]
    # Of another solver, that nobody announced: its state lies where the batch's network reads.
    requests = [{"seed": n, "plan": plan("ddim", 4, schedule) if n % 2 else None} for n in range(6)]
    for x, request in zip(serve(batch, requests), requests, strict=True):
        expected = alone(sampler, request | {"plan": request["plan"] or sampler.plan}, x.device)
        assert torch.equal(x, expected)


def test_an_evaluation_beside_the_state_has_memory_of_its_own():
    flow = schedules.Rectified()
    sampler = make(plan("ddim", 9, flow), schedule=flow, predicts="velocity")
    beside = plan("midpoint", 2, flow)
    with pytest.raises(ValueError, match=r"pass it to Sampler.serve"):
        sampler.serve(SHAPE).admit(plan=beside)
    batch = sampler.serve(SHAPE, plans=[beside])
    assert batch.layout.fed is None
    assert not any(batch._input is slot for slot in batch._slots)
    requests = [{"seed": n, "plan": plan("ddim", 3, flow) if n % 2 else beside} for n in range(6)]
    for x, request in zip(serve(batch, requests), requests, strict=True):
        assert torch.equal(x, alone(sampler, request, x.device))


@settings(max_examples=15)
@given(
    choices=st.lists(st.sampled_from(SOLVERS), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 4),
)
def test_any_order_of_admissions(choices, seed, rows):
    plans = [plan(solver, 1 + n % 4) for n, solver in enumerate(choices)]
    sampler = make(plans[0])
    batch = sampler.serve((rows, *SHAPE[1:]), plans=plans)
    requests = [{"seed": seed + n, "plan": p} for n, p in enumerate(plans)]
    found = serve(batch, requests, random.Random(seed))
    for x, request in zip(found, requests, strict=True):
        assert torch.equal(x, alone(sampler, request, torch.device("cpu")))


@pytest.mark.parametrize("predicts", ["data", "velocity", "v"])
def test_predictions_that_are_held_or_converted(predicts):
    plans = [plan(solver, 4) for solver in SOLVERS]
    sampler = make(plans[0], predicts=predicts)
    batch = sampler.serve(SHAPE, plans=plans)
    requests = [{"seed": n, "plan": p} for n, p in enumerate(plans)]
    for x, request in zip(serve(batch, requests), requests, strict=True):
        assert torch.equal(x, alone(sampler, request, torch.device("cpu")))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("captured", [True, False])
def test_guidance_scales_and_conditioning_of_each_request(batched, captured, device):
    unconditional = {"shift": torch.zeros(1, device=device)}
    guidance = fastgen.Guidance(2.0, unconditional, interval=(0.2, 0.7), batched=batched)
    sampler = make(plan("dpmpp_2m"), guidance=guidance)
    default = torch.tensor([0.5, 0.6, 0.7], device=device)
    batch = sampler.serve(SHAPE, device=device, capture=captured, shift=default)
    shifts = torch.linspace(-1, 1, 7, device=device)
    requests = [{"seed": n, "scale": 1.0 + n / 2, "shift": shifts[n]} for n in range(7)]
    for x, request in zip(serve(batch, requests), requests, strict=True):
        assert torch.equal(x, alone(sampler, request, device))
    # Nothing of a request stays behind: rows are handed out from the first.
    ticket = batch.admit(seed=9)
    (x,) = [batch.step() for _ in range(4)][-1].values()
    row = {"seed": 9, "shift": default[0]}
    others = [{"seed": 9, "shift": default[i]} for i in (1, 2)]
    assert any(torch.equal(x, alone(sampler, r, device)) for r in [row, *others])
    assert ticket == 8


def test_scaled_and_cast_network_inputs(device):
    schedule = schedules.EDM()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.7], dtype=torch.bfloat16))

        def forward(self, x, t):
            return torch.tanh(x * self.weight) * t[:, None, None].to(x.dtype)

    plans = [plan(s, 3, schedule, start=1.0) for s in ("heun", "dpmpp_2m", "euler_ancestral")]
    options = {"predicts": "edm", "schedule": schedule, "model": {"time_input": "edm"}}
    sampler = make(plans[0], Net().to(device), **options)
    batch = sampler.serve(SHAPE, plans=plans)
    requests = [{"seed": n, "plan": plans[n % 3]} for n in range(6)]
    for x, request in zip(serve(batch, requests), requests, strict=True):
        assert torch.equal(x, alone(sampler, request, device))


def test_clipping():
    plans = [plan(s, 4, clip=(-0.8, 0.9)) for s in ("ddpm", "dpmpp_2m")]
    plans.append(plan("ddim", 3))  # one that does not clip
    sampler = make(plans[0])
    batch = sampler.serve(SHAPE, plans=plans)
    requests = [{"seed": n, "plan": plans[n % 3]} for n in range(6)]
    for x, request in zip(serve(batch, requests), requests, strict=True):
        assert torch.equal(x, alone(sampler, request, torch.device("cpu")))
    with pytest.raises(ValueError, match=r"clip: .* cannot share a batch"):
        sampler.serve(SHAPE, plans=[plan("ddim", clip=(-1, 1))])


def test_a_recorded_step_reads_everything_from_memory(monkeypatch):
    """On a tape, as in a CUDA graph, no Python code of the step runs again."""
    tape = Tape()
    noting = Noting(lambda: tape)
    monkeypatch.setattr(graphs, "recording", lambda device: tape)
    monkeypatch.setattr(dispatch, "find", noting.find)
    plans = [plan(s, n) for s in ("dpmpp_2m", "ddpm", "heun") for n in (2, 4)]
    sampler = make(plans[0])
    batch = sampler.serve(SHAPE, plans=plans, capture=True, shift=torch.zeros(3))
    requests = [
        {"seed": n, "plan": p, "shift": torch.tensor(n / 3)} for n, p in enumerate(plans * 2)
    ]
    found = serve(batch, requests)
    assert batch.graphed
    monkeypatch.undo()
    for x, request in zip(found, requests, strict=True):
        assert torch.equal(x, alone(sampler, request, torch.device("cpu")))


def test_infinities_of_a_row_stay_in_it():
    def net(x, t, bad):
        return network(x, t) + bad.reshape(-1, 1, 1)

    sampler = make(plan("dpmpp_2m"), net)
    batch = sampler.serve((1, 2, 5), bad=torch.zeros(1))
    for value in (math.inf, math.nan):
        batch.admit(seed=1, bad=torch.tensor(value))
        batch.step()
        assert batch.active == 1
        batch.retire(max(batch._requests))
        ticket = batch.admit(seed=2)
        results = [batch.step() for _ in range(4)]
        assert not any(results[:-1])
        expected = sampler((1, 2, 5), seed=2, bad=torch.zeros(1))[0]
        assert torch.equal(results[-1][ticket], expected)


def test_network_that_returns_its_input():
    sampler = make(plan("dpmpp_2m"), lambda x, t: x)
    batch = sampler.serve(SHAPE)
    requests = [{"seed": n} for n in range(4)]
    for x, request in zip(serve(batch, requests), requests, strict=True):
        assert torch.equal(x, alone(sampler, request, torch.device("cpu")))


def test_states_of_a_batch():
    batch = make(plan("ddim", 2)).serve((2, 3))
    assert batch.step() == {}
    first = batch.admit(seed=1)
    assert (batch.active, batch.free) == (1, 1)
    assert batch.step() == {}
    second = batch.admit(seed=2)
    with pytest.raises(RuntimeError, match="all 2 rows are taken"):
        batch.admit(seed=3)
    assert list(batch.step()) == [first]
    batch.retire(second)
    assert (batch.active, batch.free) == (0, 2)
    with pytest.raises(KeyError, match="ticket 2"):
        batch.retire(second)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b, s: b.admit(plan=plan("dpmpp_2m", 9)), r"'dpmpp_2m' with 9 evaluations needs"),
        (lambda b, s: b.admit(plan=plan("rk4", 2)), r"pass it to Sampler.serve"),
        (lambda b, s: b.admit(scale=2.0), r"scale=2.0: the sampler has no guidance"),
        (lambda b, s: b.admit(x=torch.ones(4)), r"x: expected shape \(3,\), got \(4,\)"),
        (lambda b, s: b.admit(shfit=1), r"unknown argument 'shfit': did you mean 'shift'"),
        (lambda b, s: b.admit(shift=torch.ones(2)), r"shift: expected a tensor \(\) for one row"),
        (lambda b, s: b.admit(shift=2.0), r"shift: expected a tensor \(\) for one row, got 2.0"),
        (
            lambda b, s: make(plan("predictor_corrector", step_rule="norm")).serve((2, 3)),
            "'predictor_corrector' cannot be served: stage 2 reads Computed",
        ),
        (lambda b, s: make(s.plan, noise="brownian").serve((2, 3)), "noise='brownian'"),
        (lambda b, s: make(s.plan, transform=lambda x, t: x).serve((2, 3)), "transform:"),
        (
            lambda b, s: (
                make(s.plan, guidance=fastgen.Guidance(torch.tensor([2.0, 3.0]), {"shift": 0}))
                .serve((2, 3))
                .admit()
            ),
            "scale: the sampler has one per sample",
        ),
    ],
)
def test_refusals(call, message):
    sampler = make(plan("ddim", 2))
    batch = sampler.serve((2, 3), shift=torch.zeros(2))
    with pytest.raises(ValueError, match=message):
        call(batch, sampler)
    assert batch.free == 2


def test_a_network_that_overwrites_its_last_output_says_so():
    held = torch.empty(SHAPE)

    def overwriting(x, t, **_):
        return torch.mul(x, 0.5, out=held)

    flow = {"predicts": "velocity", "schedule": schedules.Rectified()}
    steps = plan("adams_bashforth", schedule=flow["schedule"])
    batch = make(steps, overwriting, **flow).serve(SHAPE)
    batch.admit(seed=1)
    batch.step()
    with pytest.raises(ValueError, match="same memory as at an earlier evaluation"):
        batch.step()
    said = {"model": {"reuses_output": True}, **flow}
    ((_, x),) = serve_one(make(steps, overwriting, **said).serve(SHAPE), seed=1)
    plain = make(steps, lambda x, t: 0.5 * x, **said)
    assert torch.equal(x, plain((1, *SHAPE[1:]), seed=1)[0])


def serve_one(batch, **request):
    batch.admit(**request)
    found = {}
    while batch.active:
        found = batch.step()
    return found.items()


class TestPreviews:
    """The data prediction of each request's last evaluation is what a callback sees of a run."""

    @pytest.mark.parametrize("predicts", ["noise", "velocity", "edm"])
    @pytest.mark.parametrize("clip", [None, (-0.5, 0.5)])
    @pytest.mark.parametrize("capture", [False, True])
    def test_as_a_callback_sees_it(self, predicts, clip, capture):
        schedule = schedules.EDM() if predicts == "edm" else SCHEDULE
        start = {} if predicts == "edm" else {"start": 0.9}
        own = fastgen.plan("dpmpp_2m", schedule, 4, clip=clip, **start)
        sampler = make(own, predicts=predicts, schedule=schedule)
        expected = {}
        sampler((1, 2, 5), seed=3, sample_ids=[7], callback=lambda step: expected.update(
            {step.index: step.data[0].clone()}))  # fmt: skip
        batch = sampler.serve(SHAPE, previews=True, capture=capture)
        batch.admit(seed=1)
        batch.step()
        ticket = batch.admit(seed=3, sample_id=7)
        with pytest.raises(RuntimeError, match="nothing is evaluated yet"):
            batch.preview(ticket)
        for k in range(3):
            batch.step()
            assert batch.evaluations(ticket) == (k + 1, 4)
            # The input was scaled by c_in and is scaled back: one rounding each.
            assert torch.allclose(batch.preview(ticket), expected[k], rtol=1e-5, atol=1e-6)
        batch.step()
        with pytest.raises(KeyError, match="not in the batch"):
            batch.preview(ticket)

    @pytest.mark.parametrize("rule", ["cfg", "rescale"])
    def test_guided_by_the_request_s_scale(self, rule):
        shift = torch.full((3,), 0.25)
        guidance = fastgen.Guidance(1.5, {"shift": torch.zeros(3)}, interval=(0.3, 1), rule=rule)
        sampler = make(plan("ddim"), guidance=guidance)
        batch = sampler.serve(SHAPE, previews=True, shift=shift)
        ticket = batch.admit(seed=3, scale=4.0)
        one = fastgen.Guidance(4.0, {"shift": torch.zeros(1)}, interval=(0.3, 1), rule=rule)
        expected = []
        make(plan("ddim"), guidance=one)((1, 2, 5), seed=3, shift=shift[:1],
            callback=lambda step: expected.append(step.data[0].clone()))  # fmt: skip
        for k in range(3):
            batch.step()
            assert torch.allclose(batch.preview(ticket), expected[k], rtol=1e-5, atol=1e-6)

    def test_only_where_asked_for(self):
        batch = make(plan("ddim")).serve(SHAPE)
        ticket = batch.admit()
        batch.step()
        with pytest.raises(RuntimeError, match=r"previews=True"):
            batch.preview(ticket)
