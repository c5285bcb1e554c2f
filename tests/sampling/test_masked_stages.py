"""Known numbers of a mask as sums of the stages, against the network that puts them in itself."""

import contextlib

import pytest
import torch

import fastgen
from fastgen import observations, schedules
from fastgen.observations import Mask, conditioned

SCHEDULE = schedules.CosineVP()
SHAPE = (3, 4)
MASK = torch.tensor([True, False, True, False])
GENERATOR = torch.Generator().manual_seed(0)
KNOWN = torch.rand(SHAPE, generator=GENERATOR)
SOLVERS = [name for name in fastgen.solvers.names() if name != "mean_flow"]
FEW = ["ddim", "ddpm", "dpmpp_2m", "heun", "unipc", "lms", "dpmpp_sde"]


def net(x, t):
    """Every number for itself, so that what is known does not reach the others."""
    return torch.tanh(x) * (1 + t[:, None]) / 2


def samplers(seen, solver, predicts="data", steps=6, network=net, **options):
    """Of a model that is given a mask: in its stages, and in its network."""
    prior = fastgen.Model(network, SCHEDULE, predicts)
    plan = fastgen.plan(solver, SCHEDULE, steps, start=0.9)
    model = conditioned(prior, seen, "replacement", **options)
    inside = fastgen.Sampler(model, plan)
    outside = fastgen.Sampler(model, plan)
    assert inside.prepared.masked is not None
    outside.prepared.__dict__["masked"] = None
    return inside, outside


SOFT = torch.tensor([0.0, 0.25, 0.75, 1.0])


@pytest.mark.parametrize(("predicts", "mask"), [("data", SOFT), ("noise", MASK), ("v", SOFT)])
def test_every_solver_samples_as_with_the_network_that_keeps_it(predicts, mask):
    for solver in SOLVERS:
        inside, outside = samplers(Mask(KNOWN, mask), solver, predicts)
        found, wanted = inside(SHAPE, seed=1), outside(SHAPE, seed=1)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4, msg=solver)


@pytest.mark.parametrize("predicts", ["data", "noise"])
def test_what_is_unknown_is_that_of_a_run_without_a_mask(predicts):
    for solver in SOLVERS:
        inside, _ = samplers(Mask(KNOWN, MASK), solver, predicts)
        free = fastgen.Sampler(fastgen.Model(net, SCHEDULE, predicts), inside.plan)
        found, wanted = inside(SHAPE, seed=1), free(SHAPE, seed=1)
        found, wanted = found[:, ~MASK], wanted[:, ~MASK]
        if predicts == "data":
            assert torch.equal(found, wanted), solver
        else:  # earlier predictions of others are kept converted, not as they came
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, msg=solver)


@pytest.mark.parametrize("solver", FEW)
def test_known_numbers_come_out(solver):
    found = samplers(Mask(KNOWN[:1], MASK), solver, "noise")[0](SHAPE, seed=1)
    torch.testing.assert_close(found[:, MASK], KNOWN[:1, MASK].expand(3, -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("solver", FEW)
@pytest.mark.parametrize("soft", [False, True])
def test_watched_recorded_and_captured_runs_have_the_same_bits(solver, soft):
    mask = SOFT if soft else MASK
    inside, _ = samplers(Mask(KNOWN, mask), solver)
    wanted, seen = inside(SHAPE, seed=1), []
    watched = inside(SHAPE, seed=1, callback=lambda step: seen.append(step.data))
    assert torch.equal(watched, wanted)
    for data in seen:
        part = mask == 1
        assert torch.equal(data[:, part], KNOWN[:, part])
    assert torch.equal(inside(SHAPE, seed=1, differentiable=True), wanted)
    assert torch.equal(inside.capture(SHAPE)(seed=1), wanted)
    x, states = inside(SHAPE, seed=1, trajectory=True)
    assert torch.equal(x, wanted)
    assert len(states) == 7
    if solver != "unipc":  # which refuses writes
        again = inside(SHAPE, seed=1, callback=lambda step: step.state.mul_(1.0))
        torch.testing.assert_close(again, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("counted", [False, True])
def test_what_is_written_to_a_mask_has_effect_in_the_next_run(counted):
    with contextlib.nullcontext() if counted else torch.inference_mode():
        seen = Mask(KNOWN.clone(), SOFT.clone())
        inside, _ = samplers(seen, "dpmpp_2m")
        inside(SHAPE, seed=1)
        seen.known.add_(1)
        again = inside(SHAPE, seed=1)
        new, _ = samplers(Mask(seen.known.clone(), SOFT), "dpmpp_2m")
        assert torch.equal(again, new(SHAPE, seed=1))
        seen.known.data.add_(1)  # which torch does not count anywhere
        new, _ = samplers(Mask(seen.known.clone(), SOFT), "dpmpp_2m")
        assert torch.equal(inside(SHAPE, seed=1), new(SHAPE, seed=1))


@pytest.mark.parametrize("solver", ["ddpm", "dpmpp_2m", "lms"])
@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_served_rows_have_masks_of_their_own(solver, kind):
    sampler, _ = samplers(Mask(KNOWN, MASK), solver, "noise")
    masks = torch.rand(SHAPE, generator=torch.Generator().manual_seed(2))
    masks = masks > 0.5 if kind == torch.bool else masks.round(decimals=1)
    rows = {"known": torch.zeros(2, 4), "mask": torch.zeros(2, 4, dtype=kind)}
    batch = sampler.serve((2, 4), previews=True, observed=rows)
    for i in range(3):
        own = {"known": KNOWN[i], "mask": masks[i]}
        ticket, found = batch.admit(seed=5, sample_id=i, observed=own), {}
        while ticket not in found:
            found.update(batch.step())
            if ticket not in found:
                exact = masks[i] == 1
                assert torch.equal(batch.preview(ticket)[exact], KNOWN[i][exact])
        part = {"known": KNOWN[i : i + 1], "mask": masks[i : i + 1]}
        alone = sampler((1, 4), seed=5, sample_ids=[i], observed=part)
        assert torch.equal(found[ticket], alone[0])


def test_served_numbers_that_could_not_be_written_are_refused():
    sampler, _ = samplers(Mask(KNOWN, MASK), "ddim")
    rows = {"known": torch.zeros(2, 4), "mask": torch.zeros(2, 4, dtype=torch.int64)}
    with pytest.raises(ValueError, match=r"observed\['mask'\]: expected .* or bool"):
        sampler.serve((2, 4), observed=rows)


def test_a_mask_that_is_written_to_counts():
    seen = Mask(KNOWN.clone(), MASK)
    sampler, _ = samplers(seen, "ddim")
    before = sampler(SHAPE, seed=1)
    seen.known.add_(MASK)
    after = sampler(SHAPE, seed=1)
    torch.testing.assert_close(after - before, MASK.float().expand(SHAPE), rtol=0, atol=1e-5)


def test_guidance_and_bounds_are_the_priors():
    plan = fastgen.plan("dpmpp_2m", SCHEDULE, 6, start=0.9, clip=(-0.3, 0.3))
    prior = fastgen.Model(net, SCHEDULE, "noise")
    guidance = fastgen.Guidance(2.0, network=lambda x, t: 0.5 * net(x, t))
    free = fastgen.Sampler(prior, plan, guidance=guidance)(SHAPE, seed=1)
    given = conditioned(prior, Mask(KNOWN, MASK), "replacement", guidance=guidance)
    found = fastgen.Sampler(given, plan)(SHAPE, seed=1)
    assert torch.equal(found[:, ~MASK], free[:, ~MASK])
    torch.testing.assert_close(found[:, MASK], KNOWN[:, MASK])  # beyond the bounds too


def test_bytes_of_a_mask():
    """Four for what is known, one for where; data that are kept as they came stay so."""
    prior = fastgen.Model(net, SCHEDULE, "data")
    plan = fastgen.plan("dpmpp_2m", SCHEDULE, 6, start=0.9)
    free = plan.lower(prior.parametrisation).bytes_per_element(4, 4)
    assert plan.lower(prior.parametrisation, known=True).bytes_per_element(4, 4) == free + 6 * 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_of_half_precision(dtype):
    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4, dtype=dtype))

        def forward(self, x, t):
            assert x.dtype == dtype
            return net(x, t.to(dtype)) * self.weight

    inside, outside = samplers(Mask(KNOWN, MASK), "dpmpp_2m", "noise", network=Half())
    found, wanted = inside(SHAPE, seed=1), outside(SHAPE, seed=1)
    rounding = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(found, wanted, rtol=rounding, atol=rounding)


def test_methods_with_more_to_do_keep_their_network():
    prior = fastgen.Model(net, SCHEDULE, "data")
    for method, noise in (("ddnm", 0.0), ("replacement", 0.1)):
        given = conditioned(prior, Mask(KNOWN, MASK, noise), method)
        assert given.masked is None
    seen = observations.Linear(observations.average_pool(2, dims=1), y=torch.zeros(1, 1, 2))
    assert conditioned(prior, seen, "ddnm").masked is None


def test_a_mask_of_padding_is_refused_with_what_to_do():
    prior = fastgen.Model(net, SCHEDULE, "data")
    with pytest.raises(TypeError, match=r"mask: .*fastgen.randn\(shape, seed=\.\.\., mask=live\)"):
        fastgen.sample(prior, SHAPE, "ddim", 5, mask=MASK)
