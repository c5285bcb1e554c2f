"""Rules and branches of guidance in runs: fused, served, captured, recorded, error-controlled."""

import pytest
import torch

import fastgen
from fastgen import Guidance, rules, schedules
from fastgen.model import Branch

SCHEDULE = schedules.LinearVP()
SHAPE = (3, 2, 4, 4)
TEXT, IMAGE = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 0.2, -0.4])
ZERO = torch.zeros(3)
GIVEN = {"text": TEXT, "image": IMAGE}


def network(x, t, text, image):
    column = [-1, 1, 1, 1]
    shift = text.reshape(column) + 0.3 * image.reshape(column)
    return torch.tanh(x * (1 + 0.2 * shift) + 0.1 * shift) * (0.5 + t.reshape(column))


def weak(x, t, text, image):
    return 0.8 * network(x, t, 0 * text, 0 * image)


def model():
    names = {"per_sample": ("text", "image"), "time_dtype": torch.float64}
    return fastgen.Model(network, SCHEDULE, "noise", **names)


def sampler(guidance, solver="dpmpp_2m", steps=5):
    plan = fastgen.plan(solver, SCHEDULE, steps, start=0.9)
    return fastgen.Sampler(model(), plan, guidance=guidance, dtype=torch.float64)


def by_hand(combine, solver="dpmpp_2m", steps=5):
    """The guided network as one would write it."""
    remembered = []

    def net(x, t, text, image):
        branches = [network(x, t, text, image), network(x, t, 0 * text, image)]
        branches += [network(x, t, 0 * text, 0 * image), weak(x, t, text, image)]
        return combine(branches, float(t[0]), remembered)

    whole = fastgen.Model(net, SCHEDULE, "noise", time_dtype=torch.float64)
    plan = fastgen.plan(solver, SCHEDULE, steps, start=0.9)
    return fastgen.Sampler(whole, plan, dtype=torch.float64)(SHAPE, seed=4, **GIVEN)


def merged(guidance, *which):
    def combine(branches, t, remembered):
        outputs = [branches[i] for i in (0, *which)]
        memory = remembered[-1] if remembered else None
        output, memory = guidance.merge(outputs, t, memory)
        if memory is not None:
            remembered.append(memory)
        return output

    return combine


UNCONDITIONAL = {"text": ZERO, "image": ZERO}
CASES = {
    "two scales": (
        Guidance(
            {"text": 4.0, "image": 1.5},
            {"text": {"text": ZERO}, "image": Branch(UNCONDITIONAL, against="text")},
        ),
        (1, 2),
    ),
    "with a weaker network": (
        Guidance(
            {"text": 3.0, "weak": 1.4}, {"text": {"text": ZERO}, "weak": Branch(network=weak)}
        ),
        (1, 3),
    ),
    "apart": (Guidance({"a": 2.0}, {"a": UNCONDITIONAL}, batched=False), (2,)),
    "a schedule": (Guidance(lambda t: 1 + 4 * t, UNCONDITIONAL), (2,)),
    "scales per sample": (
        Guidance(
            {"text": torch.tensor([1.0, 3.0, 5.0]), "image": 2.0},
            {"text": {"text": ZERO}, "image": UNCONDITIONAL},
        ),
        (1, 2),
    ),
    "momentum": (Guidance(3.0, UNCONDITIONAL, rule=rules.APG(momentum=-0.4, norm=2.0)), (2,)),
    "gathered": (
        Guidance(
            {"text": 3.0, "more": 2.0},
            {"text": UNCONDITIONAL, "more": {"text": ZERO}},
            rule=rules.Semantic(0.5, momentum=0.3),
        ),
        (2, 1),
    ),
    "zero star": (Guidance(3.0, UNCONDITIONAL, rule="zero_star", rescale=0.5), (2,)),
    "negative": (
        Guidance(
            {"text": 3.0, "bad": 0.7},
            {"text": UNCONDITIONAL, "bad": {"text": ZERO}},
            rule="perp_neg",
        ),
        (2, 1),
    ),
    "concepts": (
        Guidance(
            {"text": 3.0, "more": 2.0},
            {"text": UNCONDITIONAL, "more": {"text": ZERO}},
            rule=rules.Semantic(0.5, warm_up=0.4),
        ),
        (2, 1),
    ),
    "frequencies": (
        Guidance(
            {"a": 3.0}, {"a": UNCONDITIONAL}, rule=rules.FrequencyDecoupled(low=1.5), batched=False
        ),
        (2,),
    ),
    "interval": (Guidance(3.0, UNCONDITIONAL, rule="tcfg", interval=(0.2, 0.6)), (2,)),
}


def result(name, solver):
    return sampler(CASES[name][0], solver)(SHAPE, seed=4, **GIVEN)


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "ddpm"])
def test_equals_the_rule_around_the_network(name, solver):
    guidance, which = CASES[name]
    combine = merged(guidance, *which)
    if name == "interval":
        inside, combine = combine, None

        def combine(branches, t, remembered):
            return inside(branches, t, remembered) if 0.2 <= t <= 0.6 else branches[0]

    want = by_hand(combine, solver)
    found = result(name, solver)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-10 * want.abs().max().item())


SOLVERS = [n for n in fastgen.solvers.names() if n not in ("mean_flow", "ddim_cfgpp")]


@pytest.mark.parametrize("name", ["apart", "interval", "scales per sample"])
@pytest.mark.parametrize("predicts", ["noise", "data"])
def test_every_solver_has_the_weights_of_its_own_evaluation(name, predicts):
    """A stage may read outputs of evaluations that were guided and of others that were not."""
    guidance = CASES[name][0]
    given = fastgen.Model(network, SCHEDULE, predicts, per_sample=("text", "image"))
    for solver in SOLVERS:
        plan = fastgen.plan(solver, SCHEDULE, 5, start=0.9, end=0.1)
        run = fastgen.Sampler(given, plan, guidance=guidance, dtype=torch.float64)
        found = run(SHAPE, seed=4, **GIVEN)
        merged_first = run(SHAPE, seed=4, callback=lambda step: None, **GIVEN)
        size = merged_first.abs().max().item()
        torch.testing.assert_close(found, merged_first, rtol=0, atol=1e-7 * size, msg=solver)


@pytest.mark.parametrize("name", sorted(CASES))
def test_in_every_way_of_running(name):
    guidance = CASES[name][0]
    run = sampler(guidance, "dpmpp_2m")
    want = run(SHAPE, seed=4, **GIVEN)
    torch.testing.assert_close(run(SHAPE, seed=4, **GIVEN), want, rtol=0, atol=0)
    recorded = run(SHAPE, seed=4, differentiable=True, **GIVEN)
    torch.testing.assert_close(recorded, want, rtol=0, atol=1e-11)
    x = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    whole = torch.autograd.grad(run(x, differentiable=True, **GIVEN).square().sum(), x)[0]
    options = {"differentiable": True, "checkpoint": True}
    again = torch.autograd.grad(run(x, **options, **GIVEN).square().sum(), x)[0]
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-10)
    captured = run.capture(SHAPE, **GIVEN)
    torch.testing.assert_close(captured(seed=4), want, rtol=0, atol=0)
    torch.testing.assert_close(captured(seed=4), want, rtol=0, atol=0)
    data = []
    run(SHAPE, seed=4, callback=lambda step: data.append(step.data.clone()), **GIVEN)
    assert len(data) == 5
    assert all(bool(torch.isfinite(d).all()) for d in data)


@pytest.mark.parametrize("name", sorted(CASES))
def test_in_parallel(name):
    guidance, parallel = CASES[name][0], fastgen.Parallel(window=3, tolerance=0)
    run = sampler(guidance, "dpmpp_2m")
    if name in ("momentum", "gathered"):
        with pytest.raises(ValueError, match="choose momentum=0"):
            run(SHAPE, seed=4, parallel=parallel, **GIVEN)
        return
    found = run(SHAPE, seed=4, parallel=parallel, **GIVEN)
    want = run(SHAPE, seed=4, **GIVEN)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"scales per sample"}))
def test_served_rows_equal_runs_alone(name):
    guidance = CASES[name][0]
    run = sampler(guidance, "dpmpp_2m")
    # The arguments of the branches have a row for each row of the batch.
    want = run(SHAPE, seed=4, sample_ids=[0, 1, 2], **GIVEN)
    batch = run.serve(SHAPE, **GIVEN)
    tickets, found = {}, {}
    for row in (0, 1, 2):  # at different steps
        given = {"text": TEXT[row], "image": IMAGE[row]}
        tickets[batch.admit(seed=4, sample_id=row, **given)] = row
        found |= batch.step()
    while batch.active:
        found |= batch.step()
    for ticket, row in tickets.items():
        torch.testing.assert_close(found[ticket], want[row], rtol=0, atol=1e-12)


def test_requests_with_scales_of_their_own():
    guidance = Guidance(3.0, UNCONDITIONAL, rule=rules.APG(momentum=-0.4))
    run = sampler(guidance)
    batch = run.serve(SHAPE, **GIVEN)
    scales = [2.0, 5.0, 1.0]
    tickets = {}
    for row, scale in enumerate(scales):
        given = {"text": TEXT[row], "image": IMAGE[row]}
        tickets[batch.admit(seed=4, sample_id=row, scale=scale, **given)] = row
    found = {}
    while batch.active:
        found |= batch.step()
    each = Guidance(torch.tensor(scales), UNCONDITIONAL, rule=rules.APG(momentum=-0.4))
    want = sampler(each)(SHAPE, seed=4, **GIVEN)
    for ticket, row in tickets.items():
        torch.testing.assert_close(found[ticket], want[row], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="expected one like the sampler's"):
        batch.admit(scale={"text": 2.0})


def test_error_controlled_steps_and_likelihoods():
    guidance = Guidance(2.0, UNCONDITIONAL, rule="zero_star")

    def net(x, t, text, image):
        outputs = [network(x, t, text, image), network(x, t, 0 * text, 0 * image)]
        return guidance.merge(outputs, 0.5).output

    whole = fastgen.Model(net, SCHEDULE, "noise", time_dtype=torch.float64)
    options = {"seed": 4, "start": 0.9, "end": 0.1, "net_kwargs": GIVEN, "dtype": torch.float64}
    want = fastgen.sample(whole, SHAPE, "dopri5", rtol=1e-7, atol=1e-9, **options)
    found = fastgen.sample(
        model(), SHAPE, "dopri5", guidance=guidance, rtol=1e-7, atol=1e-9, **options
    )
    torch.testing.assert_close(found, want, rtol=0, atol=1e-7)
    remembering = Guidance(2.0, UNCONDITIONAL, rule=rules.APG(momentum=0.3))
    with pytest.raises(ValueError, match="choose momentum=0"):
        fastgen.sample(model(), SHAPE, "dopri5", guidance=remembering, **options)


def test_one_call_for_all_branches_of_the_network():
    calls = []

    def counting(x, t, text, image):
        calls.append(len(x))
        return network(x, t, text, image)

    names = {"per_sample": ("text", "image"), "time_dtype": torch.float64}
    counted = fastgen.Model(counting, SCHEDULE, "noise", **names)
    guidance = Guidance(
        {"text": 4.0, "image": 1.5, "weak": 1.2},
        {"text": {"text": ZERO}, "image": UNCONDITIONAL, "weak": Branch(network=weak)},
    )
    plan = fastgen.plan("euler", SCHEDULE, 3, start=0.9)
    fastgen.Sampler(counted, plan, guidance=guidance)(SHAPE, **GIVEN)
    assert calls == [9, 9, 9]


@pytest.mark.parametrize("name", sorted(set(CASES) - {"scales per sample"}))
def test_batches_of_none_and_of_one(name):
    whole = CASES[name][0]

    def of(count):
        cut = whole.with_arguments(lambda given: {k: v[:count] for k, v in given.items()})
        given = {"text": TEXT[:count], "image": IMAGE[:count]}
        return sampler(cut)((count, *SHAPE[1:]), seed=4, **given)

    assert of(0).shape == (0, *SHAPE[1:])
    torch.testing.assert_close(of(1), of(3)[:1], rtol=0, atol=1e-11)


def test_a_solver_that_reads_the_unconditional_output_needs_it():
    with pytest.raises(ValueError, match="guidance: solver 'ddim_cfgpp' reads"):
        sampler(Guidance(2.0, UNCONDITIONAL, rule="apg"), "ddim_cfgpp")


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "ddpm", "heun", "lms"])
@pytest.mark.parametrize("rule", ["zero_star", "tcfg", "apg"])
def test_weights_in_the_stage_are_those_of_outputs_merged_before_it(solver, rule):
    schedule = fastgen.schedules.CosineVP()
    model = fastgen.Model(lambda x, t: torch.tanh(x + t[:, None]), schedule, "noise")
    guidance = fastgen.Guidance(3.0, network=lambda x, t: torch.sin(2 * x), rule=rule)
    plan = fastgen.plan(solver, schedule, 6, start=0.9, clip=(-2.0, 2.0))
    sampler = fastgen.Sampler(model, plan, guidance=guidance, dtype=torch.float64)
    momentum = rule == "apg" and guidance.remembers
    assert sampler.prepared.quickest.weighs != momentum
    merged = sampler((5, 7), seed=2, callback=lambda step: None)
    torch.testing.assert_close(sampler((5, 7), seed=2), merged, rtol=1e-10, atol=1e-10)
