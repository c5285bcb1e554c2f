"""The figures of the concept pages are current, and draw what is there."""

import re

import pytest
import torch

from benchmarks.tools import concepts, figures


@pytest.mark.parametrize("name", concepts.FIGURES)
def test_figures_are_current_small_and_shown(name):
    path = concepts.FOLDER / f"{name}.svg"
    assert figures.digest_in(path) == concepts.digest(name), (
        "run `python -m benchmarks.tools.concepts`"
    )
    assert path.stat().st_size < 120_000
    pages = (concepts.FOLDER.parent / "concepts").glob("*.md")
    assert any(f"figures/{name}.svg" in page.read_text() for page in pages)


def test_the_drawn_plan_is_the_lowered_one():
    program = concepts.lowered()
    text = (concepts.FOLDER / "plan.svg").read_text()
    for call in program.calls:
        assert f"t = {call.time:.3f}" in text
    for stage in filter(None, program.stages):
        for row in stage.table:
            assert re.search("  ".join(re.escape(f"{c:.4g}") for c in row), text)


def test_two_modes_are_a_density_and_its_flow():
    x = torch.linspace(-6, 6, 4001).double()
    for t in (0.2, 0.6, 0.9):
        time = torch.full_like(x, t)
        density, velocity = concepts.two_modes(x, time)
        assert torch.trapezoid(density, x) == pytest.approx(1, abs=1e-6)
        h = 1e-4
        change = (concepts.two_modes(x, time + h)[0] - concepts.two_modes(x, time - h)[0]) / (2 * h)
        flux = torch.gradient(density * velocity, spacing=(x,))[0]  # the continuity equation
        assert (change + flux)[10:-10].abs().max() < 1e-3
