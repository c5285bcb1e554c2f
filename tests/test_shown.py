"""Every public object shows itself: no address, no numbers by the page, in any state."""

import copy
import importlib
import inspect
import io
import pickle
import pkgutil
import tarfile

import numpy as np
import pytest
import torch
from torch import nn

import fastgen
from fastgen import (
    control,
    couplings,
    datasets,
    fitting,
    generation,
    kernels,
    networks,
    observations,
    plans,
    plots,
    rules,
    schedules,
    training,
)
from fastgen.common.error_control import ErrorControlled
from fastgen.integrations import azula, edm, torchcfm, torchsde
from fastgen.integrations.flow_matching import path, solver, utils
from fastgen.integrations.flow_matching.path import scheduler
from fastgen.integrations.flow_matching.utils import manifolds
from fastgen.integrations.torchcfm import utils as torchcfm_utils
from fastgen.integrations.torchcfm.models import models as torchcfm_models
from fastgen.kernels import pairwise
from fastgen.likelihood.flow import LogLikelihood
from fastgen.likelihood.transitions import LogProbability
from fastgen.likelihood.variational_bound import VariationalBound
from fastgen.networks.vae import Reconstruction
from fastgen.observations.conditioned import Conditioned, ConditionedNetwork
from fastgen.ode import Adjoint, Event, Status
from fastgen.sampling import Step
from fastgen.sampling.capture import Captured
from fastgen.sampling.parallel import ParallelReport
from fastgen.sampling.serving import ContinuousBatch
from fastgen.training import losses, paths
from fastgen.training.times import Times
from tests.support.compiling import without_compiler
from tests.support.pages import Table

# Of a drop-in's peer, which has to be installed; they show themselves as the peer's do.
PEERS = ("accelerate", "diffusers", "lightning", "integrations.asgi", "integrations.ray")
# Returned by public functions, without a public name.
RESULTS = (
    *(Captured, ContinuousBatch, LogLikelihood, LogProbability, Reconstruction, Times),
    *(VariationalBound, fastgen.Latent),
)
# What nobody makes: there is nothing to show.
ABSTRACT = (
    *(couplings.Coupling, path.ProbPath, solver.Solver, torchsde.BaseBrownian),
    *(observations.Method, observations.Noise, observations.Observation),
)


def public_classes():
    found = set(RESULTS)
    for module in pkgutil.walk_packages(fastgen.__path__, "fastgen."):
        if not module.ispkg or any(peer in module.name for peer in PEERS):
            continue
        page = importlib.import_module(module.name)
        names = getattr(page, "__all__", [n for n in vars(page) if not n.startswith("_")])
        found |= {
            value
            for name in names
            if inspect.isclass(value := getattr(page, name))
            and value.__module__.startswith("fastgen")
            and not issubclass(value, BaseException)
        }
    return sorted(found - set(ABSTRACT), key=lambda c: (c.__module__, c.__qualname__))


IMAGES = torch.rand(3, 1, 8, 8)
POINTS = torch.zeros(6, 2) + torch.arange(6.0)[:, None]
SCHEDULE = schedules.CosineVP()


def net():
    return networks.MLP((2,), (8,))


def model():
    return fastgen.Model(net(), SCHEDULE, "noise")


def sampler(solver="dpmpp_2m", **options):
    return fastgen.Sampler(model(), fastgen.plan(solver, SCHEDULE, 4, **options))


def vae():
    return networks.VAE(1, 2, 8, (1,))


def solved(**options):
    return fastgen.odeint(lambda t, y: -y, POINTS, [0.0, 1.0], return_solution=True, **options)


def crossing():
    event = Event(lambda t, y: y[:, 0] - 2.5)
    return solved(event=event, gradient="none").events[0]


def compiled_solve():
    with pytest.MonkeyPatch.context() as patch:
        without_compiler(patch)
        return fastgen.ode.compile_odeint(lambda t, y: -y, POINTS, [0.0, 1.0])


def attempt():
    samples, ones = torch.arange(3), torch.ones(3, dtype=torch.float64)
    return fastgen.ode.Attempt(samples, 0 * ones, 0.1 * ones, samples > 0, torch.ones(3, 2))


def accepted():
    seen = []
    solved(callback=seen.append, gradient="none")
    return seen[0]


def trainer():
    return training.Trainer(net(), training.Flow().loss, POINTS, training.Settings(steps=2))


def pairs(folder):
    return training.reflow(model(), folder, 4, (2,), steps=2, options={"end": 0.01})


def images(folder):
    image = pytest.importorskip("matplotlib.image")
    image.imsave(folder / "a.png", np.zeros((4, 4, 3), np.uint8))
    return datasets.Images(folder)


def shards(folder):
    held = io.BytesIO()
    np.save(held, np.zeros(3, np.float32))
    info = tarfile.TarInfo("a.npy")
    info.size = held.tell()
    held.seek(0)
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.addfile(info, held)
    return datasets.Shards([folder / "a.tar"])


def generated(folder):
    return fastgen.generate(sampler(), (2,), count=5, out=folder, labels=None)


def bound():
    discrete = schedules.DiscreteVP.linear(4)
    return fastgen.variational_bound(fastgen.Model(net(), discrete, "noise"), POINTS)


def race_result():
    options = {"solvers": ["ddim", "heun"], "samples": 8, "batch": 8}
    return fastgen.race(fastgen.Model(lambda x, t: x.tanh(), SCHEDULE, "data"), (2,), 4, **options)


def tuning_result():
    smooth = fastgen.Model(lambda x, t: x.tanh(), SCHEDULE, "data")
    base = fastgen.plan("ddim", SCHEDULE, 3)
    return fastgen.tune(smooth, (8,), base=base, samples=64, held_out=64, report=True)[1]


def path_sample():
    return paths.Target(0.1).sample(None, POINTS)


def drop_in_sample():
    x = torch.zeros(3, 2)
    return path.CondOTProbPath().sample(x, x, torch.zeros(3))


def given_a_mask():
    mask = observations.Mask(POINTS, torch.tensor([True, False]))
    return observations.conditioned(model(), mask, "replacement")


def point():
    return given_a_mask().net.point(POINTS, torch.full((6,), 0.5).double(), None, {})


def program():
    return fastgen.plan("euler", SCHEDULE, 3).lower(model().parametrisation)


def builder():
    made = plans.Builder(SCHEDULE)
    made.velocity(made.initial(), 0.5)
    return made


LINE = path.scheduler.CondOTScheduler
SPACE = rules.Space(torch.ones(6, 3, 3))
MAKERS = {
    Captured: lambda: sampler().capture((4, 2)),
    ContinuousBatch: lambda: sampler().serve((4, 2)),
    LogLikelihood: lambda: fastgen.log_likelihood(model(), POINTS, return_solution=True),
    LogProbability: lambda: LogProbability(torch.zeros(3, 2), (0, 1, 2)),
    VariationalBound: bound,
    Reconstruction: lambda: vae()(IMAGES, torch.zeros(3, 2, 8, 8)),
    Times: training.times.logit_normal,
    fastgen.Latent: lambda: fastgen.Latent.of(vae()).fit(IMAGES),
    fastgen.Model: model,
    fastgen.Guidance: lambda: fastgen.Guidance(
        torch.ones(6), {"label": torch.zeros(6), "f": net}, network=net()
    ),
    fastgen.model.Branch: lambda: fastgen.model.Branch({"f": net}, net(), against="text"),
    control.Restoration: lambda: control.Restoration(IMAGES),
    control.Steered: lambda: fastgen.steer(
        model(), fastgen.plan("ddpm", SCHEDULE, 3), lambda x: x.sum(1), (2, 2), 4
    ),
    observations.Mask: lambda: observations.Mask(POINTS, torch.ones(2)),
    observations.Linear: lambda: observations.Linear(
        observations.average_pool(2, dims=1), y=torch.zeros(6, 1, 2), noise=0.1
    ),
    observations.Nonlinear: lambda: observations.Nonlinear(torch.abs, POINTS),
    observations.Operator: lambda: observations.gaussian_blur(1.0),
    observations.Gaussian: lambda: observations.Gaussian(0.1),
    observations.Local: lambda: observations.Mask(POINTS, torch.ones(2)).near(POINTS),
    observations.Point: point,
    ConditionedNetwork: lambda: given_a_mask().net,
    Conditioned: given_a_mask,
    rules.Branches: lambda: rules.Branches(SPACE, SPACE.basis(), (0,), [torch.ones(1, 1)], 0.5),
    rules.Combined: lambda: rules.Combined(torch.ones(6, 2)),
    rules.OfGram: lambda: rules.OfGram(fastgen.kernels.gram),
    rules.Space: lambda: SPACE,
    fastgen.model.Permuted: lambda: fastgen.model.Permuted(net(), (1,)),
    fastgen.BrownianPath: lambda: fastgen.BrownianPath((6, 2)),
    # Couplings.
    couplings.Assignment: lambda: couplings.assign(POINTS, POINTS, return_duals=True),
    couplings.ByLabel: lambda: couplings.ByLabel(couplings.Sinkhorn()),
    couplings.ExactOT: lambda: couplings.ExactOT(replace=True, generator=torch.Generator()),
    couplings.GlobalBatch: lambda: couplings.GlobalBatch(couplings.ExactOT()),
    couplings.LargeCoupling: lambda: couplings.LargeCoupling(torch.arange(1000), 0.01, 3),
    couplings.PairingCollate: lambda: couplings.PairingCollate(couplings.Hilbert()),
    couplings.NamedCoupling: lambda: couplings.NamedCoupling("ot", {"cost": lambda a, b: a}),
    couplings.Semidiscrete: lambda: couplings.Semidiscrete(POINTS),
    couplings.SinkhornResult: lambda: couplings.sinkhorn(POINTS, POINTS, 1.0),
    couplings.Sorted: lambda: couplings.Sorted(torch.ones(2)),
    # Data.
    datasets.Data: lambda: datasets.Data(torch.randn(1000, 2), torch.zeros(1000)),
    datasets.Part: lambda: datasets.Part(torch.randn(90, 1, 8, 8), torch.zeros(90)),
    datasets.Digits: lambda: datasets.Digits(*[datasets.Part(POINTS, POINTS)] * 3),
    networks.Posterior: lambda: networks.Posterior(torch.randn(90, 2), torch.randn(90, 2)),
    networks.Network: net,
    networks.MLP: net,
    networks.VAE: vae,
    networks.DiT: lambda: networks.DiT(width=16, depth=1, heads=2),
    networks.ModulatedMLP: lambda: networks.ModulatedMLP((2,), 8, 1),
    networks.Embedding: lambda: networks.Embedding(8),
    networks.ScoreVAE: lambda: networks.ScoreVAE(vae(), networks.UNet(2, width=8)),
    networks.UNet: lambda: networks.UNet(1, width=8),
    # Integration.
    fastgen.ode.Solution: lambda: solved(on_failure="return", max_steps=2),
    fastgen.ode.Statistics: lambda: solved().stats,
    fastgen.ode.Crossing: crossing,
    Event: lambda: Event(lambda t, y: y),
    fastgen.ode.Accepted: accepted,
    fastgen.ode.Attempt: attempt,
    fastgen.ode.CompiledSolve: compiled_solve,
    ErrorControlled: lambda: fastgen.solvers.dopri5(rtol=1e-5),
    fastgen.timesteps.Grid: lambda: fastgen.timesteps.karras(rho=5),
    Adjoint: lambda: Adjoint(parameters=[torch.zeros(1000)], rtol=torch.zeros(1000)),
    Status: lambda: Status.DONE,
    # Plans.
    plans.Plan: lambda: fastgen.plan("ddim", SCHEDULE, 4, eta=0.5, clip=(-1, 1)),
    plans.Builder: builder,
    plans.Canonical: lambda: fastgen.plan("heun", SCHEDULE, 4, end=0.1).canonical(),
    plans.Form: lambda: builder().initial(),
    plans.Predictions: lambda: builder().predict(builder().initial(), 0.5),
    plans.Program: program,
    plans.Stage: lambda: program().stages[1],
    fastgen.Sampler: lambda: fastgen.Sampler(
        model(), sampler().plan, transform=lambda d, t: d, guidance=fastgen.Guidance(2.0, {"y": 0})
    ),
    fastgen.Parallel: lambda: fastgen.Parallel(window=16, tolerance=0),
    ParallelReport: lambda: ParallelReport(3, 60, 40, (10, 20, 10)),
    fastgen.Inversion: lambda: fastgen.invert(model(), POINTS, steps=2),
    Step: lambda: Step(3, 0.5, torch.randn(100, 2)),
    schedules.Schedule: schedules.CosineVP,
    schedules.DiscreteVP: schedules.DiscreteVP.linear,
    schedules.UserSchedule: lambda: schedules.UserSchedule(lambda t: 1 - t, lambda t: t),
    fastgen.solvers.Solver: lambda: fastgen.solvers.get("heun"),
    fastgen.solvers.Tableau: lambda: fastgen.ode.tableaus.find("dopri5"),
    # Training.
    training.Batch: lambda: trainer().batch(0),
    training.Denoising: lambda: training.Denoising(SCHEDULE),
    training.Flow: lambda: training.Flow(coupling="ot"),
    training.Trained: lambda: training.Trained(
        net(), training.Flow(), training.Settings(), 3, {"network": {}}
    ),
    training.Trainer: trainer,
    training.Order: lambda: training.Order(500, 3),
    training.Scaling: lambda: training.Scaling([0.0, 5e-3], [1e4, 1e-3]),
    plots.TrainingSheets: lambda: plots.TrainingSheets(training.Flow(), (2,)),
    # Sets on a disk.
    datasets.Arrays: lambda: datasets.Arrays(np.zeros((500, 3), np.float32)),
    datasets.Images: images,
    datasets.Shards: shards,
    datasets.Items: lambda: datasets.Items([torch.zeros(3)] * 500),
    training.Pairs: pairs,
    losses.Boundary: lambda: losses.Boundary(net()),
    paths.PathSample: path_sample,
    paths.Scheduled: lambda: paths.Scheduled(SCHEDULE),
    paths.Encoded: lambda: paths.Encoded(net(), lambda z: z),
    paths.Interpolant: lambda: paths.Interpolant((torch.cos, lambda t: t), lambda t: 0 * t),
    # Sets in folders.
    generation.Block: lambda: generation.Block(20, POINTS.numpy(), np.arange(6)),
    generation.Features: lambda: generation.Features(torch.Tensor.double, "mine"),
    generation.Generated: generated,
    generation.Place: lambda: generation.Place(1, 4),
    generation.Statistics: lambda: generation.Statistics(9, np.zeros(99), np.eye(99), 1.5),
    generation.Moments: lambda: generation.Moments.of(POINTS),
    # Fitted plans.
    fitting.Errors: lambda: fitting.Errors(0.1, 0.05),
    fitting.Entry: lambda: race_result().entries[0],
    fitting.Race: race_result,
    fitting.Tuning: tuning_result,
    # Kernels.
    kernels.Clock: lambda: kernels.Clock(torch.zeros(2)),
    kernels.Known: lambda: kernels.Known(torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)),
    kernels.Noise: lambda: kernels.Noise(torch.zeros(1), torch.zeros(5), torch.zeros(1)),
    kernels.Sampling: lambda: kernels.Sampling.STRATIFIED,
    kernels.Stream: lambda: kernels.Stream.SOLVER,
    pairwise.Kept: lambda: pairwise.Kept(1000),
    pairwise.Keys: lambda: pairwise.Keys(torch.zeros(1), torch.zeros(5), 3),
    # Drop-ins.
    azula.AzulaSchedule: lambda: azula.AzulaSchedule(lambda t: (1 - t, t)),
    azula.PosteriorMean: lambda: azula.PosteriorMean(net(), "one"),
    path.AffineProbPath: lambda: path.AffineProbPath(LINE()),
    path.GeodesicProbPath: lambda: path.GeodesicProbPath(LINE(), manifolds.FlatTorus()),
    path.PathSample: drop_in_sample,
    scheduler.SchedulerOutput: lambda: LINE()(torch.zeros(500)),
    scheduler.PolynomialConvexScheduler: lambda: scheduler.PolynomialConvexScheduler(2.0),
    scheduler.ScheduleTransformedModel: lambda: scheduler.ScheduleTransformedModel(
        net(), LINE(), scheduler.CosineScheduler()
    ),
    solver.ODESolver: lambda: solver.ODESolver(lambda x, t: x),
    solver.RiemannianODESolver: lambda: solver.RiemannianODESolver(manifolds.Sphere(), net()),
    utils.ModelWrapper: lambda: utils.ModelWrapper(net()),
    torchcfm_models.MLP: lambda: torchcfm_models.MLP(2),
    torchcfm_models.GradModel: lambda: torchcfm_models.GradModel(torch.sum),
    torchcfm_utils.torch_wrapper: lambda: torchcfm_utils.torch_wrapper(net()),
    torchcfm.OTPlanSampler: lambda: torchcfm.OTPlanSampler("exact"),
    torchsde.BaseSDE: lambda: torchsde.BaseSDE("scalar", "ito"),
    edm.StackedRandomGenerator: lambda: edm.StackedRandomGenerator("cpu", [1, 2]),
    torchsde.SDEIto: lambda: torchsde.SDEIto("diagonal"),
    torchsde.SDEStratonovich: lambda: torchsde.SDEStratonovich("general"),
    torchsde.ReverseBrownian: lambda: torchsde.ReverseBrownian(
        torchsde.BrownianInterval(size=(6, 2), entropy=7)
    ),
    torchsde.BrownianInterval: lambda: torchsde.BrownianInterval(size=(6, 2), entropy=7),
    torchsde.BrownianPath: lambda: torchsde.BrownianPath(0.0, torch.zeros(6, 2)),
    torchsde.BrownianTree: lambda: torchsde.BrownianTree(0.0, torch.zeros(6, 2)),
}
CLASSES = public_classes()
# nn.Module shows its parts, each on a line; a Tableau is data.
LONG = (nn.Module, fastgen.solvers.Tableau)


def made(cls, folder):
    maker = MAKERS.get(cls, cls)
    return maker(folder) if maker in (pairs, images, shards, generated) else maker()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: f"{c.__module__[8:]}.{c.__qualname__}")
def test_every_public_class(cls, tmp_path):
    value = made(cls, tmp_path)
    text = repr(value)
    assert "0x" not in text
    assert "not to be read" not in text
    assert "tensor(" not in text
    assert "array(" not in text
    if not issubclass(cls, LONG):
        lines = text.splitlines()
        assert len(lines) <= 9
        assert max(map(len, lines)) <= 200
    if hasattr(value, "_repr_html_"):
        page = value._repr_html_()
        table = Table(page)
        assert table.cells[0] == type(value).__name__
        assert "not to be read" not in table.cells
        assert "0x" not in page
        assert len(page) < 30_000
    else:  # a library's own, which says what it is
        assert type(value).__repr__ is not object.__repr__
    try:
        again = pickle.loads(pickle.dumps(value))
    except (AttributeError, TypeError, pickle.PicklingError):  # local functions
        again = copy.copy(value)
    # A captured run is recorded when its copy is used.
    assert repr(again) in (text, text.replace("=False,", "='when it is used',"))


class TestSpecialStates:
    def test_a_model_on_the_meta_device(self):
        with torch.device("meta"):
            meta = fastgen.Model(net(), SCHEDULE, "noise")
        assert "device=meta" in repr(meta)
        assert "MLP(" in repr(meta)

    def test_no_network_is_called_and_nothing_is_recorded(self):
        def refuse(x, t):
            raise AssertionError("called")

        made = fastgen.Model(refuse, SCHEDULE, "data")
        assert "net=refuse" in repr(made)
        held = fastgen.Sampler(made, fastgen.plan("euler", SCHEDULE, 3))
        assert ">refuse<" in held._repr_html_()
        captured = copy.deepcopy(sampler().capture((2, 2)))
        assert "graphed='when it is used'" in repr(captured)
        assert captured._made is None

    def test_figures_that_one_asks_first(self):
        found = solved(on_failure="return", max_steps=2)
        assert "status=6 MAX_STEPS" in repr(found)
        assert "accepted=2" in repr(found)
        assert "ys=float32[2, 6, 2]" in repr(found)
        plan = fastgen.plan("heun", SCHEDULE, 4, end=0.1)
        assert "steps=4, nfe=8" in repr(plan)
        assert str(plan) in plan._repr_html_().replace("&#x27;", "'").replace("&gt;", ">")
        made = couplings.assign(POINTS, POINTS)
        assert repr(made).startswith("Assignment(permutation=int64[6], cost=0.0, gap=")
        serving = sampler().serve((4, 2))
        serving.admit(seed=1)
        assert "active=1, free=3" in repr(serving)
        run = trainer()
        run.run(1)
        assert "step=1 of 2" in repr(run)

    @pytest.mark.gpu
    def test_a_gpu_is_not_waited_for(self):
        x0, x1 = torch.randn(2, 64, 2, device="cuda")
        found = couplings.sinkhorn(x0, x1, 1.0)
        held = fastgen.Sampler(model(), sampler().plan)
        moved = solved()
        on_device = fastgen.odeint(lambda t, y: -y, x0, [0.0, 1.0], return_solution=True)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            assert "cuda:0" in repr(found)
            assert "cuda:0" in repr(on_device)
            assert "cuda:0" in on_device._repr_html_()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert repr(held)
        assert repr(moved)

    def test_schedules_show_their_ends_in_notebooks(self):
        page = schedules.Rectified(3.0)._repr_html_()
        assert "shift" in page
        assert "alpha(1)" in page

    def test_user_functions_by_name(self):
        def rising(t):
            return t

        made = schedules.UserSchedule(lambda t: 1 - t, rising)
        assert repr(made) == "UserSchedule(alpha=<lambda>, sigma=rising, t_min=0.001)"
        assert np.array_equal(made.alpha(np.array([0.0, 1.0])), [1, 0])
