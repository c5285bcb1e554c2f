"""Error-controlled integration beside torchdiffeq and torchode, one thread.

Solver time is a solve's time without the vector field's: f is replaced by a table of its values,
made beforehand, so that what remains is the solver. The protocol is that of the torchode paper
(Lienen and Guennemann 2022, arXiv 2210.12375): Van der Pol, B = 256, mu = 2, tolerance 1e-5, 200
output points, dopri5, float32; diffrax's figure there, 900 us on another machine, stands for
scale only. Work is counted as rows of network evaluations, on phase-shifted Van der Pol, mu = 25,
where a joint step follows the fastest sample. The CNF is FFJORD's on 2-D data: samples, and
likelihoods with one Hutchinson probe, held against torchdiffeq at the same accuracy. "network
alone" is the network, with its one vector-Jacobian product, on as many rows in as many calls as
fastgen's solve: the rest is the solver's. Compiled solves of Van der Pol are those of
`compile_odeint` beside diffrax's, jitted; eager ones and those of ``odeint(compile=True)`` are
shown with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import fastgen
from benchmarks.peers import diffrax, installed
from benchmarks.problems.equations import TOLERANCE, Replayed, van_der_pol
from benchmarks.problems.networks import trained
from benchmarks.tools.harness import Case, Provider, measured
from benchmarks.tools.rows import Row, row
from fastgen.schedules import Rectified


def _torchode_solver(term: Any, torchode: Any) -> Any:
    method = torchode.Dopri5(term=term)
    controller = torchode.IntegralController(atol=1e-5, rtol=1e-5, term=term)
    return torchode.AutoDiffAdjoint(method, controller)


def overhead() -> Case:
    """Solver time per attempted step."""
    generator = torch.Generator().manual_seed(0)
    y0 = torch.randn(256, 2, generator=generator)
    t = torch.linspace(0, 10, 200)
    providers = []

    def add(name: str, package: str, solve: Callable[[Any], Any], starting: int) -> None:
        f = Replayed(van_der_pol(2.0))
        again = f.rewound(lambda: solve(f))
        steps = (len(f.values) - starting) // 6
        providers.append(Provider(name, lambda: again(), package, units=steps))

    add("fastgen", "fastgen-torch", lambda f: fastgen.odeint(f, y0, t, **TOLERANCE), 2)
    peer = installed("torchdiffeq")
    if peer is not None:
        add(
            "torchdiffeq",
            "torchdiffeq",
            lambda f: peer.odeint(f, y0, t, method="dopri5", **TOLERANCE),
            2,
        )
    other = installed("torchode")
    if other is not None:
        times = t.expand(256, -1).contiguous()

        def solve(f: Any) -> Any:
            solver = _torchode_solver(other.ODETerm(f), other)
            return solver.solve(other.InitialValueProblem(y0=y0, t_eval=times))

        add("torchode", "torchode", solve, 2)
    return Case("ode", "dopri5 step, van der pol", (256, 2), torch.float32, providers, threads=1)


def whole(batch: int, outputs: int) -> Case:
    """A whole solve; diffrax takes steps for each sample too, in one program."""
    f, t = van_der_pol(2.0), torch.linspace(0, 10, outputs)
    generator = torch.Generator().manual_seed(0)
    y0 = torch.tensor([2.0, 0.0]) + 0.5 * torch.randn(batch, 2, generator=generator)
    prepared = fastgen.ode.compile_odeint(f, y0, t, **TOLERANCE)
    providers = [
        Provider("fastgen", lambda: prepared(y0)),
        Provider(
            "fastgen, compile=True", lambda: fastgen.odeint(f, y0, t, compile=True, **TOLERANCE)
        ),
        Provider("fastgen, eager", lambda: fastgen.odeint(f, y0, t, **TOLERANCE)),
    ]
    for method in ("Dopri5", "Tsit5"):
        jitted = diffrax.van_der_pol(2.0, method, y0, t)
        if jitted is not None:
            # Its controller takes other steps.
            providers.append(Provider(f"diffrax {method}", jitted, "diffrax", compared=False))
    name = f"compiled solve, van der pol, {outputs} outputs"
    return Case("ode", name, (batch, 2), torch.float32, providers, tolerance=1e-4)


def work(batch: int) -> Iterator[Row]:
    """Rows of the vector field evaluated for phase-shifted Van der Pol, mu = 25."""
    f, mu = van_der_pol(25.0), 25.0
    with torch.no_grad():
        # One orbit, and starts spread over a period of about (3 - 2 log 2) mu + 2 pi / mu^(1/3).
        period = (3 - 2 * math.log(2)) * mu + 2 * math.pi / mu ** (1 / 3)
        phases = torch.linspace(0, period, batch + 1, dtype=torch.float64)[:batch]
        settled = fastgen.odeint(
            f, torch.tensor([[2.0, 0.0]]).double(), [0.0, 3 * period], rtol=1e-8, atol=1e-8
        )[-1]
        y0 = fastgen.odeint(f, settled, [*phases.tolist(), period], rtol=1e-8, atol=1e-8)[:-1, 0]
        t = torch.tensor([0.0, period]).double()
        kinds: dict[str, dict[str, Any]] = {
            "fastgen": {"execution": fastgen.ode.Execution(compact=True)},
            "fastgen, whole batch": {},
            "fastgen, joint steps": {"step": "joint"},
        }
        counts = {}
        for name, options in kinds.items():
            found = fastgen.odeint(f, y0, t, return_solution=True, **TOLERANCE, **options)
            counts[name] = found.stats.rows * (batch if "step" in options else 1)
        # So few phases that a joint step seldom follows another sample than one's own.
        few = counts["fastgen, joint steps"] < 3 * counts["fastgen"]
        for name, rows in counts.items():
            note = "few samples: less than 3 x fewer" if few and name == "fastgen" else ""
            yield _count(name, "fastgen-torch", batch, rows, note)
        peer = installed("torchdiffeq")
        if peer is not None:
            seen = []

            def counted(t: Tensor, y: Tensor) -> Tensor:
                seen.append(len(y))
                return f(t, y)

            peer.odeint(counted, y0, t, method="dopri5", **TOLERANCE)
            yield _count("torchdiffeq", "torchdiffeq", batch, sum(seen))


def _count(name: str, package: str, batch: int, rows: int, note: str = "") -> Row:
    shape = (batch, 2)
    return row(
        "ode", "rows, van der pol mu=25", name, package, shape, torch.float64, "rows", "",
        [float(rows)], note=note,
    )  # fmt: skip


def cnf() -> list[Case]:
    """Samples and likelihoods of a flow-matching model."""
    net = trained()
    model = fastgen.Model(net, Rectified(), "velocity")
    generator = torch.Generator().manual_seed(1)
    z, x = torch.randn(2, 512, 2, generator=generator).unbind(0)
    probe = torch.sign(fastgen.randn((512, 2), stream=3))
    peer = installed("torchdiffeq")
    # The mean over a batch hides a sample's error: torchdiffeq comes within 1e-4 of the truth at
    # 1e-6 (at 1e-5 it is off by 1e-3), fastgen at 5e-5.
    options: dict[str, Any] = {"rtol": 5e-5, "atol": 5e-5}
    peer_options = {"rtol": 1e-6, "atol": 1e-6}

    def draw() -> Tensor:
        return fastgen.sample(model, z, solver="dopri5", **options)

    def likelihood() -> Tensor:
        return fastgen.log_likelihood(model, x, divergence="hutchinson", **options).float()

    def product(x: Tensor, t: Tensor) -> None:
        with torch.enable_grad():
            x = x.requires_grad_()
            torch.autograd.grad(net(x, t), x, probe[: len(x)])

    samples = [Provider("fastgen", draw), _alone(net, draw, net)]
    likelihoods = [Provider("fastgen", likelihood), _alone(net, likelihood, product)]
    if peer is not None:

        def peer_field(t: Tensor, x: Tensor) -> Tensor:
            return net(x, t.expand(len(x)))

        def peer_draw() -> Tensor:
            with torch.no_grad():
                t = torch.tensor([1.0, 0.0])
                return peer.odeint(peer_field, z, t, method="dopri5", **peer_options)[-1]

        def both(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                x = state[0].detach().requires_grad_()
                v = peer_field(t, x)
                (g,) = torch.autograd.grad(v, x, probe)
            return v.detach(), (g * probe).sum(1)

        def peer_likelihood() -> Tensor:
            with torch.no_grad():
                t = torch.tensor([0.0, 1.0])
                state = (x, torch.zeros(512))
                xs, totals = peer.odeint(both, state, t, method="dopri5", **peer_options)
                normal = -0.5 * xs[-1].square().sum(1) - math.log(2 * math.pi)
                return normal + totals[-1]

        samples.append(Provider("torchdiffeq", peer_draw, "torchdiffeq"))
        likelihoods.append(Provider("torchdiffeq", peer_likelihood, "torchdiffeq"))
    shape = (512, 2)
    return [
        Case("ode", "cnf samples", shape, torch.float32, samples, tolerance=1e-4),
        Case("ode", "cnf likelihood", shape, torch.float32, likelihoods, tolerance=1e-4),
    ]


def _alone(net: nn.Module, solve: Callable[[], Any], call: Callable[..., Any]) -> Provider:
    """call on as many rows, as often, as a solve calls the network."""
    sizes: list[int] = []
    hook = net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    solve()
    hook.remove()
    made = {size: (torch.randn(size, 2), torch.rand(size)) for size in sizes}

    @torch.no_grad()
    def run() -> None:
        for size in sizes:
            x, t = made[size]
            call(x.detach(), t)

    return Provider("network alone", run, compared=False)


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    with torch.no_grad():
        yield from measured([overhead()], quick)
        for batch in (256,) if quick else (1, 256, 4096):
            yield from measured([whole(batch, 2), whole(batch, 200)], quick)
    yield from measured(cnf(), quick)
    for batch in (1, 16) if quick else (1, 4, 16, 64, 256, 1024):
        yield from work(batch)
