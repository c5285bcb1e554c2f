"""The race: who takes part, who wins, and what is said of the others."""

import csv

import pytest
import torch

import fastgen
from fastgen import schedules
from tests.support.mixtures import Mixture

VP = schedules.LinearVP()


def model_of(predicts="noise", schedule=VP):
    return fastgen.Model(Mixture(schedule, predicts), schedule, predicts, time_dtype=torch.float64)


def test_the_nearest_to_the_exact_flow_wins(tmp_path):
    model = model_of()
    found = fastgen.race(
        model, (2,), 6, solvers=["ddim", "unipc", fastgen.solvers.heun, "rk4", "ddpm"],
        timesteps=["uniform", fastgen.timesteps.karras(rho=5), "leading"], samples=32, batch=32,
        dtype=torch.float64,
    )  # fmt: skip
    errors = [e.error.rms for e in found.entries]
    assert errors == sorted(errors)
    assert len(found.entries) == 8
    assert {e.grid for e in found.entries} == {"uniform", "karras(rho=5)"}
    assert {(e.solver, e.plan.nfe) for e in found.entries} == {
        ("ddim", 6), ("unipc", 6), ("heun", 5), ("rk4", 5),
    }  # fmt: skip
    assert found.best is found.entries[0].plan
    assert "draws noise" in found.left_out["ddpm", "uniform"]
    assert "it starts at" in found.left_out["ddim", "leading"] or found.left_out["ddim", "leading"]

    # Held against the flow itself, from the same noise.
    z = fastgen.randn((32, 2), seed=1_000_003, dtype=torch.float64) * VP.sigma(1.0)
    exact = fastgen.sample(model, z, "rk4", 200, timesteps="log_snr", dtype=torch.float64)
    for entry in (found.entries[0], found.entries[-1]):
        x = fastgen.Sampler(model, entry.plan, dtype=torch.float64)(z)
        rms = float((x - exact).square().mean().sqrt())
        assert entry.error.rms == pytest.approx(rms, abs=5 * found.teacher.rms + 1e-6)

    found.to_csv(tmp_path / "race.csv")
    rows = list(csv.DictReader((tmp_path / "race.csv").open()))
    assert [float(r["rms"]) for r in rows] == errors
    text = repr(found)
    assert text.startswith("Race of 8 plans at 6 evaluations, 32 samples")
    assert all(name in text for name in ("rk4", "karras(rho=5)", "median"))


def test_all_deterministic_solvers_take_part():
    found = fastgen.race(model_of("velocity"), (2,), 4, samples=16, batch=16)
    known = fastgen.solvers.names(stochastic=False, two_times=False)
    seen = {e.solver for e in found.entries} | {s for s, _ in found.left_out}
    assert seen == set(known) - {"bridge_sde", "consistency"}
    assert max(e.plan.nfe for e in found.entries) == 4


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"nfe": 0}, "nfe=0"),
        ({"nfe": 3, "solvers": ["ddpm", "lcm"]}, "no solver can be planned"),
        ({"samples": 20}, "samples=20: expected a multiple"),
        ({"net": lambda x, t: x + torch.randn_like(x)}, "differ by"),
        ({"solvers": ["eulr"]}, "eulr"),
        ({"timesteps": ["karas"]}, "karas"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_misuse_of_a_race_is_named(changed, says):
    given = {"nfe": 4, "samples": 16, "batch": 16} | changed
    net = given.pop("net", Mixture(VP, "noise"))
    with pytest.raises(ValueError, match=says):
        fastgen.race(fastgen.Model(net, VP, "noise"), (2,), given.pop("nfe"), **given)


def test_a_race_shows_a_progress_bar(capsys):
    pytest.importorskip("tqdm")
    fastgen.race(
        model_of(), (2,), 3, solvers=["ddim"], timesteps=["uniform"], samples=8, batch=8,
        progress=True,
    )  # fmt: skip
    assert "race" in capsys.readouterr().err
