"""The examples run from end to end, and with their own settings show what they say they show."""

import importlib
import subprocess
import sys

import pytest

for package in ("sklearn", "matplotlib", "safetensors"):
    pytest.importorskip(package)

TINY = {
    "trajectories": ["--steps", "3", "--points", "60"],
    "annealed_langevin": ["--steps", "3", "--points", "60"],
    "ddpm_and_flow": ["--steps", "3", "--width", "16"],
    "latent_flow": ["--steps", "3", "--width", "16"],
    "latent_score": ["--steps", "3", "--width", "16"],
    "class_likelihood": ["--steps", "3", "--digits", "3", "--labelled", "20"],
}
FILES = {
    "trajectories": ["trajectories.png"],
    "annealed_langevin": ["annealed-langevin.png"],
    "ddpm_and_flow": ["ddpm-and-flow.png"],
    "latent_flow": ["latent-flow.png", "latent.safetensors"],
    "latent_score": ["latent-score.png"],
    "class_likelihood": [],
}


def run(name, folder, *options):
    module = importlib.import_module(f"examples.{name}")
    return module.main(["--out", str(folder), *options])


@pytest.mark.parametrize("name", list(TINY))
def test_runs_in_a_moment(name, tmp_path, capsys):
    found = run(name, tmp_path, *TINY[name])
    assert all(value >= 0 for value in found.values()), "numbers, not NaN"
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES[name]
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())
    assert capsys.readouterr().out


def test_equal_seeds_give_equal_numbers(tmp_path):
    options = ["--steps", "3", "--width", "16"]
    first, second = (run("ddpm_and_flow", tmp_path, *options, "--seed", "4") for _ in range(2))
    assert first == second
    assert run("ddpm_and_flow", tmp_path, *options, "--seed", "5") != first


def test_as_a_program_that_refuses_nonsense(tmp_path):
    command = [sys.executable, "-m", "examples.latent_flow", "--out", str(tmp_path)]
    failed = subprocess.run([*command, "--steps", "0"], capture_output=True, text=True)
    assert failed.returncode == 2
    assert "expected at least 1" in failed.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_trajectories_reach_the_moons(tmp_path):
    found = run("trajectories", tmp_path)
    assert all(value < 1.2 for value in found.values()), found


@pytest.mark.slow
def test_langevin_finds_the_board(tmp_path):
    found = run("annealed_langevin", tmp_path)
    assert found["samples"] < 3 * found["other data"]


@pytest.mark.slow
def test_digits_come_near_the_held_out_ones(tmp_path):
    found = run("ddpm_and_flow", tmp_path, "--steps", "700")
    assert all(value < 5 * found["floor"] for key, value in found.items() if "flow" in key), found
    assert all(value < 20 * found["floor"] for value in found.values()), found


@pytest.mark.slow
def test_decoded_digits_have_their_labels(tmp_path):
    found = run("latent_flow", tmp_path)
    assert found["right, guidance 1"] > 0.9
    assert found["guidance 1"] < 8 * found["floor"]


@pytest.mark.slow
def test_likelihood_classifies(tmp_path):
    found = run("class_likelihood", tmp_path, "--steps", "700", "--digits", "40")
    assert found["likelihood"] > 0.75
