"""`fastgen tune` and `fastgen sample --plan`."""

import csv

import numpy as np
import pytest
import torch

import fastgen
from fastgen import networks
from fastgen.cli import main

pytest.importorskip("safetensors")
QUICK = "--option samples=64 --option held_out=64"


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run `fastgen LINE` in a folder with a saved model; what is printed, or the error."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = networks.MLP((2,), (16,), classes=3)
    model = fastgen.Model(net, fastgen.schedules.Rectified(), "velocity", data_at=1)
    model.save_pretrained("m", shape=(2,))

    def call(line):
        code = main(line.split())
        out, err = capsys.readouterr()
        assert (code, err.count("\n")) in ((0, 0), (2, 1))
        return err or out

    call.model = model
    return call


def test_a_fitted_plan_is_written_and_sampled_with(run, tmp_path):
    said = run(f"tune m --nfe 3 --out plan.json --labels 0,1,2 --race race.csv {QUICK}")
    plan = fastgen.Plan.from_json((tmp_path / "plan.json").read_text())
    assert plan.nfe <= 3
    assert plan.note in said
    assert said.startswith("Race of ")
    rows = list(csv.DictReader((tmp_path / "race.csv").open()))
    assert [float(r["rms"]) for r in rows] == sorted(float(r["rms"]) for r in rows)

    said = run("sample m --plan plan.json --shape 5,2 --labels 1 --seed 4 --out x.npz")
    assert f"{plan.solver}, {plan.nfe} evaluations" in said
    with np.load("x.npz") as file:
        found = torch.from_numpy(file["samples"])
        assert str(file["plan"]) == plan.to_json()
    expected = fastgen.Sampler(run.model, plan)((5, 2), seed=4, labels=torch.ones(5).long())
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("tune m --nfe 3 --out plan.txt", "ends in .json"),
        ("tune m --nfe 3 --out p.json --option iteration=3", "iteration=...: did you mean"),
        ("tune m --nfe 0 --out p.json --labels 0", "nfe=0"),
        ("tune m --nfe 3 --out p.json --option samples=60", "samples=60"),
        ("sample m --plan other.json --out x.npz", "--plan other.json: made for LinearVP"),
        ("sample m --plan no.json --out x.npz", "no.json"),
        ("sample m --plan bad.json --out x.npz", "--plan bad.json: text: not JSON"),
        ("sample m --plan other.json --steps 4 --out x.npz", "--plan: it has its solver"),
    ],
)
def test_mistakes_with_plans_are_named(run, tmp_path, line, says):
    other = fastgen.plan("ddim", fastgen.schedules.LinearVP(), 3)
    (tmp_path / "other.json").write_text(other.to_json())
    (tmp_path / "bad.json").write_text("{")
    assert says in run(line)
