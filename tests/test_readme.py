"""The code in the README runs as it stands."""

import re
from pathlib import Path

import torch

import fastgen

README = Path(__file__).parents[1] / "README.md"


def test_python_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 2

    def net(x, t, **kwargs):
        return torch.tanh(x) * (0.5 + t[:, None, None, None])

    scope = {"net": net}
    try:
        for block in blocks:
            exec(block.replace("(16, 3, 64, 64)", "(2, 3, 8, 8)"), scope)
            assert scope["x"].shape == (2, 3, 8, 8)
            assert scope["x"].isfinite().all()
    finally:
        fastgen.solvers.registry._SOLVERS.pop("my_heun", None)


def test_commands_are_targets_of_the_makefile():
    commands = re.findall(r"^make (\w+)", README.read_text(), re.MULTILINE)
    assert commands == ["demo", "test"]
    makefile = (README.parent / "Makefile").read_text()
    for command in commands:
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)


def test_links_and_pictures_are_there():
    text = README.read_text()
    places = re.findall(r"\]\(([^)#]+)", text)
    assert len(places) > 10
    assert [p for p in places if "://" not in p and not (README.parent / p).exists()] == []


def test_the_demo_needs_what_its_extra_has():
    """make demo takes scikit-learn without what that requires, and else the extra."""
    pyproject = (README.parent / "pyproject.toml").read_text()
    extra = re.search(r"^demo = \[(.*)\]$", pyproject, re.MULTILINE)[1]
    names = set(re.findall(r'"([a-z-]+)', extra))
    makefile = (README.parent / "Makefile").read_text()
    assert set(re.search(r"^DEMO = (.*)$", makefile, re.MULTILINE)[1].split()) == names - {
        "scikit-learn"
    }
    assert "--no-deps scikit-learn" in makefile
