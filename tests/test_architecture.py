"""What the package's files may import, and how long they may be, read from their text.

`make lint` checks the order of the rooms ([tool.importlinter] in pyproject.toml). Here is what that
tool cannot say.
"""

import ast
import graphlib
from functools import cache
from pathlib import Path

import pytest

import fastgen

ROOT = Path(fastgen.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MOST_LINES = 400


def module_name(file):
    parts = ["fastgen", *file.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(file): file for file in FILES}


def imports_of(text, module="fastgen.cli"):
    """(line, module) of every import of the package's own, lazy ones and those for types too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}, line {node.lineno}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in NAMES else node.module


@cache
def imports(module):
    return sorted(
        (line, name)
        for line, name in imports_of(NAMES[module].read_text(), module)
        if name.split(".")[0] == "fastgen"
    )


def circle(graph):
    """Modules that import each other in a circle, or an empty list."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1][:-1]
    return []


def test_nothing_inside_imports_from_the_face():
    through = [
        f"{module}, line {line}"
        for module in NAMES
        for line, name in imports(module)
        if name == "fastgen" and module != "fastgen"
    ]
    assert through == []


def test_no_circle_of_modules():
    graph = {
        module: {name for _, name in imports(module)} for module in NAMES if module != "fastgen"
    }
    assert circle(graph) == []


def test_no_loose_module():
    loose = {path.name for path in ROOT.iterdir() if path.suffix in (".py", ".pyi")}
    assert loose == {"__init__.py", "__main__.py", "_C.pyi"}


# Where an address is compared, or read where it was checked before; kernels get theirs elsewhere.
COMPARED = {
    "common/files.py",
    "common/memory.py",
    "integrations/diffusers/runs.py",
    "kernels/combine/contract.py",
    "kernels/combine/triton.py",
    "sampling/run.py",
    "sampling/serving.py",
}


def test_one_way_from_a_tensor_to_an_address():
    """`fastgen.common.memory` refuses tensors without memory; `data_ptr` would give their 0."""
    found = {f.relative_to(ROOT).as_posix() for f in FILES if "data_ptr()" in f.read_text()}
    assert found <= COMPARED


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_a_file_is_read_in_a_sitting(file):
    assert len(file.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("from fastgen import Model", "fastgen"),
        ("import fastgen", "fastgen"),
        ("def f():\n    from fastgen import sample", "fastgen"),
        ("if TYPE_CHECKING:\n    from fastgen import Plan", "fastgen"),
        ("from fastgen import ode", "fastgen.ode"),
        ("import fastgen._C as _C", "fastgen._C"),
        ("from fastgen._C import combine", "fastgen._C"),
        ("from fastgen.ode.solve import odeint", "fastgen.ode.solve"),
    ],
)
def test_what_counts_as_an_import_of_the_face(text, name):
    assert [found for _, found in imports_of(text)] == [name]


def test_a_circle_is_found():
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}})) == {"b", "c"}
    assert circle({"a": {"b"}, "b": {"c"}}) == []
