"""torch.compile without a compiler: graphs are traced and bound as always, and run by torch."""

import torch

from fastgen.common import compiled_calls
from fastgen.model import Model


def without_compiler(monkeypatch):
    """Graphs run operation by operation. Returns the list of those that are made from now on."""
    from torch._inductor import compile_fx

    made = counted(monkeypatch)

    def plain(graph, inputs, **_):
        return lambda arguments: graph(*arguments)

    def compiled(self):
        return Model(torch.compile(self.net, backend="eager"), self.schedule, self.predicts)

    monkeypatch.setattr(compile_fx, "compile_fx_inner", plain)
    monkeypatch.setattr(Model, "compiled", compiled)
    return made


def counted(monkeypatch):
    """The list of graphs that are compiled from now on."""
    made = []
    whole = compiled_calls._backend

    def backend(graph, inputs):
        made.append(graph)
        return whole(graph, inputs)

    monkeypatch.setattr(compiled_calls, "_backend", backend)
    return made
