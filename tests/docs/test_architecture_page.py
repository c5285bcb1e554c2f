"""The page on architecture names what there is: its rooms, files and example."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

import fastgen
from fastgen.plans import Builder, Form
from fastgen.solvers import register, registry

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
DRAWN = "\n".join(line for line in PAGE.splitlines() if "│" in line)


def rooms(folder):
    return sorted(p.name for p in (ROOT / folder).iterdir() if p.is_dir() and p.name[0] not in "_.")


def test_every_room_is_drawn_and_no_other():
    drawn = set(re.findall(r"\b([a-z_]+)/", DRAWN))
    assert drawn - {"common"} == set(rooms("fastgen")) - {"common"}
    peers = re.search(r"integrations/(.*?)common/", DRAWN, re.S).group(1)
    named = set(re.findall(r"[a-z_]+", peers)) | {"common"}
    assert named == set(rooms("fastgen/integrations"))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([a-z_]+/[\w/.]*)`", PAGE))))
def test_every_path_exists(path):
    places = [ROOT / path, ROOT / "fastgen" / path]
    assert any(place.exists() for place in places), path


def test_operations_have_the_same_name_in_csrc():
    assert set(rooms("csrc")) - {"common"} == set(rooms("fastgen/kernels")) - {"triton_support"}


def test_the_example_is_a_solver():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names = {"register": register, "pairwise": pairwise, "Builder": Builder, "Form": Form}
    try:
        exec(block, names)
        schedule = fastgen.schedules.Rectified()
        made = fastgen.plan("my_euler", schedule, 3)
        assert made.nfe == 3
    finally:
        registry._SOLVERS.pop("my_euler", None)
