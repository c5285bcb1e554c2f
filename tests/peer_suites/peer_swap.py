"""A pytest plugin: where a peer is imported, its drop-in is found; outcomes go to a file.

Loaded by `python -m tests.peer_suites` in a process of its own. FASTGEN_SWAP names the peer to be
replaced (empty: none is), FASTGEN_OUTCOMES the JSON file.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import json
import os
import pathlib
import sys

import pytest

ROOM = "fastgen.integrations."
# Drop-ins that are modules. The others replace names inside their peer.
MODULES = ("edm", "flow_matching", "k_diffusion", "torchcfm", "torchdiffeq", "torchsde")


class StandIn:
    """In place of a name that its drop-in refuses."""

    def __init__(self, *args, **options):
        raise ImportError(f"{type(self).__name__} is refused by the drop-in")


class DropIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds fastgen.integrations.PEER[.x] where PEER[.x] is imported."""

    def __init__(self, peer):
        self.peer = peer

    def find_spec(self, name, path=None, target=None):
        if name != self.peer and not name.startswith(self.peer + "."):
            return None
        if importlib.util.find_spec(ROOM + name) is None:
            raise ModuleNotFoundError(f"no drop-in for {name}", name=name)
        return importlib.util.spec_from_loader(name, self)

    def create_module(self, spec):
        return importlib.import_module(ROOM + spec.name)

    def exec_module(self, module):
        """Let the rest of a file of tests run that imports refused names: they fail when called."""
        for name in getattr(vars(module).get("__getattr__"), "reasons", {}):
            vars(module)[name] = type(name, (StandIn,), {})

    def load(self):
        """Stand before all other finders; what fastgen's own code imports is imported first."""
        importlib.import_module(ROOM + self.peer)
        for name in [n for n in sys.modules if n == self.peer or n.startswith(self.peer + ".")]:
            del sys.modules[name]
        sys.meta_path.insert(0, self)


def swap_schedulers():
    import diffusers

    from fastgen.integrations import diffusers as ours

    for name in ours.__all__:
        if hasattr(diffusers, name):
            setattr(diffusers, name, getattr(ours, name))


def swap_assignment():
    import scipy.optimize

    from fastgen.integrations.scipy import linear_sum_assignment

    scipy.optimize.linear_sum_assignment = linear_sum_assignment


def swap(peer):
    """Replace the peer, by name."""
    if peer in MODULES:
        DropIn(peer).load()
    elif peer == "diffusers":
        swap_schedulers()
    elif peer == "scipy":
        swap_assignment()
    elif peer:
        raise ValueError(f"{peer}: no drop-in")


swap(os.environ.get("FASTGEN_SWAP", ""))
outcomes: dict[str, str] = {}
reasons: dict[str, str] = {}


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Undo what test modules do to the path (torchsde's drop its first entry, file by file)."""
    before = list(sys.path)
    report = yield
    sys.path[:] = before + [entry for entry in sys.path if entry not in before]
    return report


def pytest_runtest_logreport(report):
    """Keep the worst outcome of a test's phases; subtests count one by one."""
    name = report.nodeid
    context = getattr(report, "context", None)
    if context is not None:
        name += f" {context.msg or ''}{dict(context.kwargs)}"
    if report.failed:
        outcomes[name] = "failed"
        crash = getattr(report.longrepr, "reprcrash", None)
        reasons[name] = str(crash.message if crash else report.longrepr)[:400]
    elif report.skipped:
        outcomes.setdefault(name, "skipped")
    elif report.when == "call":
        outcomes.setdefault(name, "passed")


def pytest_collectreport(report):
    """A module that cannot be imported is a failure of its own."""
    if report.failed:
        outcomes[report.nodeid] = "failed"
        reasons[report.nodeid] = str(report.longrepr)[-400:]


def pytest_sessionfinish():
    """Write what was seen."""
    path = pathlib.Path(os.environ["FASTGEN_OUTCOMES"])
    path.write_text(json.dumps({"outcomes": outcomes, "reasons": reasons}, indent=0))
