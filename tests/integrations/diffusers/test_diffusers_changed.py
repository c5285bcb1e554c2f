"""What users and pipelines change: tables, timesteps of other kinds; a compiled step."""

import copy
import inspect

import pytest
import torch

pytest.importorskip("diffusers")
import diffusers

from tests.integrations.diffusers.scheduler_loops import OPTIONS, drop_in, network, relative

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = list(OPTIONS)
SHAPE = (2, 3, 4, 4)
# Too long by default to construct.
SHORT = {
    name: {"num_train_timesteps": 100}
    for name in NAMES
    if name.startswith(("KDPM2", "DPMSolverSDE", "Heun"))
}


def made(library, name, **config):
    config = SHORT.get(name, {}) | config
    if name == "DPMSolverSDEScheduler":
        config["noise_sampler_seed"] = 3
    return getattr(library, name)(**config)


def both(name, **config):
    return [made(library, name, **config) for library in (diffusers, drop_in)]


def loop(scheduler, step=None, cast=lambda t: t, change=None, at=3):
    """A whole run; ``cast`` is what becomes of the timesteps, ``change`` is called at step at."""
    step = step or scheduler.step
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    x = x * float(getattr(scheduler, "init_noise_sigma", 1.0))
    options = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = torch.Generator().manual_seed(5)
    for i, t in enumerate(scheduler.timesteps):
        if change is not None and i == at:
            change(scheduler)
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = step(network(scaled, t), cast(t), x, **options, return_dict=False)[0]
    return x


def tables(scheduler):
    """Names of the public tables of floating-point numbers."""
    return [
        name
        for name, value in vars(scheduler).items()
        if not name.startswith("_")
        and isinstance(value, torch.Tensor)
        and value.is_floating_point()
    ]


def scaled_in_place(name):
    return lambda s: getattr(s, name).mul_(0.98)


def past_torch(name):
    return lambda s: getattr(s, name).data.mul_(0.98)


def first_number(name):
    def change(s):
        table = getattr(s, name)
        table[(0,) * min(table.ndim, 1)] *= 0.99

    return change


def assigned(name):
    return lambda s: setattr(s, name, getattr(s, name) * 0.98)


@pytest.mark.parametrize("name", NAMES)
def test_tables_that_are_changed_have_the_effect_they_have_in_diffusers(name):
    """Every public table, in place or replaced, before a run that another one preceded."""
    probe = made(diffusers, name)
    probe.set_timesteps(5)
    compared = 0
    for table in tables(probe):
        for kind in (past_torch, first_number, assigned):
            results = []
            for scheduler in both(name):
                scheduler.set_timesteps(5)
                loop(scheduler)
                scheduler.set_timesteps(5)
                kind(table)(scheduler)
                try:
                    results.append(loop(scheduler))
                except IndexError as error:  # timesteps that are in no table
                    results.append(error)
            theirs, mine = results
            if isinstance(theirs, IndexError):
                assert isinstance(mine, IndexError)
                continue
            if not theirs.isfinite().all():  # a deviation of less than nothing, say
                continue
            # 1 - one near one is a difference of float32 numbers in diffusers.
            tolerance = 2e-3 if table == "one" else 2e-5
            assert relative(mine, theirs) < tolerance, (table, kind.__name__)
            compared += 1
    assert compared >= 3


@pytest.mark.parametrize("name", NAMES)
def test_tables_that_are_changed_in_the_middle_of_a_run(name):
    chain = hasattr(made(diffusers, name), "final_alpha_cumprod") or name.startswith("DD")
    chain = chain or name == "UnCLIPScheduler"
    # The ratio of sigmas, and 0, are what the other reads of its sigmas.
    own = {"IPNDMScheduler": "betas", "MiniMaxH3Scheduler": "timesteps"}
    table = own.get(name, "alphas_cumprod" if chain else "sigmas")
    results = []
    for scheduler in both(name):
        scheduler.set_timesteps(5)
        unchanged = loop(scheduler)
        scheduler.set_timesteps(5)
        late = min(4, len(scheduler.timesteps) - 1)
        results.append(loop(scheduler, change=scaled_in_place(table), at=late))
    assert relative(results[1], results[0]) < 2e-5
    assert not torch.equal(results[1], unchanged)


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("DDIMScheduler", "final_alpha_cumprod", torch.tensor(0.99995)),
        ("DDIMScheduler", "final_alpha_cumprod", 0.99995),
        ("DDIMInverseScheduler", "initial_alpha_cumprod", torch.tensor(0.97)),
        ("LCMScheduler", "num_inference_steps", 7),
        ("DDIMScheduler", "num_inference_steps", 4),
        ("UniPCMultistepScheduler", "disable_corrector", [1, 2]),
        ("DPMSolverSinglestepScheduler", "order_list", [1] * 6),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_attributes_that_are_assigned_have_effect(name, attribute, value, inference):
    results = []
    with torch.inference_mode(inference):
        for scheduler in both(name):
            scheduler.set_timesteps(6)
            loop(scheduler)
            scheduler.set_timesteps(6)
            setattr(scheduler, attribute, value)
            results.append(loop(scheduler))
    assert relative(results[1], results[0]) < 1e-5


def test_a_copy_does_not_take_its_originals_tables_for_its_own():
    """Written to just before and just after copying."""
    theirs, mine = both("DDIMScheduler")
    for scheduler in (theirs, mine):
        scheduler.set_timesteps(5)
        loop(scheduler)
        scheduler.alphas_cumprod.mul_(0.98)
    copies = copy.deepcopy(theirs), copy.deepcopy(mine)
    assert relative(loop(copies[1]), loop(copies[0])) < 1e-5
    copies[1].alphas_cumprod.mul_(0.98)
    assert relative(loop(mine), loop(theirs)) < 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_timesteps_cast_to_the_networks_dtype(name, dtype):
    """The run is that of the timesteps as they are, also where the position is looked up anew."""
    scheduler = made(drop_in, name)
    steps = 4 if name == "LCMScheduler" else 5
    scheduler.set_timesteps(steps)
    expected = loop(scheduler)
    scheduler.set_timesteps(steps)
    assert torch.equal(loop(scheduler, cast=lambda t: t.to(dtype)), expected)
    if name == "KDPM2AncestralDiscreteScheduler":  # some of its timesteps nearly coincide
        return
    scheduler.set_timesteps(steps)
    found = [scheduler.index_for_timestep(t.to(dtype)) for t in scheduler.timesteps]
    assert found == [scheduler.index_for_timestep(t) for t in scheduler.timesteps]


def test_timesteps_that_are_rounded_to_the_same_number_are_refused():
    scheduler = drop_in.DDPMScheduler()
    scheduler.set_timesteps(1000)
    x = torch.zeros(1, 3)
    with pytest.raises(ValueError, match=r"timestep=1000.0 in torch.bfloat16: 2 of"):
        scheduler.step(x, scheduler.timesteps[0].bfloat16(), x)
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="none of scheduler"):
        scheduler.step(x, torch.tensor(777.0).bfloat16(), x)
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        scheduler.step(x, scheduler.timesteps[:2], x)
    # Counted steps need no search once they are begun.
    counted = drop_in.LCMScheduler(original_inference_steps=1000)
    counted.set_timesteps(1000)
    counted.set_begin_index(0)
    assert counted.step(x, counted.timesteps[0].bfloat16(), x).prev_sample.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_whole_numbers_are_timesteps_where_they_are_in_diffusers(name):
    spaced = "timestep_spacing" in inspect.signature(getattr(diffusers, name).__init__).parameters
    config = {"timestep_spacing": "leading"} if spaced else {}
    for cast in (int, lambda t: torch.tensor(int(t)), lambda t: torch.tensor(int(t)).int()):
        results = []
        for scheduler in both(name, **config):
            scheduler.set_timesteps(4)
            try:
                results.append(loop(scheduler, cast=cast))
            except (ValueError, IndexError) as error:
                results.append(error)
        theirs, mine = results
        if isinstance(mine, Exception):
            assert type(mine) is type(theirs)
        elif not isinstance(theirs, Exception):
            assert relative(mine, theirs) < 1e-5
        else:  # the position is counted once scale_model_input has found it
            scheduler.set_timesteps(4)
            assert torch.equal(mine, loop(scheduler))


@pytest.mark.parametrize("name", NAMES)
def test_compiled_steps_are_the_steps(name):
    """By itself and inside a compiled function, which breaks there; nothing is traced."""
    torch._dynamo.reset()
    scheduler = made(drop_in, name)
    scheduler.set_timesteps(4)
    expected = loop(scheduler)
    scheduler.set_timesteps(4)
    assert torch.equal(loop(scheduler, torch.compile(scheduler.step, backend="eager")), expected)

    def around(output, t, x, **options):
        return scheduler.step(output * 1, t, x, **options)

    scheduler.set_timesteps(4)
    assert torch.equal(loop(scheduler, torch.compile(around, backend="eager")), expected)


def test_the_last_steps_of_ddpm_against_float64():
    """diffusers' own loop in float64 on its float32 tables, with the same draws."""
    n = 4 * 3 * 8 * 8
    x = (torch.arange(n) / n).reshape(4, 3, 8, 8)
    draws = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    exact, mine = diffusers.DDPMScheduler(), drop_in.DDPMScheduler()
    for table in ("alphas_cumprod", "one"):
        setattr(exact, table, getattr(exact, table).double())
    wide, own, g = x.double(), x, torch.Generator().manual_seed(0)
    for t in exact.timesteps[998:]:
        with pytest.MonkeyPatch.context() as patch:
            module = inspect.getmodule(diffusers.DDPMScheduler)
            patch.setattr(module, "randn_tensor", lambda *_, **__: draws.double())
            wide = exact.step(wide * t / (t + 1), t, wide).prev_sample
        own = mine.step(own * t / (t + 1), t, own, generator=g).prev_sample
    assert (own.double() - wide).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_a_step_after_the_last_is_refused(name):
    scheduler = made(drop_in, name)
    scheduler.set_timesteps(3)
    loop(scheduler)
    x = torch.zeros(SHAPE)
    with pytest.raises(IndexError, match=r"step_index=3: scheduler\.sigmas has 3 steps"):
        scheduler.step(x, scheduler.timesteps[-1], x)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "DEISMultistepScheduler"])
@pytest.mark.parametrize("order", [2, 3])
def test_a_sigma_that_is_there_twice_is_a_step_of_no_length(name, order):
    """diffusers divides by its length; here it stays, and the order is that of distinct sigmas."""
    scheduler = made(drop_in, name, solver_order=order, lower_order_final=False)
    scheduler.set_timesteps(6)
    scheduler.sigmas[3] = scheduler.sigmas[2]
    states = []
    x = loop(scheduler, step=lambda *a, **k: states.append(scheduler.step(*a, **k)) or states[-1])
    assert torch.equal(states[2][0], states[1][0])
    assert x.isfinite().all()


def test_as_many_steps_as_there_are_in_training():
    scheduler = drop_in.DPMSolverMultistepScheduler(num_train_timesteps=100)
    scheduler.set_timesteps(100)
    assert loop(scheduler).isfinite().all()
