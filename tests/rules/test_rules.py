"""Rules of guidance: matrix formulas, diffusers' guiders, and what all of them must keep."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen import Guidance, kernels, rules
from fastgen.model import Branch

NAMES = [name for name in rules.NAMES if name not in ("perp_neg", "sega")]
SHAPE = (3, 2, 4, 4)


def outputs(seed=0, branches=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    others = [
        0.7 * first + 0.4 * torch.randn(SHAPE, generator=generator, dtype=torch.float64) + 0.1
        for _ in range(branches - 1)
    ]
    return [x.to(dtype) for x in (first, *others)]


def flat(x):
    return x.flatten(1)


def by_hand(name, c, u, s):
    """The rule for each sample, as its paper writes it, on vectors."""
    return torch.stack([_one(name, a, b, s) for a, b in zip(c, u, strict=True)])


def _one(name, c, u, s):
    d = c - u
    if name == "cfg":
        return u + s * d
    if name == "rescale":
        g = u + s * d
        return 0.7 * g * c.std() / g.std() + 0.3 * g
    if name == "apg":
        along = (d * c).sum() / (c * c).sum() * c
        return c + (s - 1) * (d - along)
    if name == "tcfg":
        v = torch.linalg.svd(torch.stack([c.flatten(), u.flatten()]), full_matrices=False)[2][0]
        along = (u.flatten() @ v * v).reshape(u.shape)
        return along + s * (c - along)
    if name == "zero_star":
        k = (c * u).sum() / (u * u).sum()
        return k * u + s * (c - k * u)
    if name == "mambo":
        return c + (s - 1) * torch.exp(-8 * d.norm() / u.norm()) * d
    assert name == "frequency_decoupled"
    low = torch.nn.functional.avg_pool2d(d[None], 2)
    low = torch.nn.functional.interpolate(low, size=d.shape[1:], mode="bilinear")[0]
    return c + (s - 1) * (d - low)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.5, 3.0, -1.0])
@pytest.mark.parametrize("recorded", [True, False], ids=["tensors", "arrays"])
def test_equals_the_formula_of_its_paper(name, scale, recorded):
    c, u = outputs()
    with torch.set_grad_enabled(recorded):
        found = Guidance(scale, rule=name).merge([c, u], 0.5).output
    # Data-dependent weights come from sums over a sample; frequency pools in the output's dtype.
    torch.testing.assert_close(found, by_hand(name, c, u, scale), rtol=0, atol=1e-12)


@settings(max_examples=30)
@given(
    name=st.sampled_from(NAMES),
    scale=st.floats(-2, 10),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    seed=st.integers(0, 100),
    rescale=st.sampled_from([0.0, 0.6]),
)
def test_samples_are_apart_and_scale_1_is_no_guidance(name, scale, dtype, seed, rescale):
    c, u = outputs(seed, dtype=dtype)
    guidance = Guidance(scale, rule=name, rescale=rescale)
    found = guidance.merge([c, u], 0.5).output
    order = torch.tensor([2, 0, 1])
    again = guidance.merge([c[order], u[order]], 0.5).output
    torch.testing.assert_close(again, found[order], rtol=0, atol=0)
    alone = Guidance(1.0, rule=name, rescale=rescale).merge([c, u], 0.5).output
    wide = torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(alone.to(wide), c.to(wide), rtol=1e-5, atol=1e-5)
    scales = torch.full((3,), scale, dtype=torch.float64)
    each = Guidance(scales, rule=name, rescale=rescale).merge([c, u], 0.5).output
    torch.testing.assert_close(each.to(wide), found.to(wide), rtol=1e-2, atol=1e-2)
    if dtype != torch.bfloat16:
        torch.testing.assert_close(each, found, rtol=1e-5, atol=1e-5)


@settings(max_examples=30)
@given(
    name=st.sampled_from(NAMES),
    scale=st.floats(-2, 10),
    seed=st.integers(0, 100),
    rescale=st.sampled_from([0.0, 0.6]),
    each=st.booleans(),
    t=st.sampled_from([0.5, torch.tensor([0.99, 0.4, 0.1], dtype=torch.float64)]),
)
def test_arrays_give_what_tensors_give(name, scale, seed, rescale, each, t):
    """What is not to be differentiated is reckoned with NumPy, and comes out the same."""
    c, u = outputs(seed)
    scales = torch.tensor([scale, 1.0, 2.0], dtype=torch.float64) if each else scale
    guidance = Guidance(scales, rule=name, rescale=rescale)
    recorded = guidance.merge([c, u], t).output
    with torch.no_grad():
        plain = guidance.merge([c, u], t).output
    torch.testing.assert_close(plain, recorded, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("recorded", [True, False], ids=["tensors", "arrays"])
@pytest.mark.filterwarnings("error")  # NumPy warns of divisions that torch is silent about
def test_outputs_of_zeros_give_finite_numbers(name, recorded):
    zero, c = torch.zeros(SHAPE), outputs(dtype=torch.float32)[0]
    with torch.set_grad_enabled(recorded):
        broken = Guidance(4.0, rule=name).merge([c, c / 0], 0.5).output
    assert broken.shape == SHAPE
    for pair in ([zero, zero], [c, zero], [zero, c], [c, c]):
        with torch.set_grad_enabled(recorded):
            found = Guidance(4.0, rule=name).merge(pair, 0.5).output
        assert bool(torch.isfinite(found).all())


def test_equal_to_diffusers_guiders():
    guiders = pytest.importorskip("diffusers.guiders")
    c, u = outputs(dtype=torch.float32)
    scale = 6.5

    def theirs(kind, **options):
        guider = getattr(guiders, kind)(**options)
        guider._step, guider._num_inference_steps, guider._enabled = 1, 10, True
        return guider

    pairs = [
        (
            theirs("ClassifierFreeGuidance", guidance_scale=scale, guidance_rescale=0.7),
            Guidance(scale, rescale=0.7),
        ),
        (
            theirs("ClassifierFreeZeroStarGuidance", guidance_scale=scale, zero_init_steps=0),
            Guidance(scale, rule="zero_star"),
        ),
        (
            theirs("TangentialClassifierFreeGuidance", guidance_scale=scale),
            Guidance(scale, rule="tcfg"),
        ),
        (
            theirs(
                "AdaptiveProjectedGuidance",
                guidance_scale=scale - 1,
                adaptive_projected_guidance_rescale=2.0,
                eta=0.3,
                use_original_formulation=True,
                adaptive_projected_guidance_momentum=None,
            ),
            Guidance(scale, rule=rules.APG(eta=0.3, norm=2.0)),
        ),
    ]
    for theirs_, ours in pairs:
        want = theirs_.forward(c, u).pred
        found = ours.merge([c, u], 0.5).output
        error = (found - want).norm() / want.norm()
        assert error < 1e-5, (theirs_, float(error))


def test_momentum_is_that_of_diffusers():
    guiders = pytest.importorskip("diffusers.guiders")
    theirs = guiders.AdaptiveProjectedGuidance(
        guidance_scale=3.0,
        adaptive_projected_guidance_momentum=-0.5,
        adaptive_projected_guidance_rescale=3.0,
        eta=0.2,
        use_original_formulation=True,
    )
    theirs._step, theirs._num_inference_steps, theirs._enabled = 1, 10, True
    buffer = guiders.adaptive_projected_guidance.MomentumBuffer(-0.5)
    theirs.momentum_buffer = buffer
    ours = Guidance(4.0, rule=rules.APG(eta=0.2, norm=3.0, momentum=-0.5))
    memory = None
    for seed in range(3):
        c, u = outputs(seed, dtype=torch.float32)
        found, memory = ours.merge([c, u], 0.5, memory)
        torch.testing.assert_close(found, theirs.forward(c, u).pred, rtol=1e-5, atol=1e-5)


def test_perpendicular_negatives():
    c, u, n = outputs(branches=3)
    guidance = Guidance({"text": 5.0, "bad": 1.5}, {"text": {}, "bad": {}}, rule="perp_neg")
    found = guidance.merge([c, u, n], 0.5).output
    d, e = flat(c - u), flat(n - u)
    across = e - (e * d).sum(1, keepdim=True) / (d * d).sum(1, keepdim=True) * d
    want = flat(u) + 5.0 * (d - 1.5 * across)
    torch.testing.assert_close(flat(found), want, rtol=0, atol=1e-12)
    # A negative along the wanted direction takes nothing away.
    same = guidance.merge([c, u, u + 2 * (c - u)], 0.5).output
    torch.testing.assert_close(same, u + 5 * (c - u), rtol=0, atol=1e-11)


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9])
def test_concepts_count_where_they_are_large(quantile):
    """SEGA, eq. 4 to 8, position by position."""
    c, u, *concepts = outputs(branches=4)
    scales, memory = {"text": 5.0, "smile": 4.0, "hat": -3.0}, None
    rule = rules.Semantic(quantile, warm_up=0.3, momentum=0.2)
    guidance = Guidance(scales, {name: {} for name in scales}, rule=rule)
    gathered = torch.zeros_like(c)
    for t in (0.9, 0.7, 0.5):
        edit = 0.2 * gathered
        for e, scale in zip(concepts, (4.0, -3.0), strict=True):
            for b in range(SHAPE[0]):
                for channel in range(SHAPE[1]):
                    d = (e - u)[b, channel]
                    least = torch.quantile(d.abs(), quantile)
                    edit[b, channel] += scale * d * (d.abs() >= least)
        gathered = 0.4 * gathered + 0.6 * edit
        found, memory = guidance.merge([c, u, *concepts], t, memory)
        want = u + 5.0 * (c - u) + (edit if t <= 0.7 else 0)
        torch.testing.assert_close(found, want, rtol=0, atol=1e-12)
        torch.testing.assert_close(memory, gathered, rtol=0, atol=1e-12)
    times = torch.tensor([0.9, 0.7, 0.5], dtype=torch.float64)  # of the samples
    plain = Guidance(scales, {name: {} for name in scales}, rule=rules.Semantic(quantile, 0.3))
    whole = plain.merge([c, u, *concepts], times).output
    for b, t in enumerate(times.tolist()):
        one = plain.merge([x[b : b + 1] for x in (c, u, *concepts)], t).output
        torch.testing.assert_close(whole[b : b + 1], one, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 7), (3, 2, 5), (0, 2, 4, 4), (2, 1, 2, 2, 2)])
def test_concepts_of_any_shape(shape):
    c, u, e = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    guidance = Guidance({"a": 1.0, "e": 2.0}, {"a": {}, "e": {}}, rule="sega")
    found = guidance.merge([c, u, e], 0.5).output
    rows = found.flatten(2) if len(shape) > 2 else found
    alike = (rows == (c.flatten(2) if len(shape) > 2 else c)).sum(-1)
    assert (alike == int(0.9 * (rows.shape[-1] - 1)) + (rows.shape[-1] > 1)).all()


@pytest.mark.parametrize("name", ["apg", "cfg", "frequency_decoupled", "tcfg", "zero_star"])
def test_several_branches_add_up(name):
    c, i, u = outputs(branches=3)
    scales = {"text": 4.0, "image": 1.5}
    together = {"text": {"text": 0}, "image": Branch({"text": 0, "image": 0}, against="text")}
    found = Guidance(scales, together, rule=name).merge([c, i, u], 0.5).output
    want = c + (by_hand(name, c, i, 4.0) - c) + (by_hand(name, i, u, 1.5) - i)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-12)
    if name == "cfg":  # InstructPix2Pix, eq. 3
        torch.testing.assert_close(found, u + 1.5 * (i - u) + 4.0 * (c - i))


def test_a_rule_of_ones_own():
    c, u = outputs()

    def closer(gram, t):  # the scale falls with the angle between both
        angle = gram[:, 0, 1] / (gram[:, 0, 0] * gram[:, 1, 1]).sqrt()
        return torch.stack([1 + t * angle, -t * angle], 1)

    found = Guidance(1.0, rule=closer).merge([c, u], 0.5).output
    angle = torch.nn.functional.cosine_similarity(flat(c), flat(u)).reshape(3, 1, 1, 1)
    torch.testing.assert_close(found, c + 0.5 * angle * (c - u), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"rule: expected weights \[3, 2\] of the outputs"):
        Guidance(1.0, rule=lambda gram, t: gram).merge([c, u], 0.5)


def test_zero_init():
    c, u = outputs()
    guidance = Guidance(3.0, rule=rules.ZeroStar(zero_init=0.1))
    with torch.no_grad():
        times = torch.tensor([0.95, 0.85, 0.91], dtype=torch.float64)
        assert flat(guidance.merge([c, u], times).output).any(1).tolist() == [False, True, False]
    assert not guidance.merge([c, u], 0.95).output.any()
    assert guidance.merge([c, u], 0.85).output.any()
    times = torch.tensor([0.95, 0.85, 0.91], dtype=torch.float64)
    assert flat(guidance.merge([c, u], times).output).any(1).tolist() == [False, True, False]


def test_the_space_of_outputs():
    c, u = outputs()
    space = rules.Space(kernels.gram([c, u]))
    a, b = space.basis()
    w = 2 * a - 0.5 * b
    x = flat(2 * c - 0.5 * u)
    torch.testing.assert_close(space.norm(w)[:, 0], x.norm(dim=1))
    torch.testing.assert_close(space.variance(w)[:, 0], x.var(1, correction=0))
    torch.testing.assert_close(space.inner(w, b)[:, 0], (x * flat(u)).sum(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Guidance(2.0, rule="apgg"), "rule='apgg': did you mean 'apg'"),
        (lambda: Guidance(2.0, rule="cfg++"), "the solver 'ddim_cfgpp'"),
        (lambda: Guidance(2.0, rule="pag"), "network=perturbed"),
        (lambda: Guidance(2.0, rule=3), "rule=3: expected"),
        (lambda: Guidance(2.0, rule="perp_neg"), "the unconditional branch and one negative"),
        (lambda: Guidance(2.0, rule="sega"), "the unconditional branch and one concept"),
        (lambda: rules.Semantic(quantile=1.0), "quantile=1.0: expected a number in"),
        (
            lambda: Guidance({"a": 1.0, "b": -1.0}, {"a": {}, "b": {}}, rule="perp_neg"),
            r"scale\['b'\]=-1.0",
        ),
        (
            lambda: Guidance(
                {"a": 1.0, "b": 2.0}, {"a": {}, "b": {}}, rule=rules.APG(momentum=0.1)
            ),
            "momentum is that of one branch",
        ),
        (lambda: Guidance({"a": 1.0}, {"b": {}}), r"unconditional: expected arguments for each"),
        (lambda: Guidance({}, {}), "scale={}: expected scales by the names"),
        (lambda: Guidance({"a": math.nan}, {"a": {}}), r"scale\['a'\]=nan"),
        (
            lambda: Guidance({"a": 2.0}, {"a": Branch(against="b")}),
            r"unconditional\['a'\]: against='b' is none of the branches before it, \[\]",
        ),
        (lambda: Guidance({"a": 2.0}, {"a": {}}, network=abs), "each branch has its own"),
        (lambda: rules.APG(norm=-1), "norm=-1"),
        (lambda: rules.APG(momentum=1.0), "momentum=1.0"),
        (lambda: rules.Rescale(2.0), "phi=2.0"),
        (lambda: rules.ZeroStar(1.0), "zero_init=1.0"),
        (lambda: rules.MagnitudeAware(-1.0), "alpha=-1.0"),
        (lambda: rules.FrequencyDecoupled(levels=0), "levels=0"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_frequencies_need_room():
    with pytest.raises(ValueError, match="expected outputs"):
        Guidance(2.0, rule="frequency_decoupled").merge([torch.ones(2, 3)] * 2, 0.5)
