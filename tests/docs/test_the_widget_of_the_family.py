"""The page's small calculator knows the schedules as the library does."""

import re
import shutil
import subprocess

import pytest

from fastgen import schedules
from tests.support.code_of_pages import ROOT

PAGE = (ROOT / "docs" / "concepts" / "family.md").read_text()
NAMES = ("Rectified", "Trig", "LinearVP", "EDM")


def test_it_offers_the_schedules_that_it_knows():
    assert tuple(re.findall(r"<option>(\w+)</option>", PAGE)) == NAMES
    assert tuple(re.findall(r"^    (\w+): function", PAGE, re.MULTILINE)) == NAMES


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
@pytest.mark.parametrize("name", NAMES)
def test_its_values_are_the_library_s(name):
    body = re.search(r"var schedules = (\{.*?\n  \});", PAGE, re.DOTALL).group(1)
    program = f"console.log(JSON.stringify(({body}).{name}(0.3)))"
    found = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    s = getattr(schedules, name)()
    wanted = [f(0.3) for f in (s.alpha, s.sigma, s.d_alpha, s.d_sigma)]
    assert [float(x) for x in found.stdout.strip("[]\n").split(",")] == pytest.approx(wanted)
