"""matplotlib is imported when something is drawn, and missed by name."""

import subprocess
import sys

import pytest


def run(code):
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_nothing_is_imported_before():
    run("import sys, fastgen; fastgen.plots.sheet; assert 'matplotlib' not in sys.modules")


@pytest.mark.parametrize(
    "call",
    [
        "fastgen.plots.samples(torch.zeros(2, 2))",
        "fastgen.plots.trajectories(torch.zeros(2, 2, 2))",
        "fastgen.plots.vector_field(lambda t, y: y, 0, 1)",
        "fastgen.plots.likelihood(lambda x: x[:, 0], 1)",
        "fastgen.plots.pairing(torch.zeros(2, 2), torch.zeros(2, 2), torch.arange(2))",
        "fastgen.plots.quality([])",
    ],
)
def test_a_missing_matplotlib_is_named(call):
    code = (
        "import sys, torch, fastgen\n"
        "sys.modules['matplotlib'] = None\n"
        "fastgen.plots.sheet(torch.zeros(1, 1, 2, 2))\n"
        f"try:\n    {call}\n"
        "except ImportError as error:\n    print(error)\n"
    )
    assert "pip install matplotlib" in run(code)
