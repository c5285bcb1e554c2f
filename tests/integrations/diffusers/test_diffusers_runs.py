"""What a scheduler may meet in use: generators, dtypes, shapes, gradients, copies, own noise."""

import copy
import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
import diffusers

from tests.integrations.diffusers.scheduler_loops import SHAPE, drop_in, network, relative, run

pytestmark = pytest.mark.filterwarnings("ignore")
PLAIN = (
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "PNDMScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
NOISY = (
    "DDPMScheduler",
    "EulerAncestralDiscreteScheduler",
    "LCMScheduler",
    "SASolverScheduler",
    "KDPM2AncestralDiscreteScheduler",
)


def both(name, **config):
    return getattr(diffusers, name)(**config), getattr(drop_in, name)(**config)


def state(seed=3, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def step_through(scheduler, x, steps=6, start=0, change=None, **options):
    """From the step ``start`` on; ``change`` sees the state between steps."""
    for i, t in enumerate(scheduler.timesteps[start:]):
        if change is not None:
            x = change(i, x)
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(scaled, t), t, x, return_dict=False, **options)[0]
    return x


@pytest.mark.parametrize("name", [*NOISY, "DDIMScheduler"])
def test_one_generator_for_each_sample(name):
    extra = {"eta": 1.0} if name == "DDIMScheduler" else {}
    results = []
    for scheduler in both(name):
        scheduler.set_timesteps(6)
        generators = [torch.Generator().manual_seed(s) for s in (4, 5)]
        results.append(step_through(scheduler, state(), generator=generators, **extra))
    assert relative(results[1], results[0]) < 1e-5


def test_ddim_takes_the_noise_given():
    theirs, mine = both("DDIMScheduler")
    results = []
    for scheduler in (theirs, mine):
        scheduler.set_timesteps(6)
        results.append(step_through(scheduler, state(), eta=0.8, variance_noise=state(7)))
    assert relative(results[1], results[0]) < 1e-5
    t, noise = mine.timesteps[0], state()
    with pytest.raises(ValueError, match="variance_noise and generator"):
        mine.step(noise, t, noise, eta=1.0, generator=torch.Generator(), variance_noise=noise)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler"])
def test_multistep_takes_the_noise_given(name):
    results = []
    for scheduler in both(name, algorithm_type="sde-dpmsolver++"):
        scheduler.set_timesteps(6)
        results.append(step_through(scheduler, state(), variance_noise=state(7)))
    assert relative(results[1], results[0]) < 1e-5


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
def test_learned_variance(kind):
    results = []
    for scheduler in both("DDPMScheduler", variance_type=kind):
        scheduler.set_timesteps(6)
        x, generator = state(), torch.Generator().manual_seed(1)
        for t in scheduler.timesteps:
            variance = torch.sigmoid(state(8)) if kind == "learned" else torch.tanh(state(8))
            output = torch.cat([network(x, t), variance], dim=1)
            x = scheduler.step(output, t, x, generator=generator).prev_sample
        results.append(x)
    assert relative(results[1], results[0]) < 1e-5


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name, dtype):
    """diffusers' dtype, and no further from its float32 loop than its own half-precision loop."""
    theirs, mine = both(name)
    exact = run(theirs, 6, net=lambda x, t: network(x.to(dtype).float(), t).to(dtype).float())[0][
        -1
    ]
    peer, own = run(theirs, 6, dtype=dtype)[0][-1], run(mine, 6, dtype=dtype)[0][-1]
    assert own.dtype == peer.dtype
    assert relative(own, exact) <= 1.5 * relative(peer, exact) + 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", PLAIN)
def test_started_in_the_middle(name):
    """As img2img: noise added to an image, and the loop begun at begin_index."""
    results = []
    for scheduler in both(name):
        scheduler.set_timesteps(8)
        order = scheduler.order
        start = 4 * order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)
        t = scheduler.timesteps[start : start + 1]
        if name.startswith("Flow"):
            x = scheduler.scale_noise(state(), t, state(5))
        else:
            x = scheduler.add_noise(state(), state(5), t)
        results.append(step_through(scheduler, x, start=start))
    assert relative(results[1], results[0]) < 1e-5


@pytest.mark.parametrize("name", PLAIN)
def test_started_at_a_timestep(name):
    """Without begin_index the position is found from the timestep, in the grid or not a view."""
    results = []
    for scheduler, timestep in zip(both(name), (lambda t: t, lambda t: t.clone()), strict=True):
        scheduler.set_timesteps(8)
        start = 3 * scheduler.order
        x = state()
        for t in scheduler.timesteps[start:]:
            t = timestep(t)
            x = scheduler.step(network(x, t), t, x, return_dict=False)[0]
        results.append(x)
    assert relative(results[1], results[0]) < 1e-5


@pytest.mark.parametrize("name", PLAIN)
def test_the_state_may_be_changed_between_steps(name):
    """As inpainting does, which puts the known part back."""
    mask = (torch.arange(SHAPE[-1]) < 2).float()
    known = state(6)

    def change(i, x):
        return mask * known + (1 - mask) * x

    results = []
    for scheduler in both(name):
        scheduler.set_timesteps(6)
        results.append(step_through(scheduler, state(), change=change))
    assert relative(results[1], results[0]) < 1e-5


@pytest.mark.parametrize("name", [*PLAIN, *NOISY, "DPMSolverSinglestepScheduler"])
def test_results_are_the_callers(name):
    """No later step writes to what an earlier one returned or was given."""
    scheduler = getattr(drop_in, name)()
    scheduler.set_timesteps(6)
    x, seen = state(), []
    for t in scheduler.timesteps:
        output = network(x, t)
        result = scheduler.step(output, t, x)
        seen += [(y, y.clone()) for y in (x, output, *result.to_tuple())]
        x = result.prev_sample
    assert all(torch.equal(y, before) for y, before in seen)


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_layouts_and_runs_may_alternate(name):
    """Shapes, dtypes, strides and grids in turn on one scheduler, some of them mid-run."""
    scheduler = getattr(drop_in, name)()
    for shape in ((2, 3, 6, 5), (1, 3, 4, 4), (2, 3, 6, 5), (5, 3)):
        for dtype, steps in ((torch.float32, 6), (torch.float64, 5), (torch.bfloat16, 6)):
            fresh = getattr(drop_in, name)()
            results = []
            for s in (scheduler, fresh):
                s.set_timesteps(steps)
                results.append(step_through(s, state(shape=shape).to(dtype)))
            assert torch.equal(*results)
    scheduler.set_timesteps(6)
    x = state()
    for i, t in enumerate(scheduler.timesteps[:3]):
        x = scheduler.step(network(x, t), t, x).prev_sample
        x = x.double() if i == 1 else x
    expected = x
    t = scheduler.timesteps[3]
    with pytest.raises(ValueError, match="expected shape"):
        scheduler.step(network(x[:1], t), t, x[:1])
    assert torch.equal(x, expected)


def test_strides_and_empty_batches():
    scheduler = drop_in.DPMSolverMultistepScheduler()
    results = []
    for form in (torch.contiguous_format, torch.channels_last):
        scheduler.set_timesteps(5)
        x = state()
        for t in scheduler.timesteps:
            output = network(x, t).to(memory_format=form)
            x = scheduler.step(output, t, x.to(memory_format=form)).prev_sample
        results.append(x)
    assert torch.equal(*results)
    scheduler.set_timesteps(5)
    empty = torch.empty(0, 3, 4, 4)
    assert scheduler.step(empty, scheduler.timesteps[0], empty).prev_sample.shape == empty.shape


@pytest.mark.parametrize("name", PLAIN)
def test_gradients(name):
    """Through whole loops, with respect to the initial state."""
    gradients = []
    for scheduler in both(name):
        scheduler.set_timesteps(4)
        x = state().requires_grad_()
        step_through(scheduler, x).square().sum().backward()
        gradients.append(x.grad)
    assert relative(gradients[1], gradients[0]) < 1e-4


@pytest.mark.parametrize("name", [*PLAIN, "SASolverScheduler", "LMSDiscreteScheduler"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_go_on_where_the_original_is(name, copied):
    if name == "SASolverScheduler" and copied is not copy.deepcopy:
        pytest.skip("its tau_func is a lambda, in diffusers too")
    scheduler = getattr(drop_in, name)()
    scheduler.set_timesteps(8)
    x = state()
    torch.manual_seed(0)
    for t in scheduler.timesteps[:5]:
        x = scheduler.step(network(x, t), t, x).prev_sample
    other, results = copied(scheduler), []
    for s in (scheduler, other):
        y = x
        torch.manual_seed(1)
        for t in scheduler.timesteps[5:]:
            y = s.step(network(y, t), t, y).prev_sample
        results.append(y)
    assert torch.equal(*results)


@pytest.mark.parametrize("name", [*NOISY, "DPMSolverSDEScheduler"])
def test_contract_noise_is_each_samples_own(name):
    """One image of a batch can be made again alone; another seed gives another picture."""
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")

    def picture(rows, seeds):
        extra = {"noise_sampler_seed": list(seeds)} if "SDE" in name else {}
        scheduler = getattr(drop_in, name)(noise="contract", **extra)
        scheduler.set_timesteps(6)
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        options = {} if extra else {"generator": generators}
        return step_through(scheduler, state()[rows], **options)

    whole = picture([0, 1], (11, 12))
    alone = picture([1], (12,))
    other = picture([1], (13,))
    if name != "DPMSolverSDEScheduler":
        assert torch.equal(whole[1:], alone)
    assert relative(alone, whole[1:]) < 1e-6
    assert relative(other, alone) > 1e-2


def test_contract_noise_is_the_librarys():
    """EulerAncestral's first step, by hand."""
    import fastgen
    from fastgen.kernels import Stream

    quiet = drop_in.EulerAncestralDiscreteScheduler(noise="contract", seed=5)
    quiet.set_timesteps(6)
    x, t = state(), quiet.timesteps[0]
    result = quiet.step(network(x, t), t, x).prev_sample
    sigma, to = quiet.sigmas[:2].double().tolist()
    up = to * (sigma**2 - to**2) ** 0.5 / sigma
    z = fastgen.randn(SHAPE, seed=5, draw=1, stream=Stream.SOLVER)
    expected = x + (to**2 / sigma - sigma) * network(x, t) + up * z
    assert relative(result, expected) < 1e-6
    with pytest.raises(ValueError, match="seed=5"):
        drop_in.EulerAncestralDiscreteScheduler(seed=5)
    with pytest.raises(ValueError, match="contract"):
        drop_in.EulerAncestralDiscreteScheduler(noise="contrakt")


def test_positions_are_found_without_searching_tensors(monkeypatch):
    """No comparison of tensors and no `nonzero` in a whole loop."""

    def forbidden(*args, **kwargs):
        raise AssertionError("a tensor was searched")

    for name in (*PLAIN, *NOISY):
        scheduler = getattr(drop_in, name)()
        scheduler.set_timesteps(5)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "nonzero", forbidden)
            step_through(scheduler, state())


def test_reference_backend(monkeypatch):
    """Without the C++ kernels the operator does the same."""
    expected = run(drop_in.UniPCMultistepScheduler(), 6)[0][-1]
    monkeypatch.setenv("FASTGEN_BACKEND", "reference")
    assert torch.equal(run(drop_in.UniPCMultistepScheduler(), 6)[0][-1], expected)


def test_training_helpers():
    """add_noise and get_velocity at times for each sample, as DreamBooth-like training has them."""
    times = torch.tensor([10, 700])
    for name in ("DDPMScheduler", "DDIMScheduler"):
        theirs, mine = both(name)
        for method in ("add_noise", "get_velocity"):
            pair = [getattr(s, method)(state(1), state(2), times) for s in (theirs, mine)]
            assert torch.equal(*pair)
    theirs, mine = both("FlowMatchEulerDiscreteScheduler")
    pair = [s.scale_noise(state(1), s.timesteps[[3, 500]], state(2)) for s in (theirs, mine)]
    assert torch.equal(*pair)
    theirs, mine = both("EulerDiscreteScheduler")
    pair = [s.add_noise(state(1), state(2), s.timesteps[[3, 500]]) for s in (theirs, mine)]
    assert torch.equal(*pair)


def test_score_sde():
    """Predictor and corrector of both SDEs with the same seeds."""
    results = []
    for scheduler in both("ScoreSdeVeScheduler"):
        scheduler.set_timesteps(8)
        scheduler.set_sigmas(8)
        generator, x = torch.Generator().manual_seed(1), state() * scheduler.init_noise_sigma
        for sigma, t in zip(scheduler.sigmas, scheduler.timesteps, strict=True):
            score = -x / (sigma**2 + 1)
            x = scheduler.step_correct(score, x, generator=generator).prev_sample
            result = scheduler.step_pred(score, t, x, generator=generator)
            x = result.prev_sample
        results.append(result)
    assert relative(results[1].prev_sample, results[0].prev_sample) < 1e-5
    assert relative(results[1].prev_sample_mean, results[0].prev_sample_mean) < 1e-5
    batched = [
        s.step_pred(state(), torch.tensor([0.5, 1.0]), state(), generator=torch.Generator())[0]
        for s in both("ScoreSdeVeScheduler")
        if s.set_timesteps(8) is None
    ]
    assert torch.equal(*batched)

    from diffusers.schedulers.deprecated.scheduling_sde_vp import ScoreSdeVpScheduler

    results = []
    for scheduler in (ScoreSdeVpScheduler(), drop_in.ScoreSdeVpScheduler()):
        scheduler.set_timesteps(20)
        generator, x = torch.Generator().manual_seed(1), state()
        for t in scheduler.timesteps:
            x, mean = scheduler.step_pred(0.3 * x, x, t * torch.ones(2), generator=generator)
        results += [x, mean]
    assert relative(results[2], results[0]) < 1e-5
    assert relative(results[3], results[1]) < 1e-5


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("DDPMScheduler", {"timesteps": [900, 500, 100, 3]}),
        ("EulerDiscreteScheduler", {"timesteps": [900, 500, 100, 3]}),
        ("EulerDiscreteScheduler", {"sigmas": [14.6, 3.0, 0.5, 0.0]}),
        ("HeunDiscreteScheduler", {"timesteps": [900, 500, 100, 3]}),
        ("DPMSolverMultistepScheduler", {"timesteps": [900, 500, 100, 3]}),
        ("DPMSolverSinglestepScheduler", {"timesteps": [900, 500, 100, 3]}),
        ("LCMScheduler", {"timesteps": [999, 499, 99]}),
        ("TCDScheduler", {"timesteps": [999, 499, 99]}),
        ("CMStochasticIterativeScheduler", {"timesteps": [30, 12, 0]}),
        ("EDMEulerScheduler", {"num_inference_steps": 4, "sigmas": torch.tensor([0, 0.3, 0.6, 1])}),
        ("FlowMatchEulerDiscreteScheduler", {"sigmas": np.linspace(1, 0.2, 5)}),
        ("FlowMatchEulerDiscreteScheduler", {"timesteps": [1000.0, 600.0, 200.0]}),
    ],
)
def test_custom_grids(name, grid):
    theirs, mine = both(name)
    expected, found = run(theirs, None, grid=grid), run(mine, None, grid=grid)
    assert relative(found[0][-1], expected[0][-1]) < 1e-5


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_dynamic_shift(kind):
    grid = {"sigmas": np.linspace(1, 0.2, 5), "mu": 1.1}
    config = {"use_dynamic_shifting": True, "time_shift_type": kind}
    theirs, mine = both("FlowMatchEulerDiscreteScheduler", **config)
    expected, found = run(theirs, None, grid=grid), run(mine, None, grid=grid)
    assert relative(found[0][-1], expected[0][-1]) < 1e-5


def test_ddpm_over_the_whole_chain():
    """Before any set_timesteps the grid is the chain itself."""
    results = []
    for scheduler in both("DDPMScheduler", num_train_timesteps=20, beta_end=0.3):
        x, generator = state(), torch.Generator().manual_seed(1)
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x, generator=generator).prev_sample
        results.append(x)
    assert relative(results[1], results[0]) < 1e-5


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_tables_follow_what_users_change(name):
    """Other alphas, other sigmas, or another configuration, after a first run."""
    results = []
    for scheduler in both(name):
        first = run(scheduler, 5)[0][-1]
        scheduler.set_timesteps(5)
        if name == "DDIMScheduler":
            scheduler.alphas_cumprod = scheduler.alphas_cumprod**0.9
        else:
            scheduler.sigmas = scheduler.sigmas * 0.9
        x = step_through(scheduler, state())
        scheduler.register_to_config(prediction_type="v_prediction")
        results.append((first, x, run(scheduler, 5)[0][-1]))
    for own, peer in zip(results[1], results[0], strict=True):
        assert relative(own, peer) < 1e-5


def test_unipc_with_a_predictor_of_its_own():
    results = []
    for module in (diffusers, drop_in):
        inner = module.DDIMScheduler(clip_sample=False)
        scheduler = module.UniPCMultistepScheduler(solver_p=inner)
        inner.set_timesteps(6)
        scheduler.set_timesteps(6)
        results.append(step_through(scheduler, state()))
    assert relative(results[1], results[0]) < 1e-5


def test_per_token_timesteps():
    results = []
    for scheduler in both("FlowMatchEulerDiscreteScheduler"):
        scheduler.set_timesteps(6)
        x, t = state(shape=(2, 4, 8)), scheduler.timesteps[1]
        tokens = t * torch.ones(2, 4)
        results.append(scheduler.step(0.3 * x, t, x, per_token_timesteps=tokens).prev_sample)
    assert torch.equal(*results)
