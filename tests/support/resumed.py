"""A plugin of pytest that goes on where an earlier run stopped: `-p tests.support.resumed`.

What passes is written to the file that FASTGEN_PASSED names, as it passes, and left out next time.
"""

import os
from pathlib import Path

FILE = Path(os.environ["FASTGEN_PASSED"])


def pytest_collection_modifyitems(config, items):
    passed = set(FILE.read_text().splitlines()) if FILE.exists() else set()
    left = [item for item in items if item.nodeid not in passed]
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
    items[:] = left


def pytest_runtest_logreport(report):
    worker = "PYTEST_XDIST_WORKER" in os.environ  # the process that started it is told too
    if report.when == "call" and report.passed and not worker:
        with FILE.open("a") as file:
            file.write(f"{report.nodeid}\n")
