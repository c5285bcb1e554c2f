"""What a wheel holds, and that every place that names the version names one."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import fastgen

ROOT = Path(__file__).parents[2]
NEEDED = ("fastgen", "csrc", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")


NOT_COPIED = shutil.ignore_patterns("*.so", "*.pyc", "__pycache__", ".git", ".venv", "_build")


def build(kind, source, out):
    """The one file that setuptools' hook of that name writes: `build_wheel`, `build_sdist`."""
    code = f"from setuptools import build_meta; build_meta.{kind}({str(out)!r})"
    environment = {**os.environ, "FASTGEN_EXTENSION": "none", "PYTHONPATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=source, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel without the extension, built from a copy: building leaves files behind."""
    pytest.importorskip("setuptools", "77")
    pytest.importorskip("pybind11")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in NEEDED:
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, source / name, ignore=NOT_COPIED)
        else:
            shutil.copy(place, source)
    return build("build_wheel", source, out)


def tracked():
    """The files under version control; where there is none, nothing can be compared with."""
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    inside = run.returncode == 0 and "pyproject.toml" in run.stdout.split("\0")
    if not inside:
        pytest.skip("not a checkout")
    return {name for name in run.stdout.split("\0") if (ROOT / name).is_file()}


def test_the_source_distribution_is_the_whole_repository(tmp_path):
    """Who packages it for a distribution builds, tests and writes the pages from it alone."""
    pytest.importorskip("setuptools", "77")
    files = tracked()
    source, out = tmp_path / "source", tmp_path / "out"
    out.mkdir()
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    for name in ("fastgen/_C.so", "docs/_build/index.html", "tests/left.pyc"):  # left behind
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("")
    path = build("build_sdist", source, out)
    assert path.name == f"fastgen_torch-{fastgen.__version__}.tar.gz"
    with tarfile.open(path) as archive:
        held = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    assert files - held == set()
    made = {name for name in held if "egg-info/" not in name} - {"PKG-INFO", "setup.cfg"}
    assert made - files == set()


def test_without_the_extension_one_wheel_fits_all(wheel):
    assert wheel.name == f"fastgen_torch-{fastgen.__version__}-py3-none-any.whl"


def test_it_holds_what_runs_and_no_more(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {
        "fastgen",
        f"fastgen_torch-{fastgen.__version__}.dist-info",
    }
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "fastgen").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    sources = {p.name for p in (ROOT / "csrc/assignment/cuda").glob("*.cu*")}
    folder = "fastgen/kernels/assignment/cuda_source/"
    assert {name.removeprefix(folder) for name in names if name.startswith(folder)} == sources
    assert {"fastgen/py.typed", "fastgen/_C.pyi"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyd", ".cpp"))]


def test_what_is_not_python_is_in_it(wheel):
    """Nothing that a module reads at run time is left out."""
    names = set(zipfile.ZipFile(wheel).namelist())
    data = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "fastgen").rglob("*")
        if p.is_file() and p.suffix not in (".py", ".pyc", ".so")
    }
    assert data <= names


def test_the_index_shows_a_readme_without_dead_links(wheel):
    """There paths lead nowhere: they are addresses of this version's files, pictures as such."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    assert "\nDescription-Content-Type: text/markdown\n" in text
    shown = text.partition("\n\n")[2]
    readme = (ROOT / "README.md").read_text()
    links = re.findall(r"(!?)\[[^]]*\]\(([^)]*)\)", readme)
    found = re.findall(r"(!?)\[[^]]*\]\(([^)]*)\)", shown)
    assert len(found) == len(links) > 10
    for (picture, path), (_, address) in zip(links, found, strict=True):
        if path.startswith(("https:", "http:", "#")):
            assert address == path
            continue
        kind = "raw" if picture else "blob"
        home = f"https://github.com/fastgen-torch/fastgen/{kind}/v{fastgen.__version__}/"
        assert address == home + path
        assert (ROOT / path).exists()


def test_an_unknown_kind_of_build_is_refused(tmp_path):
    environment = {**os.environ, "FASTGEN_EXTENSION": "maybe"}
    run = subprocess.run(
        [sys.executable, ROOT / "setup.py", "--version"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "FASTGEN_EXTENSION=maybe: expected optional, required or none" in run.stderr


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("pyproject.toml", r'^version = "(.*)"$'),
        ("CITATION.cff", r"^version: (.*)$"),
        ("recipe/recipe.yaml", r'^  version: "(.*)"$'),
        ("CHANGELOG.md", r"^## (\S+) \("),
    ],
)
def test_one_version(file, pattern):
    found = re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)
    assert found[1] == fastgen.__version__


def test_supported_pythons_are_one_list():
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)
    built = re.search(r'^build = "(.*)"$', text, re.MULTILINE)[1].split()
    assert [f"cp{version.replace('.', '')}-*" for version in listed] == built
    tests = (ROOT / ".github/workflows/tests.yml").read_text()
    assert re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", tests)[1]) == listed
    assert f'requires-python = ">={listed[0]}"' in text
    oldest = re.search(r'"torch>=([\d.]+)"', text)[1]
    assert f"torch=={oldest}.*" in tests
