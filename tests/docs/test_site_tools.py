"""What makes and checks the site: links, versions, charts, solver pages, the table of devices."""

import csv
import importlib.util
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import fastgen

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
try:
    from sitegen import closed_forms, devices, solver_charts, solver_pages, svg
finally:
    sys.path.pop(0)


def script(name):
    """A program of docs/ as a module."""
    found = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_links_are_followed_to_files_and_anchors(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="b.html#there">1</a><a href="b.html#gone">2</a>'
        '<a href="#top">3</a><a href="c.html">4</a><a href="https://example.org/x">5</a>'
        '<img src="d.png">'
    )
    (tmp_path / "b.html").write_text('<p id="there"></p>')
    faults = script("check").broken_links(tmp_path)
    assert faults == [
        "a.html: b.html#gone: no such anchor",
        "a.html: c.html: no such file",
        "a.html: d.png: no such file",
    ]


def test_axe_reads_all_pages_by_hand_and_some_of_those_that_are_made(tmp_path):
    made = [tmp_path / "solvers" / f"{i:02}.html" for i in range(60)]
    pages = [tmp_path / "index.html", tmp_path / "start" / "noise.html", *made]
    chosen = script("check").kinds(pages, tmp_path, 40)
    assert chosen[:2] == pages[:2]
    assert chosen[2:] == [made[0], made[40]]


def test_chromium_that_is_missing_says_what_to_install(monkeypatch):
    check = script("check")
    monkeypatch.setattr(check.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="apt-get install chromium"):
        check.executable()


@pytest.mark.parametrize(
    ("versions", "preferred"),
    [(["0.2.0rc1", "0.1.1", "0.1.0", "dev"], "0.1.1"), (["dev"], "dev")],
)
def test_the_newest_release_is_recommended(versions, preferred, tmp_path):
    tool = script("versions")
    entries = tool.switcher(versions)
    assert [e["version"] for e in entries] == versions
    assert [e["version"] for e in entries if e.get("preferred")] == [preferred]
    tool.write_switcher(versions, tmp_path)
    assert f"url={preferred}/index.html" in (tmp_path / "index.html").read_text()
    assert (tmp_path / "switcher.js").read_text().startswith("window.fastgenVersions = [")


def test_charts_are_svg_with_a_mark_at_every_point(tmp_path):
    points = [(4.0, 0.5), (8.0, 1e-2), (16.0, 3e-5)]
    svg.draw(
        tmp_path / "a.svg", [svg.Panel("t < 1", "evaluations", "error", [svg.Line("x", points)])]
    )
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    circles = [e for e in root.iter() if e.tag.endswith("circle")]
    assert len(circles) == 3
    across = [float(c.get("cx")) for c in circles]
    up = [float(c.get("cy")) for c in circles]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.11)
    assert up == sorted(up)


@pytest.mark.parametrize("name", fastgen.solvers.names())
def test_every_solver_has_a_page_with_its_options_and_a_chart(name):
    page = solver_pages.page(name)
    for option in fastgen.solvers.get(name).options:
        assert f"``{option}``" in page
    assert "evaluation 0 at" in page
    if solver_charts.is_kept(name):
        assert all(len(panel.lines) > 1 for panel in solver_charts.panels(name))
    else:
        assert name in closed_forms.MEASURES
        assert name in closed_forms.CAPTIONS


def test_a_curve_is_that_of_the_kept_rows():
    curve = dict(solver_charts.curve("mixture, d = 64, karras", "unipc", "rms"))
    results = ROOT / "benchmarks" / "results"
    with (results / "cpu-quality-runs.csv").open() as file:
        runs = {r["run"] for r in csv.DictReader(file) if r["problem"] == "mixture, d = 64, karras"}
    with (results / "cpu-quality.csv").open() as file:
        (row,) = (
            r
            for r in csv.DictReader(file)
            if r["run"] in runs and (r["provider"], r["metric"]) == ("unipc", "rms")
        )
    assert curve == {n: float(row[f"NFE {n}"]) for n in solver_charts.BUDGETS}


def test_devices_are_those_of_the_rows():
    table = devices.rows()
    suites = {row[1] for row in table}
    for path in (ROOT / "benchmarks" / "results").glob("*.csv"):
        with path.open() as file:
            rows = [r for r in csv.DictReader(file) if r.get("device")]
        for suite in {r["suite"] for r in rows}:
            assert suite in suites
    (startup,) = (row for row in table if row[1] == "startup")
    assert startup[2] == "2"


def test_a_step_costs_what_the_method_says():
    assert solver_pages.evaluations_per_step("bosh3") == 3
    assert solver_pages.evaluations_per_step("dopri5") == 6


def test_an_exact_consistency_function_needs_one_evaluation(monkeypatch):
    monkeypatch.setattr(closed_forms, "STEPS", (1,))
    curves = dict(closed_forms.few_step("consistency"))
    (jump,), (denoiser,) = curves["consistency function"], curves["denoiser"]
    assert jump[1] < 0.1 < 0.5 < denoiser[1]
