import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import fastgen
from fastgen.cli import main

FACTORIES = """
import fastgen
import torch

class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, labels=None):
        shift = 0 if labels is None else labels.reshape(-1, 1, 1, 1)
        return self.gain * x + shift

class Picky(torch.nn.Module):
    def forward(self, x, t):
        return x + torch.zeros(7)

def model():
    return fastgen.Model(Scaled(), fastgen.schedules.CosineVP(), predicts="data")

def function():
    return lambda x, t: x

constant = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with the module `nets`."""
    (tmp_path / "nets.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    yield tmp_path
    sys.modules.pop("nets", None)


@pytest.fixture
def run(capsys):
    """Run a command line: (exit code, stdout, stderr)."""

    def call(line):
        code = main(line.split())
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def refused(run):
    """The one line that a misused command prints."""

    def call(line):
        code, out, err = run(line)
        assert (code, out) == (2, "")
        assert err.startswith("fastgen: error: ")
        assert err.count("\n") == 1
        return err

    return call


BARE = "sample nets:Scaled --schedule Rectified --predicts velocity --shape 2,1,4,4 --steps 3"


class TestTop:
    def test_version_and_help(self, run):
        assert run("--version") == (0, f"fastgen {fastgen.__version__}\n", "")
        code, out, _ = run("--help")
        assert code == 0
        assert all(name in out for name in ("demo", "sample", "solvers", "plan"))

    @pytest.mark.parametrize("line", ["", "smaple", "plan euler --setps 3", "plan euler --steps x"])
    def test_bad_arguments_are_one_line(self, refused, line):
        assert "--help" in refused(line)

    def test_traceback_on_request(self, monkeypatch):
        monkeypatch.setenv("FASTGEN_TRACEBACK", "1")
        with pytest.raises(ValueError, match="unknown schedule"):
            main(["plan", "euler", "--schedule", "Rectifed", "--steps", "2"])

    def test_importing_it_imports_no_optional_package(self):
        code = (
            "import sys, fastgen.cli; "
            "print([m for m in ('matplotlib', 'sklearn', 'safetensors', 'tqdm') if m in sys.modules"
            " and m not in before])"
        )
        code = f"import sys, torch; before = set(sys.modules); {code}"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.stdout == "[]\n", result.stderr


class TestSolvers:
    def test_lists_all_with_their_properties(self, run):
        code, out, _ = run("solvers")
        lines = {line.split()[0]: line for line in out.splitlines()[2:]}
        assert code == 0
        assert list(lines) == fastgen.solvers.names()
        assert "arXiv 2211.01095" in lines["dpmpp_2m"]
        assert "corrector_steps=5" in lines["annealed_langevin"]
        assert "yes" in lines["ddpm"]


class TestPlan:
    def test_prints_the_program(self, run):
        expected = fastgen.plan("heun", fastgen.schedules.Rectified(), 4)
        assert run("plan heun --steps 4") == (0, f"{expected}\n", "")

    def test_json_with_options(self, run):
        code, out, _ = run(
            "plan ddim --schedule VE:sigma_max=20 --steps 3 --timesteps karras "
            "--option rho=5 --option eta=0.5 --option clip=-1,1 --json"
        )
        plan = fastgen.Plan.from_json(out)
        schedule = fastgen.schedules.VE(sigma_max=20)
        expected = fastgen.plan(
            "ddim", schedule, 3, timesteps="karras", rho=5, eta=0.5, clip=(-1, 1)
        )
        assert code == 0
        assert json.loads(plan.to_json()) == json.loads(expected.to_json())

    def test_explicit_times_and_a_discrete_schedule(self, run):
        code, out, _ = run("plan euler --timesteps 1,0.25,0 --json")
        assert code == 0
        assert json.loads(out)["times"] == [1, 0.25, 0]
        code, out, _ = run("plan ddim --schedule DiscreteVP.linear:num=10 --steps 2 --json")
        assert code == 0
        assert json.loads(out)["schedule"]["num"] == 10

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("plan eulr --steps 2", "did you mean 'euler'"),
            ("plan euler --schedule Rectifed --steps 2", "did you mean 'Rectified'"),
            ("plan euler --schedule Rectified:shft=2 --steps 2", "did you mean 'shift'"),
            ("plan euler --schedule DiscreteVP.lin --steps 2", "did you mean 'linear'"),
            ("plan euler --schedule DiscreteVP.linear:nmu=2 --steps 2", "'nmu'"),
            ("plan euler --schedule Rectified:shift --steps 2", "expected key=value"),
            ("plan ddim --steps 2 --option etta=1", "did you mean 'eta'"),
            ("plan ddim --steps 2 --option steps=1", "an argument of its own"),
            ("plan ddim --steps 2 --option eta", "expected key=value"),
            ("plan ddim --steps 2 --timesteps karas", "did you mean 'karras'"),
            ("plan ddim --steps 0", "steps = 0"),
            ("plan ddim", "steps = None"),
        ],
    )
    def test_mistakes_are_named(self, refused, line, message):
        assert message in refused(line)


class TestSample:
    def test_npz_holds_samples_seed_and_plan(self, here, run):
        code, out, err = run(f"{BARE} --solver heun --seed 7 --out deep/x.npz")
        assert (code, err) == (0, "")
        assert "6 evaluations" in out
        with np.load(here / "deep" / "x.npz") as file:
            plan = fastgen.Plan.from_json(str(file["plan"]))
            assert (plan.solver, int(file["seed"])) == ("heun", 7)
            samples = file["samples"]
        import nets

        model = fastgen.Model(nets.Scaled(), fastgen.schedules.Rectified(), "velocity")
        expected = fastgen.sample(model, (2, 1, 4, 4), "heun", 3, seed=7)
        assert np.array_equal(samples, expected.detach().numpy())
        assert [file.name for file in (here / "deep").iterdir()] == ["x.npz"]

    def test_the_seed_determines_the_samples(self, here, run):
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            assert run(f"{BARE} --solver ddpm --seed {seed} --out {name}.npz")[0] == 0
        a, b, c = (np.load(here / f"{name}.npz")["samples"] for name in "abc")
        assert np.array_equal(a, b)
        assert not np.array_equal(a, c)

    def test_labels_are_repeated_over_the_batch(self, here, run):
        line = "sample nets:model --shape 3,1,2,2 --steps 1 --solver ddim"
        assert run(f"{line} --out a.npz")[0] == 0
        assert run(f"{line} --labels 0,5 --out b.npz")[0] == 0
        difference = np.load("b.npz")["samples"] - np.load("a.npz")["samples"]
        assert np.allclose(difference[:, 0, 0, 0], [0, 5, 0], atol=1e-5)

    def test_png(self, here, run):
        image = pytest.importorskip("matplotlib.image")
        assert run(f"{BARE} --out x.png")[0] == 0
        assert image.imread(here / "x.png").shape[:2] == (4 * 56, 9 * 56)

    def test_weights_are_loaded_strictly(self, here, run, refused):
        save_file = pytest.importorskip("safetensors.torch").save_file
        save_file({"gain": torch.tensor(0.0)}, here / "w.safetensors")
        assert run(f"{BARE} --weights w.safetensors --out x.npz")[0] == 0
        expected = fastgen.randn((2, 1, 4, 4), seed=0).numpy()  # a velocity of 0
        assert np.array_equal(np.load("x.npz")["samples"], expected)
        save_file(nn.Linear(2, 2).state_dict(), here / "w.safetensors")
        message = refused(f"{BARE} --weights w.safetensors --out x.npz")
        assert "missing gain; unexpected bias, weight" in message
        assert "no such file" in refused(f"{BARE} --weights v.safetensors --out x.npz")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("nets:Scald", "did you mean 'Scaled'"),
            ("nets:constant", "no callable 'constant'"),
            ("netz:Scaled", "cannot import 'netz'"),
            ("nets:Scaled", "give --schedule and --predicts"),
            ("nets:Scaled --schedule VE --predicts nose", "did you mean 'noise'"),
            ("nets:Scaled --schedule VE --predicts noise --time-input sgma", "'sigma'"),
            ("nets:Scaled --schedule VE --predicts noise --data-at 2", "data_at=2"),
            ("nets:Picky --schedule VE --predicts noise", "the network failed at --shape"),
            ("nets:function --weights w.safetensors", "made no torch.nn.Module"),
            ("nets:model --solver dpmp_2m", "did you mean 'dpmpp_2m'"),
            ("nets:model --option etta=1 --solver ddim", "did you mean 'eta'"),
            ("nowhere.safetensors", "no such file"),
            ("nowhere.safetensors --predicts noise", "--predicts is for"),
        ],
    )
    def test_mistakes_are_named(self, here, refused, line, message):
        assert message in refused(f"sample {line} --shape 2,1,4,4 --steps 2 --out x.npz")
        assert not (here / "x.npz").exists()

    @pytest.mark.parametrize(
        ("tail", "message"),
        [
            ("--shape 2,1,4,4 --out x.jpg", "ends in .npz or .png"),
            ("--shape 2,5,4,4 --out x.png", "use .npz"),
            ("--shape 2,1,4,0 --out x.png", "sizes of at least 1"),
            ("--shape 2,1,a --out x.png", "whole numbers"),
        ],
    )
    def test_bad_outputs_are_refused_before_any_work(self, here, refused, tail, message):
        assert message in refused(f"sample nets:nothing_that_exists {tail}")


class TestDemo:
    @pytest.fixture
    def small(self, here, monkeypatch):
        for package in ("sklearn", "safetensors", "matplotlib", "tqdm"):
            pytest.importorskip(package)
        from fastgen.demo import report

        monkeypatch.setattr(report, "NFES", (5,))
        monkeypatch.setattr(report, "SOLVERS", (("euler", {}), ("rk4", {}), ("ddpm", {})))
        return here / "out" / "demo"

    def test_trains_reports_and_reuses_the_checkpoint(self, small, run):
        code, out, _ = run("demo --steps 2")
        assert code == 0
        assert "wrote out/demo/checkpoint.safetensors: 2 training steps" in out
        rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
        assert [rows[name][1] for name in ("euler", "rk4", "ddpm")] == ["5", "4", "5"]
        assert (small / "samples.png").stat().st_size > 1000
        assert out.splitlines()[-1] == f"the picture: {(small / 'samples.png').resolve()}"
        with (small / "results.csv").open() as file:
            first = list(csv.DictReader(file))
        assert [line["solver"] for line in first] == ["euler", "rk4", "ddpm", "real digits (floor)"]
        assert 0 < float(first[-1]["frechet"]) < float(first[0]["frechet"])

        weights = (small / "checkpoint.safetensors").read_bytes()
        code, out, _ = run("demo")
        assert code == 0
        assert "reusing out/demo/checkpoint.safetensors: 2 training steps" in out
        assert (small / "checkpoint.safetensors").read_bytes() == weights
        with (small / "results.csv").open() as file:
            second = list(csv.DictReader(file))
        distances = [[float(line["frechet"]) for line in lines] for lines in (first, second)]
        assert distances[0] == pytest.approx(distances[1], rel=1e-6)

        line = f"sample {small / 'checkpoint.safetensors'} --shape 3,1,8,8 --steps 2 --labels 1"
        assert run(f"{line} --out x.npz")[0] == 0
        assert np.isfinite(np.load("x.npz")["samples"]).all()

    def test_a_damaged_checkpoint_is_refused(self, small, refused):
        small.mkdir(parents=True)
        (small / "checkpoint.safetensors").write_bytes(b"garbage")
        message = refused("demo --steps 2")
        assert "not a whole safetensors file" in message
        assert "--retrain" in message

    def test_a_missing_package_is_named(self, here, refused, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn", None)
        assert "scikit-learn needed: pip install 'fastgen-torch[demo]'" in refused("demo")
