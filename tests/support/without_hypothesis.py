"""A stand-in that lets test modules be imported without hypothesis; its tests are skipped."""

import sys
import types
from importlib.machinery import ModuleSpec

import pytest


class Anything:
    """Strategies, and whatever is made of them."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args, **kwargs):
        return self

    def __or__(self, other):
        return self


def install():
    """Put the stand-in where `import hypothesis` finds it."""
    module = types.ModuleType("hypothesis")
    strategies = types.ModuleType("hypothesis.strategies")
    for made in (module, strategies):  # torch._dynamo looks whether there is such a module
        made.__spec__ = ModuleSpec(made.__name__, None)
    module.strategies, module.Phase, anything = strategies, Anything(), Anything()
    module.given = lambda *_, **__: pytest.mark.skip(reason="hypothesis is not installed")
    module.settings = lambda *_, **__: lambda test: test
    module.assume = module.example = module.note = anything
    strategies.__getattr__ = lambda name: getattr(anything, name)
    sys.modules |= {"hypothesis": module, "hypothesis.strategies": strategies}
