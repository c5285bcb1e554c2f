"""The reference has every public name, and the examples in docstrings do what they say."""

import doctest
import importlib
import inspect
import math
import sys
from pathlib import Path

import pytest
import torch

import fastgen

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
try:
    from sitegen import docstrings, rooms
finally:
    sys.path.pop(0)

ROOMS = rooms.found()
# Names whose docstrings have to show a call.
SHOWN = {
    "fastgen.sample",
    "fastgen.plan",
    "fastgen.Sampler",
    "fastgen.Model",
    "fastgen.Guidance",
    "fastgen.odeint",
    "fastgen.sdeint",
    "fastgen.log_likelihood",
    "fastgen.randn",
    "fastgen.couplings.assign",
    "fastgen.couplings.sinkhorn",
    "fastgen.training.Trainer",
    "fastgen.training.paths.Linear",
}


def members(value):
    """A public value and, of a class of ours, its own public methods."""
    yield value
    if inspect.isclass(value) and value.__module__.startswith("fastgen"):
        for name, member in vars(value).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                yield member


def described():
    """(public name, value) of every name of every room."""
    for room in ROOMS:
        module, groups = rooms.of(room)
        for name in (name for names in groups.values() for name in names):
            value = getattr(module, name)
            yield rooms.canonical(value, f"{room.module}.{name}"), value


def test_classes_of_torch_are_left_to_torch():
    room = next(room for room in ROOMS if room.module == "fastgen.integrations.torchsde.types")
    _, groups = rooms.of(room)
    names = {name for names in groups.values() for name in names}
    assert {"Tensors", "Scalar", "Vector"} <= names
    assert not {"Any", "Module", "Sequence", "Size", "Tensor"} & names


def test_methods_of_a_base_without_a_page_are_on_that_of_the_class():
    pytest.importorskip("sphinx")
    reference = importlib.import_module("sitegen.reference")
    page = reference.page("fastgen.Model", fastgen.Model, fastgen)
    assert ":inherited-members: object\n" in page  # save_pretrained and its kin are Pretrained's
    schedules = fastgen.schedules
    page = reference.page("fastgen.schedules.Trig", schedules.Trig, schedules)
    assert "Schedule" in page.split(":inherited-members: ")[1].splitlines()[0].split(", ")


def test_every_public_module_has_a_room():
    modules = {room.module for room in ROOMS}
    assert len(modules) == len(ROOMS)
    for module in list(modules):
        inner = importlib.import_module(module)
        for name in rooms.public_names(inner):
            value = getattr(inner, name)
            if inspect.ismodule(value):
                # A module of solvers or of grids has its names on their own pages.
                listed = f"{module}.{name}" in modules or value.__name__ in modules
                assert listed or module in {"fastgen.solvers", "fastgen.timesteps"}, value


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.module)
def test_every_public_name_has_a_place(room):
    module, groups = rooms.of(room)
    placed = [name for names in groups.values() for name in names]
    assert len(placed) == len(set(placed))
    public = {n for n in rooms.public_names(module) if not rooms.elsewhere(getattr(module, n))}
    assert set(placed) == public


@pytest.mark.parametrize("room", rooms.LAID_OUT, ids=lambda room: room.module)
def test_a_name_stands_under_one_heading(room):
    listed = [name for names in room.groups.values() for name in names]
    assert len(listed) == len(set(listed))


def test_examples_are_shown_for_the_names_people_start_with():
    found = dict(described())
    assert set(found) >= SHOWN
    for name in SHOWN:
        assert ">>>" in (found[name].__doc__ or ""), name


def with_examples():
    seen = set()
    ours = [d for d in described() if str(getattr(d[1], "__module__", "")).startswith("fastgen")]
    for public, value in ours:
        for member in members(value):
            text = getattr(member, "__doc__", None)
            if isinstance(text, str) and ">>>" in text and text not in seen:
                seen.add(text)
                name = getattr(member, "__qualname__", public)
                yield pytest.param(text, id=f"{public}:{name}")


@pytest.mark.parametrize("text", list(with_examples()))
def test_examples_do_what_they_say(text):
    names = {"fastgen": fastgen, "torch": torch, "math": math}
    test = doctest.DocTestParser().get_doctest(inspect.cleandoc(text) + "\n", names, "_", "_", 0)
    assert test.examples
    torch.manual_seed(0)
    said = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    if "matplotlib.pyplot" in sys.modules:  # which warns of many open figures
        sys.modules["matplotlib.pyplot"].close("all")
    assert not said, "".join(said)


def test_fields_of_a_dataclass_become_a_list():
    text = ["A pairing.", "", "x: of n", "    points. y, z: theirs.", "", "More."]
    assert docstrings.fields_as_list(text, ["x", "y", "z"]) == [
        "A pairing.",
        "",
        "``x``",
        "    of n points.",
        "",
        "``y``, ``z``",
        "    theirs.",
        "",
        "More.",
        "",
    ]


def test_formulas_are_shown_as_they_are_typed():
    shown = docstrings.displays_as_code(["Step:", "", "    x_t = a * b", "", "Then."])
    assert shown[:4] == ["Step:", "", ".. code-block:: text", ""]
    assert docstrings.quiet("f(x, *, **k)") == r"f(x, \*, \*\*k)"
    assert docstrings.quiet("of **kwargs and |x|") == r"of \*\*kwargs and \|x|"
