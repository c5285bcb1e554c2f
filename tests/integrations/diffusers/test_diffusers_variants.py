"""Schedulers whose loops are not like the others': side by side with diffusers' own."""

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
from diffusers.schedulers import ConsistencyDecoderScheduler  # noqa: E402

import fastgen.integrations.diffusers as drop_in  # noqa: E402
from tests.integrations.diffusers.scheduler_loops import SHAPE, network, relative  # noqa: E402


def pair(name, **config):
    peer = getattr(diffusers, name, None) or ConsistencyDecoderScheduler
    return peer(**config), getattr(drop_in, name)(**config)


def start(shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def cogvideox(scheduler, steps=9):
    scheduler.set_timesteps(steps)
    x, old = start(), None
    times = scheduler.timesteps
    generator = torch.Generator().manual_seed(9)
    for i, t in enumerate(times):
        x, old = scheduler.step(
            network(x, t),
            old,
            t,
            times[i - 1] if i > 0 else None,
            x,
            generator=generator,
            return_dict=False,
        )
    return x, generator.get_state()


def scm(scheduler, steps=2):
    scheduler.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
    x = start()
    generator = torch.Generator().manual_seed(9)
    for t in scheduler.timesteps[:-1]:
        result = scheduler.step(network(x, t), t, x, generator=generator)
        x = result.prev_sample
    return torch.cat([x, result.pred_original_sample]), generator.get_state()


def wuerstchen(scheduler, steps=8):
    scheduler.set_timesteps(steps)
    x = start()
    generator = torch.Generator().manual_seed(9)
    for t in scheduler.timesteps[:-1]:
        x = scheduler.step(network(x, t), t.expand(len(x)), x, generator=generator).prev_sample
    return x, generator.get_state()


def repaint(scheduler, steps=10):
    scheduler.set_timesteps(steps, jump_length=3, jump_n_sample=2)
    scheduler.eta = scheduler.config.eta
    image, mask = torch.tanh(start()), (start(SHAPE[2:]) > 0).float()
    x = start().flip(0)
    generator = torch.Generator().manual_seed(9)
    last = scheduler.timesteps[0] + 1
    for t in scheduler.timesteps:
        if t < last:
            x = scheduler.step(network(x, t), t, x, image, mask, generator).prev_sample
        else:
            x = scheduler.undo_step(x, last, generator)
        last = t
    return x, generator.get_state()


def decoder(scheduler):
    scheduler.set_timesteps(2)
    x = start() * scheduler.init_noise_sigma
    generator = torch.Generator().manual_seed(9)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x, generator).prev_sample
    return x, generator.get_state()


LOOPS = {
    "cogvideox": (cogvideox, "CogVideoXDPMScheduler", {}),
    "cogvideox, zero SNR": (
        cogvideox,
        "CogVideoXDPMScheduler",
        {
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
        },
    ),
    "decoder": (decoder, "ConsistencyDecoderScheduler", {}),
    "repaint": (repaint, "RePaintScheduler", {}),
    "repaint, eta": (repaint, "RePaintScheduler", {"eta": 0.6, "clip_sample": False}),
    "scm": (scm, "SCMScheduler", {}),
    "wuerstchen": (wuerstchen, "DDPMWuerstchenScheduler", {}),
    "wuerstchen, scaled": (wuerstchen, "DDPMWuerstchenScheduler", {"scaler": 1.5, "s": 0.01}),
}


@pytest.mark.parametrize("case", sorted(LOOPS))
def test_whole_loops(case):
    loop, name, config = LOOPS[case]
    peer, own = pair(name, **config)
    (expected, state), (found, used) = loop(peer), loop(own)
    assert expected.isfinite().all()
    assert relative(found, expected) < 1e-5
    assert torch.equal(used, state), "the generators were used differently"


def test_scm_of_one_step():
    """With a grid of more than one time diffusers draws noise even for the last."""
    peer, own = pair("SCMScheduler")
    assert relative(scm(own, 1)[0], scm(peer, 1)[0]) < 1e-6


def test_wuerstchen_rows_at_their_own_times():
    peer, own = pair("DDPMWuerstchenScheduler")
    x, times = start(), torch.tensor([0.3, 0.7])
    results = []
    for scheduler in (peer, own):
        scheduler.set_timesteps(10)
        generator = torch.Generator().manual_seed(1)
        results.append(scheduler.step(network(x, 1.0), times, x, generator).prev_sample)
    assert torch.equal(*results)


@pytest.mark.parametrize("previous", [300, 499])
def test_unclip_goes_where_it_is_told(previous):
    peer, own = pair("UnCLIPScheduler", variance_type="learned_range")
    x = start()
    output = torch.cat([network(x, 1.0), torch.tanh(start().flip(0))], 1)
    results = []
    for scheduler in (peer, own):
        scheduler.set_timesteps(5)
        generator = torch.Generator().manual_seed(1)
        results.append(scheduler.step(output, 500, x, previous, generator).prev_sample)
    assert relative(*results) < 1e-6


def test_flow_map_jumps_anywhere():
    """From and to times off the grid, and to the grid's next where none is said."""
    peer, own = pair("FlowMapEulerDiscreteScheduler", shift=2.0)
    x = start()
    for times in ({"r_timestep": 123.4}, {"r_timestep": torch.tensor([100.0, 700.0])}, {}):
        results = []
        for scheduler in (peer, own):
            scheduler.set_timesteps(4)
            t = scheduler.timesteps[1]
            results.append(scheduler.step(network(x, t), t, x, **times).prev_sample)
        assert relative(*results) < 1e-6
    with pytest.raises(ValueError, match="r_timestep"):
        own.step(x, 431.0, x)


def test_states_that_grow_between_steps():
    """FlowMatchLCM's scale factors: the pictures are twice as large after the second step."""
    results = []
    for scheduler in pair(
        "FlowMatchLCMScheduler", scale_factors=[1.0, 2.0], upscale_mode="nearest"
    ):
        scheduler.set_timesteps(3)
        x, generator = start(), torch.Generator().manual_seed(1)
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x, generator).prev_sample
        results.append(x)
    assert results[0].shape == (2, 3, 12, 10)
    assert torch.equal(*results)


def test_cosine_solver_ends_at_its_smallest_sigma():
    """The last step goes nowhere there; diffusers divides zero by zero."""
    _, own = pair("CosineDPMSolverMultistepScheduler", final_sigmas_type="sigma_min")
    own.set_timesteps(5)
    x = start() * own.init_noise_sigma
    for t in own.timesteps:
        x = own.step(network(own.scale_model_input(x, t), t), t, x).prev_sample
    assert x.isfinite().all()


@pytest.mark.parametrize("method", ["step_plms", "step_prk"])
def test_a_history_that_is_assigned_to_pndm(method):
    results = []
    for scheduler in pair("PNDMScheduler"):
        scheduler.set_timesteps(20)
        x = start()
        scheduler.ets = [network(x, t) for t in (4.0, 3.0, 2.0)]
        for t in scheduler.timesteps[12:15]:
            x = getattr(scheduler, method)(network(x, t), t, x).prev_sample
        results.append(x)
    assert relative(*results) < 1e-5


def test_ltx_stays_at_its_end():
    _, own = pair("LTXEulerAncestralRFScheduler")
    own.set_timesteps(2)
    x = start()
    for _ in range(2):
        x = own.step(network(x, 0.5), own.timesteps[-1], x).prev_sample
    assert own.step(x, own.timesteps[-1], x).prev_sample is x


def test_inverse_refuses_noise():
    _, own = pair("DPMSolverMultistepInverseScheduler", algorithm_type="sde-dpmsolver++")
    own.set_timesteps(5)
    with pytest.raises(ValueError, match="algorithm_type"):
        own.step(start(), own.timesteps[0], start())


def test_contract_noise_of_the_cosine_solver_follows_one_path():
    """Runs of more steps come near a run of few with the same seed, not with another."""

    def run(steps, seed):
        scheduler = drop_in.CosineDPMSolverMultistepScheduler(noise="contract", seed=seed)
        scheduler.set_timesteps(steps)
        x = start() * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        return x

    few = run(20, 5)
    assert torch.equal(few, run(20, 5))
    assert relative(few, run(80, 5)) < relative(few, run(80, 6)) / 2


@pytest.mark.parametrize("name", ["PiflowScheduler", "VQDiffusionScheduler"])
def test_others_are_refused_with_a_reason(name):
    with pytest.raises(AttributeError, match=f"no {name}: .*diffusers' own"):
        getattr(drop_in, name)
