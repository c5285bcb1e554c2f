"""`import fastgen` loads the face alone; its names are there when they are used."""

import ast
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastgen
from fastgen.cli import COMMANDS

# Rooms on top of the others, each imported by its own name.
BY_NAME = {"cli", "demo", "integrations"}
HEAVY = ("matplotlib", "numba", "pandas", "scipy", "sklearn", "sympy", "torch._dynamo", "triton")

# Command lines by their exit status: torch takes seconds to import.
WITHOUT_TENSORS = {
    0: [
        "plan dpmpp_2m --steps 3",
        "plan ddim --steps 3 --schedule DiscreteVP.linear:num=9",
        "plan unipc --steps 4 --timesteps karras --schedule EDM --json",
        "solvers",
        *(f"{command} --help" for command in COMMANDS),
    ],
    2: [
        "plan eulr --steps 2",
        "plan ddim --steps 0",
        "plan ddim --steps 2 --option etta=1",
        "solvers --markdwn",
        "train moons",
        "train moons --out x.pt",
        "train moon --out x.safetensors",
        "train nowhere.npy --out x.safetensors",
        "train moons --out x.safetensors --network Unet",
        "sample nowhere.safetensors --shape 2,2 --out x.npz",
        "sample nets:model --shape 2,a --out x.npz",
        "sample nets:model --shape 2,2 --out x.npz --solver ddmi",
    ],
}


def loaded(statement, first="import torch"):
    """The modules that a statement loads in a new process, and what it prints before them."""
    code = (
        f"import sys\n{first}\nbefore = set(sys.modules)\n{statement}\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.splitlines()[-1].split()) if run.stdout.strip() else set()


def rooms(modules):
    return {m.split(".")[1] for m in modules if m.startswith("fastgen.")}


class TestWhatIsLoaded:
    def test_the_face_alone(self):
        assert loaded("import fastgen", first="") >= {"fastgen"}
        added = loaded("import fastgen")
        assert {m for m in added if m.startswith("fastgen")} == {
            "fastgen",
            "fastgen.common",
            "fastgen.common.version",
        }
        assert "torch" not in loaded("import fastgen", first="")

    def test_sampling_loads_what_it_needs(self):
        added = loaded("import fastgen; fastgen.sample; fastgen.Model; fastgen.schedules.CosineVP")
        assert not rooms(added) & {"couplings", "demo", "integrations", "networks", "sde"}
        assert not rooms(added) & {"cli", "likelihood", "training"}
        assert not {m for m in added if m.startswith(HEAVY)}

    def test_the_command_line_without_a_command(self):
        statement = (
            "from fastgen.cli import main\n"
            "assert main(['--help']) == 0\n"
            "assert main(['--version']) == 0\n"
            "assert main(['smaple']) == 2\n"
        )
        assert not loaded(statement, first="") & {"numpy", "torch"}

    @pytest.mark.parametrize("status", WITHOUT_TENSORS)
    def test_commands_that_need_no_tensor(self, status, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        statement = (
            "from fastgen.cli import main\n"
            f"for line in {WITHOUT_TENSORS[status]}:\n"
            f"    assert main(line.split()) == {status}, line"
        )
        assert "torch" not in loaded(statement, first="")

    def test_what_computes_in_floats(self):
        statement = (
            "import fastgen, numpy\n"
            "plan = fastgen.plan('dpmpp_2m', fastgen.schedules.CosineVP(), 5)\n"
            "text = fastgen.Plan.from_json(plan.to_json()).__str__()\n"
            "fastgen.schedules.VE().sigma(numpy.linspace(0, 1, 3))\n"
            "fastgen.datasets.moons(3, numpy.random.default_rng(0))\n"
            "fastgen.solvers.get('rk4'), fastgen.solvers.Tableau"
        )
        assert "torch" not in loaded(statement, first="")


class TestNames:
    def test_every_name_is_there(self):
        statement = (
            "import fastgen\n"
            "for name in reversed(fastgen.__all__):\n"
            "    assert getattr(fastgen, name).__name__.rpartition('.')[2] == name, name\n"
            "    assert name in dir(fastgen), name\n"
        )
        assert "fastgen.sampling" in loaded(statement)

    def test_the_list_for_readers_of_types_is_the_same(self):
        tree = ast.parse(Path(fastgen.__file__).read_text())
        (block,) = (
            node
            for node in tree.body
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        )
        found = {
            (f"{node.module}.{alias.name}" if node.module == "fastgen" else node.module, alias.name)
            for node in block.body
            for alias in node.names
        }
        places = {(f"fastgen.{module}", name) for name, module in fastgen._MODULE_OF.items()}
        public_rooms = set(fastgen.__all__) & fastgen._ROOMS
        assert found == places | {(f"fastgen.{room}", room) for room in public_rooms}
        assert set(fastgen.__all__) == {name for _, name in found}

    def test_every_room_is_reached_from_it(self):
        folders = {m.name for m in pkgutil.iter_modules(fastgen.__path__) if m.ispkg}
        assert folders - BY_NAME == fastgen._ROOMS
        for room in fastgen._ROOMS:
            assert getattr(fastgen, room).__name__ == f"fastgen.{room}"

    def test_ways_to_write_it(self):
        """Each in a process that has not imported fastgen: a fork of one that has torch."""
        statements = [
            "from fastgen import sample; assert sample.__module__ == 'fastgen.sampling.sample'",
            "import fastgen.sampling.sample, fastgen; assert callable(fastgen.sample)",
            "import fastgen; fastgen.sampling; assert callable(fastgen.sample)",
            "import fastgen.couplings; assert callable(fastgen.couplings.assign)",
            "from fastgen import *; assert callable(sample) and callable(solvers.plan)",
            "from fastgen import couplings as c, Model as M; assert c.assign and M.__init__",
            "import fastgen; assert fastgen.schedules.CosineVP().alpha(0.0) == 1",
            "import fastgen; fastgen.noise; assert callable(fastgen.brownian)",
            "import fastgen; fastgen.likelihood; assert callable(fastgen.variational_bound)",
        ]
        forks = (
            "import os, sys\n"
            f"for statement in {statements}:\n"
            "    if not (child := os.fork()):\n"
            "        exec(statement, {})\n"
            "        sys.exit()\n"
            "    assert not os.waitpid(child, 0)[1], statement\n"
        )
        assert not loaded(forks)

    def test_help_says_where_the_options_are(self):
        text = fastgen.sample.__doc__
        for name in ("fastgen.solvers", "eta=0.5", "fastgen.timesteps", "karras", "fastgen.plan"):
            assert name in text, name

    def test_an_unknown_name_is_refused(self):
        with pytest.raises(AttributeError, match="no attribute 'smaple'"):
            fastgen.smaple  # noqa: B018
        assert not hasattr(fastgen, "_C_that_is_not_there")

    def test_pickles(self):
        plan = fastgen.plan("euler", fastgen.schedules.Rectified(), 2)
        assert pickle.loads(pickle.dumps(plan)).nfe == plan.nfe
        assert pickle.loads(pickle.dumps(fastgen.sample)) is fastgen.sample
