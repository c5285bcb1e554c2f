"""Grids by curves, quantiles and tables against the peers that define them, and their errors."""

import ast
import importlib.util
import math
import pathlib
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgen import schedules, timesteps
from fastgen.schedules import EDM, CosineVP, DiscreteVP, LinearVP, Rectified, Trig
from fastgen.timesteps.quantiles import quantile

IN_TIME = ["uniform", "quadratic", "sgm_uniform", "normal", "linear_quadratic", "beta"]
SOME_STEPS = [2, 3, 5, 10, 18, 20, 30, 50, 100]
LATENT = DiscreteVP.scaled_linear()


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def scheduler(name, steps, **options):
    """A diffusers scheduler after set_timesteps, and a schedule with its very alphas_cumprod."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        theirs = getattr(diffusers, name)(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="linspace",
            **options,
        )
        theirs.set_timesteps(steps)
    squares = np.append(1.0, theirs.alphas_cumprod.double().numpy())
    return theirs, DiscreteVP(1 - squares[1:] / squares[:-1])


def pipeline_function(pipeline, name):
    """One function of a diffusers pipeline, without the packages that its module imports."""
    spec = importlib.util.find_spec("diffusers")
    if spec is None:
        pytest.skip("diffusers is not installed")
    path = pathlib.Path(spec.submodule_search_locations[0]) / "pipelines" / pipeline
    body = ast.parse(path.read_text()).body
    keep = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
    names = {}
    exec(compile(ast.Module(keep, []), str(path), "exec"), names)
    return names[name]


class TestQuantile:
    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (0.6, 0.6),
            (1, 1),
            (0.5, 0.5),
            (2, 5),
            (5, 2),
            (0.1, 0.3),
            (30, 0.7),
            (50, 50),
            (0.6, 40),
        ],
    )
    def test_equals_scipy(self, a, b):
        special = pytest.importorskip("scipy.special")
        p = np.concatenate([np.linspace(0, 1, 301), 10.0 ** -np.arange(1, 16)])
        got = quantile(p, a, b)
        np.testing.assert_allclose(got, special.betaincinv(a, b, p), rtol=1e-12, atol=0)
        assert got[0] == 0
        assert got[300] == 1
        assert (np.diff(got[:301]) > 0).all() or a < 0.2  # there the first ones may underflow

    @given(p=st.floats(1e-12, 1 - 1e-12), a=st.floats(0.2, 50), b=st.floats(0.2, 50))
    def test_inverts_the_distribution(self, p, a, b):
        special = pytest.importorskip("scipy.special")
        assert special.betainc(a, b, float(quantile(p, a, b))) == pytest.approx(p, rel=1e-9)

    def test_closed_forms_and_shapes(self):
        p = np.linspace(0, 1, 12).reshape(3, 4)
        np.testing.assert_allclose(quantile(p, 1, 1), p, rtol=1e-14)
        np.testing.assert_allclose(quantile(p, 3, 1), p ** (1 / 3), rtol=1e-14)
        arcsine = np.sin(np.pi / 2 * p) ** 2
        np.testing.assert_allclose(quantile(p, 0.5, 0.5), arcsine, rtol=1e-13)
        assert quantile(0.5, 7, 7) == pytest.approx(0.5, rel=1e-13)
        assert quantile([], 2, 2).shape == (0,)


@pytest.mark.parametrize(
    ("grid", "options", "theirs"),
    [
        ("karras", {}, "use_karras_sigmas"),
        ("exponential", {}, "use_exponential_sigmas"),
        ("beta", {"on": "ratio"}, "use_beta_sigmas"),
        ("linspace", {"rounded": False}, None),
        ("normal", {}, None),
    ],
)
@pytest.mark.parametrize("steps", SOME_STEPS)
def test_sigmas_of_diffusers_euler(grid, options, theirs, steps):
    flags = {theirs: True} if theirs else {}
    peer, mine = scheduler("EulerDiscreteScheduler", steps, **flags)
    t = timesteps.times(grid, mine, steps, **options)
    wanted = peer.sigmas.double().numpy()
    # Between indices they interpolate sigma linearly where ours interpolates log alpha.
    np.testing.assert_allclose(mine.ratio(t), wanted, rtol=2e-6 if theirs else 2e-4)
    np.testing.assert_allclose(mine.index_of_time(t[:-1]), peer.timesteps, atol=0.1)


@pytest.mark.parametrize("steps", SOME_STEPS)
def test_sigmas_of_diffusers_lu_lambdas(steps):
    peer, mine = scheduler("DPMSolverMultistepScheduler", steps, use_lu_lambdas=True)
    t = timesteps.times("log_snr", mine, steps)
    np.testing.assert_allclose(mine.ratio(t), peer.sigmas.double(), rtol=2e-6)
    # They round the times they feed the network, and so feed some twice or other than sigma's.
    np.testing.assert_allclose(mine.index_of_time(t[:-1]), peer.timesteps, atol=0.6)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("tokens", [256, 1024, 4096, 9216])
def test_dynamic_shift_is_that_of_diffusers(kind, tokens):
    diffusers = pytest.importorskip("diffusers")
    calculate_shift = pipeline_function("flux/pipeline_flux.py", "calculate_shift")
    peer = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, time_shift_type=kind
    )
    steps = 7
    # As the pipelines of Flux, Qwen-Image and others call it.
    sigmas = np.linspace(1.0, 1 / steps, steps)
    peer.set_timesteps(steps, sigmas=sigmas, mu=calculate_shift(tokens))
    mine = Rectified(schedules.dynamic_shift(tokens, kind=kind))
    t = timesteps.times("uniform", mine, steps)
    np.testing.assert_allclose(t, peer.sigmas.double(), rtol=1e-6)
    np.testing.assert_allclose(1000 * t[:-1], peer.timesteps, rtol=1e-6)


def test_static_shift_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    peer = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    peer.set_timesteps(sigmas=np.linspace(1.0, 1 / 28, 28))
    t = timesteps.times("uniform", Rectified(3.0), 28)
    np.testing.assert_allclose(t, peer.sigmas.double(), rtol=1e-6)
    # Left to its own spacing it goes to its smallest sigma, and shifts that one a second time.
    peer = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    peer.set_timesteps(28)
    t = timesteps.times("normal", Rectified(), 28)
    np.testing.assert_allclose(t, peer.sigmas.double(), rtol=1e-6)


@pytest.mark.parametrize("grid", IN_TIME)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_shift_acts_once(grid, steps):
    plain = timesteps.times(grid, Rectified(), steps)
    for shift in (0.5, 3.0, schedules.dynamic_shift(4096)):
        shifted = timesteps.times(grid, Rectified(shift), steps)
        np.testing.assert_allclose(
            shifted, shift * plain / (1 + (shift - 1) * plain), rtol=1e-13, atol=1e-16
        )


class TestComfy:
    """The scheduler functions of ComfyUI's samplers.py, written down again."""

    @pytest.mark.parametrize("steps", [1, *SOME_STEPS])
    def test_sgm_uniform_and_normal(self, steps):
        index = timesteps.times("sgm_uniform", LATENT, steps)
        wanted = np.append(np.linspace(999, 0, steps + 1)[:-1], -1)
        np.testing.assert_allclose(LATENT.index_of_time(index), wanted, atol=1e-9)
        index = timesteps.times("normal", LATENT, steps)
        wanted = np.append(np.linspace(999, 0, steps), -1)
        np.testing.assert_allclose(LATENT.index_of_time(index), wanted, atol=1e-9)
        t = timesteps.times("sgm_uniform", Rectified(), steps)
        wanted = np.append(np.linspace(1, 0.001, steps + 1)[:-1], 0)
        np.testing.assert_allclose(t, wanted, rtol=1e-13)

    @pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 40])
    @pytest.mark.parametrize("shift", [1.0, 3.0])
    def test_beta(self, steps, shift):
        stats = pytest.importorskip("scipy.stats")
        p = 1 - np.linspace(0, 1, steps, endpoint=False)
        index = np.rint(stats.beta.ppf(p, 0.6, 0.6) * 999)
        t = timesteps.times("beta", LATENT, steps, rounded=True)
        np.testing.assert_array_equal(LATENT.index_of_time(t), np.append(index, -1))
        flow = timesteps.times("beta", Rectified(shift), steps)
        u = (1 + 999 * stats.beta.ppf(p, 0.6, 0.6)) / 1000
        wanted = np.append(shift * u / (1 + (shift - 1) * u), 0)
        np.testing.assert_allclose(flow, wanted, rtol=1e-12)

    def test_beta_refuses_what_comfy_drops(self):
        with pytest.raises(ValueError, match=r"repeats index 999 at steps = 250; .*rounded=False"):
            timesteps.times("beta", LATENT, 250, rounded=True)

    @pytest.mark.parametrize("steps", [1, *SOME_STEPS])
    @pytest.mark.parametrize("options", [{}, {"threshold_noise": 0.01, "linear_steps": 1}])
    def test_linear_quadratic(self, steps, options):
        if steps == 1:
            t = timesteps.times("linear_quadratic", Rectified(), 1, **options)
            assert t.tolist() == [1, 0]
            return
        mochi = pipeline_function("mochi/pipeline_mochi.py", "linear_quadratic_schedule")
        wanted = mochi(steps, **{"threshold_noise": 0.025, **options})
        t = timesteps.times("linear_quadratic", Rectified(), steps, **options)
        np.testing.assert_allclose(t[:-1], wanted, rtol=1e-12)
        part = timesteps.times(
            "linear_quadratic", Rectified(), steps, start=0.8, end=0.2, **options
        )
        np.testing.assert_allclose(part, 0.2 + 0.6 * t, rtol=1e-12)

    @pytest.mark.parametrize("steps", [2, 5, 20])
    def test_kl_optimal(self, steps):
        x = np.arange(steps) / (steps - 1)
        wanted = np.tan(x * math.atan(0.002) + (1 - x) * math.atan(80.0))
        sigma = EDM().sigma(timesteps.times("kl_optimal", EDM(), steps))
        np.testing.assert_allclose(sigma, np.append(wanted, 0), rtol=1e-11)

    @pytest.mark.parametrize("steps", [1, 2, 4, 10, 20, 50, 125])
    def test_simple_and_ddim_uniform_are_trailing_and_leading(self, steps):
        simple = [999 - int(x * (1000 / steps)) for x in range(steps)]
        t = timesteps.times("trailing", LATENT, steps)
        np.testing.assert_array_equal(LATENT.index_of_time(t[:-1]), simple)
        ddim = list(range(1, 1000, max(1000 // steps, 1)))[::-1]
        t = timesteps.times("leading", LATENT, steps, steps_offset=1)
        np.testing.assert_array_equal(LATENT.index_of_time(t[:-1]), ddim)


def test_kl_optimal_is_even_in_the_angle():
    t = timesteps.times("kl_optimal", Trig(), 9, sigma_max=math.tan(0.45 * math.pi))
    np.testing.assert_allclose(t[:-1], np.linspace(0.9, 1e-3, 9), rtol=1e-12)
    t = timesteps.times("kl_optimal", EDM(), 5, sigma_data=0.5)
    np.testing.assert_allclose(np.diff(np.arctan(EDM().sigma(t[:-1]) / 0.5), 2), 0, atol=1e-11)


def test_kl_optimal_minimises_the_divergence_it_claims():
    # Euler on data N(0, 1) with alpha = 1 scales x by 1 - s (s - t) / (1 + s^2) per step.
    def spread(sigma):
        s, t = sigma[:-1], sigma[1:]
        variance = (1 + s[0] ** 2) * np.prod((1 + s * t) / (1 + s * s)) ** 2
        exact = 1 + t[-1] ** 2
        return variance / exact - 1 - math.log(variance / exact)

    def at(grid, **options):
        return EDM().sigma(timesteps.times(grid, EDM(), 8, end=EDM().t_min, **options))

    best = spread(at("kl_optimal"))
    for grid in ("karras", "exponential", "uniform"):
        assert best < spread(at(grid))
    for factor in (0.9, 1.1):
        moved = at("kl_optimal")
        moved[4] *= factor
        assert best < spread(moved)


class TestTables:
    def test_ays_are_the_published_levels(self):
        published = pytest.importorskip("diffusers.schedulers").AysSchedules
        for table, name, schedule in (
            ("sd15", "StableDiffusionSigmas", LATENT),
            ("sdxl", "StableDiffusionXLSigmas", LATENT),
            ("svd", "StableDiffusionVideoSigmas", EDM(0.002, 700.0)),
        ):
            t = timesteps.times("ays", schedule, 10, table=table)
            assert t[0] == 1
            np.testing.assert_allclose(schedule.ratio(t), published[name], rtol=3e-5)
        for table, name in (
            ("sd15", "StableDiffusionTimesteps"),
            ("sdxl", "StableDiffusionXLTimesteps"),
        ):
            t = timesteps.times("ays", LATENT, 10, table=table)
            np.testing.assert_allclose(LATENT.index_of_time(t[:-1]), published[name], atol=0.9)
        pixels = EDM(0.002, 160.41)
        levels = [160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006]
        t = timesteps.times("ays", pixels, 10, table="deepfloyd", end=0.006 / 160.41)
        np.testing.assert_allclose(pixels.ratio(t), levels, rtol=1e-12)

    @pytest.mark.parametrize("steps", [1, 2, 5, 10, 15, 40])
    def test_interpolation_is_that_of_the_authors(self, steps):
        levels = [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002]
        new = np.linspace(0, 1, steps + 1)
        wanted = np.exp(np.interp(new, np.linspace(0, 1, 11), np.log(levels[::-1])))[::-1].copy()
        wanted[-1] = 0
        video = EDM(0.002, 700.0)
        for grid, options in (("ays", {"table": "svd"}), ("table", {"sigmas": levels})):
            sigma = video.sigma(timesteps.times(grid, video, steps, **options))
            np.testing.assert_allclose(sigma, wanted, rtol=1e-12)

    def test_gits_is_the_published_schedule(self):
        wanted = [80, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002]
        sigma = EDM().sigma(timesteps.times("gits", EDM(), 6, end=EDM().t_min))
        np.testing.assert_allclose(sigma, wanted, rtol=1e-12)
        # Every level is one of the 61 among which they search, to the four decimals printed.
        teacher = EDM().sigma(timesteps.times("karras", EDM(), 61))
        for level in wanted:
            assert np.abs(teacher - level).min() < 6e-5

    def test_parts_of_a_table(self):
        sigmas = [10.0, 1.0, 0.1]
        t = timesteps.times("table", EDM(), 2, sigmas=sigmas)
        np.testing.assert_allclose(EDM().sigma(t), [10, 1, 0], rtol=1e-13)
        t = timesteps.times("table", EDM(), 3, sigmas=sigmas, start=5 / 80, end=0.2 / 80)
        assert (t[0], t[-1]) == (5 / 80, 0.2 / 80)
        np.testing.assert_allclose(EDM().sigma(t), np.geomspace(5, 0.2, 4), rtol=1e-12)
        # Ends beyond the table: begins with its first level, leaps from its last but one.
        t = timesteps.times("table", CosineVP(), 2, sigmas=sigmas, end=0.01)
        np.testing.assert_allclose(CosineVP().ratio(t[:-1]), [10, 1], rtol=1e-12)
        assert t[-1] == 0.01
        # A level printed a little above the schedule's own means its start.
        t = timesteps.times("table", EDM(), 2, sigmas=[80.001, 1.0, 0.1])
        assert t[0] == 1
        np.testing.assert_allclose(EDM().sigma(t), [80, 1, 0], rtol=1e-13)


@pytest.mark.parametrize("grid", ["sgm_uniform", "normal"])
def test_towards_a_later_end_is_uniform(grid):
    for schedule in (LinearVP(), Rectified(3.0), LATENT):
        t = timesteps.times(grid, schedule, 6, start=0.9, end=0.3)
        wanted = timesteps.times("uniform", schedule, 6, start=0.9, end=0.3)
        np.testing.assert_allclose(t, wanted, rtol=1e-13)


def test_one_and_two_steps():
    for grid in ("sgm_uniform", "normal", "linear_quadratic", "beta", "kl_optimal", "ays"):
        schedule = EDM(0.02, 14.615)
        one, two = (timesteps.times(grid, schedule, n) for n in (1, 2))
        assert one.tolist() == [1, 0]
        assert two[0] == 1
        assert two[2] == 0
    assert timesteps.times("normal", Rectified(), 2).tolist() == [1, 1e-3, 0]
    assert timesteps.times("sgm_uniform", Rectified(), 2)[1] == pytest.approx(0.5005)
    assert timesteps.times("beta", Rectified(), 2)[1] == pytest.approx(0.5005)
    assert timesteps.times("linear_quadratic", Rectified(), 2)[1] == pytest.approx(0.975)


@pytest.mark.parametrize(
    ("grid", "schedule", "options", "message"),
    [
        ("beta", LATENT, {"alpha": 0}, r"alpha = 0 is out of range; give a positive number"),
        ("beta", LATENT, {"beta": math.nan}, r"beta = nan is out of range"),
        ("beta", LATENT, {"on": "sigma"}, r"on = 'sigma' is unknown; give 'time' or 'ratio'"),
        ("beta", EDM(), {"rounded": True}, r"rounded = True needs a DiscreteVP schedule, not EDM"),
        ("beta", LATENT, {"start": 1e-3}, r"start = 0.001 is not above t_min = 0.001"),
        ("normal", EDM(), {"start": 1e-5}, r"start = 1e-05 is not above t_min = 2.5e-05"),
        ("sgm_uniform", EDM(), {"start": 1e-5}, r"use 'uniform'"),
        ("linear_quadratic", EDM(), {"linear_steps": 5}, r"linear_steps = 5 leaves no quadratic"),
        ("linear_quadratic", EDM(), {"linear_steps": 0}, r"linear_steps = 0 is not a positive int"),
        ("linear_quadratic", EDM(), {"threshold_noise": 0}, r"threshold_noise = 0 is out of range"),
        ("linear_quadratic", EDM(), {"threshold_noise": 0.6}, r"give less than 0.571429"),
        ("kl_optimal", EDM(), {"sigma_data": 0}, r"sigma_data = 0 is out of range"),
        (
            "ays",
            LATENT,
            {"table": "sdx"},
            r"unknown table 'sdx'; did you mean 'sdxl'\? Known: deep",
        ),
        ("gits", EDM(), {"table": "ffhq"}, r"unknown table 'ffhq'; Known: cifar10"),
        ("ays", EDM(), {"start": 1e-5}, r"levels from 14.615 to 0.029 lie outside"),
        ("ays", EDM(), {"end": 0.5}, r"levels from 14.615 to 0.029 lie outside"),
        ("table", EDM(), {}, r"sigmas has shape \(0,\); give at least two noise levels"),
        ("table", EDM(), {"sigmas": [1.0, 1.0]}, r"sigmas\[1\] = 1.0 is out of order"),
        ("table", EDM(), {"sigmas": [1.0, 0.0]}, r"sigmas\[1\] = 0.0 is out of order"),
        ("table", EDM(), {"sigmas": [math.nan, 1.0]}, r"sigmas\[0\] = nan is out of order"),
    ],
)
def test_errors(grid, schedule, options, message):
    with pytest.raises(ValueError, match=message):
        timesteps.times(grid, schedule, 5, **options)


def test_the_bound_on_threshold_noise_is_sharp():
    t = timesteps.times("linear_quadratic", EDM(), 5, threshold_noise=0.5714)
    assert (np.diff(t) < 0).all()
