"""Configurations: saved, loaded, taken from other schedulers, wrong."""

import inspect

import pytest
import torch

pytest.importorskip("diffusers")
import diffusers
from diffusers import schedulers

from tests.integrations.diffusers.scheduler_loops import OPTIONS, drop_in, quietly

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = [name for name in drop_in.__all__ if name.endswith("Scheduler")]


# Schedulers that are not called as the others are: test_diffusers_runs.py, _variants.py.
OWN_LOOPS = (
    "CogVideoXDPMScheduler",
    "ConsistencyDecoderScheduler",
    "DDPMWuerstchenScheduler",
    "RePaintScheduler",
    "SCMScheduler",
    "ScoreSdeVeScheduler",
    "ScoreSdeVpScheduler",
)
TWO_GRIDS = {"use_karras_sigmas": True, "use_beta_sigmas": True}


def peer(name):
    if name == "ScoreSdeVpScheduler":
        from diffusers.schedulers.deprecated.scheduling_sde_vp import ScoreSdeVpScheduler

        return ScoreSdeVpScheduler
    return getattr(schedulers, name)


def test_all_schedulers_are_there():
    assert len(NAMES) == 41
    assert set(OPTIONS) | set(OWN_LOOPS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_interface(name):
    """Signatures, order, length and class: what pipelines inspect."""
    theirs, mine = peer(name), getattr(drop_in, name)
    assert issubclass(mine, theirs)
    for method in ("step", "set_timesteps", "step_pred", "step_correct", "add_noise"):
        if hasattr(theirs, method):
            expected = inspect.signature(getattr(theirs, method)).parameters
            found = inspect.signature(getattr(mine, method)).parameters
            assert list(found) == list(expected), method
            defaults = {k: p.default for k, p in expected.items()}
            assert {k: p.default for k, p in found.items()} == defaults
    assert hasattr(mine, "scale_model_input") == hasattr(theirs, "scale_model_input")
    assert getattr(mine, "order", None) == getattr(theirs, "order", None)
    options = inspect.signature(theirs.__init__).parameters
    short = {"num_train_timesteps": 60, "beta_end": 0.2}
    short = {k: v for k, v in short.items() if k in options}
    scheduler, original = mine(**short), theirs(**short)
    assert hasattr(mine, "__len__") == hasattr(theirs, "__len__")
    length = quietly(len, original)[0]  # some have none, and Wuerstchen's reads what it has not
    assert length in (60, 1000, None)
    assert quietly(len, scheduler)[0] == length
    assert dict(scheduler.config) == dict(original.config)
    for attribute in ("init_noise_sigma", "timesteps", "sigmas", "alphas_cumprod", "betas"):
        expected = getattr(original, attribute, None)
        found = getattr(scheduler, attribute, None)
        if isinstance(expected, torch.Tensor):
            assert torch.equal(found, expected)
        else:
            assert found == expected


# Options of a constructor or a step that whole loops are not compared for in `OPTIONS`, and where
# they are tested instead.
ELSEWHERE = {
    "generator": "every loop has one; test_diffusers_runs.py for one per sample",
    "variance_noise": "test_diffusers_runs.py",
    "per_token_timesteps": "test_diffusers_runs.py",
    "pred_original_sample": "test_diffusers_runs.py",
    "solver_p": "test_diffusers_runs.py",
    "time_shift_type": "test_diffusers_runs.py: only with use_dynamic_shifting",
    "variance_type": "test_diffusers_runs.py: a second half of channels",
    "beta_schedule": "UnCLIPScheduler has one alone",
    "final_sigmas_type": "test_diffusers_variants.py: CosineDPMSolverMultistepScheduler's",
    "prev_timestep": "test_diffusers_variants.py",
    "r_timestep": "test_diffusers_variants.py",
    "scale_factors": "test_diffusers_variants.py",
    "upscale_mode": "test_diffusers_variants.py",
    # Pipelines compute mu from these; schedulers store them.
    "base_shift": "test_diffusers_pipelines.py",
    "max_shift": "test_diffusers_pipelines.py",
    "base_image_seq_len": "test_diffusers_pipelines.py",
    "max_image_seq_len": "test_diffusers_pipelines.py",
}
GIVEN = ("self", "model_output", "timestep", "sample", "return_dict", "kwargs")


@pytest.mark.parametrize("name", OPTIONS)
def test_no_option_of_diffusers_is_left_out(name):
    """Each option of constructor and step takes part in the comparison of whole loops."""
    theirs = peer(name)
    for method, compared in zip((theirs.__init__, theirs.step), OPTIONS[name], strict=True):
        options = [k for k in inspect.signature(method).parameters if k not in GIVEN]
        assert [k for k in options if k not in compared and k not in ELSEWHERE] == []
        assert [k for k in compared if k not in options] == []
        assert all(len(values) > 1 for k, values in compared.items() if k not in FIXED)


# The first value only: the chain is short, the path has a seed, nothing reads the bound.
FIXED = ("num_train_timesteps", "noise_sampler_seed", "s_tmax")


@pytest.mark.parametrize("name", ["DDIMScheduler", "UniPCMultistepScheduler", "LCMScheduler"])
def test_saved_and_loaded(name, tmp_path):
    options = {"num_train_timesteps": 70, "prediction_type": "v_prediction"}
    scheduler = getattr(drop_in, name)(**options)
    scheduler.save_pretrained(tmp_path)
    for module in (drop_in, diffusers):
        loaded = getattr(module, name).from_pretrained(tmp_path)
        assert isinstance(loaded, getattr(module, name))
        assert loaded.config.num_train_timesteps == 70
        assert loaded.config.prediction_type == "v_prediction"
    changed = getattr(drop_in, name).from_pretrained(tmp_path, prediction_type="epsilon")
    assert changed.config.prediction_type == "epsilon"


def test_foreign_configurations():
    """Any of the compatible classes takes any other's, also diffusers' own, and gives it back."""
    first = diffusers.PNDMScheduler(beta_end=0.013, skip_prk_steps=True)
    for name in ("DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"):
        scheduler = getattr(drop_in, name).from_config(first.config)
        assert scheduler.config.beta_end == 0.013
        back = drop_in.PNDMScheduler.from_config(scheduler.config)
        assert back.config.skip_prk_steps is True
    quiet = drop_in.DDPMScheduler.from_config(first.config, noise="contract", seed=4)
    assert "seed" not in quiet.config
    assert quiet.set_noise("torch") is None


def test_compatibles():
    """The same names as diffusers', ours where there is one."""
    for name in ("DDIMScheduler", "FlowMatchEulerDiscreteScheduler", "LCMScheduler"):
        theirs = {c.__name__ for c in getattr(diffusers, name)().compatibles}
        mine = {c.__name__: c for c in getattr(drop_in, name)().compatibles}
        assert set(mine) == theirs
        assert all(c is getattr(drop_in, n) for n, c in mine.items() if n in drop_in.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_options(name):
    for cls in (peer(name), getattr(drop_in, name)):
        if name == "DDIMInverseScheduler":  # it takes and drops any, for one that is deprecated
            assert quietly(cls, bta_end=0.1)[1] is None
        else:
            with pytest.raises(TypeError, match="bta_end"):
                cls(bta_end=0.1)


@pytest.mark.parametrize(
    ("name", "config", "error"),
    [
        ("DDPMScheduler", {"beta_schedule": "cosine"}, NotImplementedError),
        ("EulerDiscreteScheduler", TWO_GRIDS, ValueError),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "euler"}, NotImplementedError),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}, ValueError),
        ("UniPCMultistepScheduler", {"solver_type": "bh3"}, NotImplementedError),
        ("FlowMatchEulerDiscreteScheduler", {"time_shift_type": "none"}, ValueError),
        ("EDMEulerScheduler", {"sigma_schedule": "linear"}, ValueError),
    ],
)  # fmt: skip
def test_impossible_configurations(name, config, error):
    for module in (diffusers, drop_in):
        with pytest.raises(error):
            getattr(module, name)(**config)


@pytest.mark.parametrize(
    ("name", "config", "match"),
    [
        ("DDIMScheduler", {"prediction_type": "score"}, "prediction_type='score'"),
        ("EulerDiscreteScheduler", {"prediction_type": "score"}, "prediction_type='score'"),
        ("UniPCMultistepScheduler", {"prediction_type": "score"}, "prediction_type='score'"),
        ("DDPMScheduler", {"variance_type": "fixed_huge"}, "variance_type='fixed_huge'"),
        ("DDPMScheduler", {"variance_type": "fixed_large_log"}, "NaN"),
        ("DDPMScheduler", {"variance_type": "learned"}, "twice the channels"),
        ("EDMDPMSolverMultistepScheduler",
         {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}, "solver_order=3"),
    ],
)  # fmt: skip
def test_options_a_step_refuses(name, config, match):
    scheduler = getattr(drop_in, name)(**config)
    scheduler.set_timesteps(10)
    x = torch.zeros(1, 3, 4, 4)

    def loop():
        for t in scheduler.timesteps:
            scheduler.step(x, t, x)

    with pytest.raises(ValueError, match=match):
        loop()


def test_kdpm2_refuses_sample_prediction_as_diffusers_does():
    for module in (diffusers, drop_in):
        scheduler = module.KDPM2DiscreteScheduler(60, beta_end=0.2, prediction_type="sample")
        x = torch.zeros(1, 3, 4, 4)
        with pytest.raises(NotImplementedError):
            scheduler.step(x, scheduler.timesteps[0], x)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_positions_are_not_timesteps(name):
    scheduler, x = getattr(drop_in, name)(), torch.zeros(1, 3, 4, 4)
    scheduler.set_timesteps(10)
    for timestep in (3, torch.tensor(3)):
        with pytest.raises(ValueError, match=r"scheduler\.timesteps"):
            scheduler.step(x, timestep, x)
    with pytest.raises(IndexError, match=r"timestep=123\.5"):
        scheduler.step(x, 123.5, x)


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "LCMScheduler"]
)
def test_set_timesteps_comes_first(name):
    x = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="set_timesteps"):
        getattr(drop_in, name)().step(x, 3, x)
