"""What a CUDA graph does, on the CPU: a stand-in for `fastgen.common.graphs.Graph`.

The tape notes every operation of the recorded work with the very tensors and numbers it was given,
and repeats them without calling Python code of the work again. So whatever the work has built in by
value stays as it was, as in a graph; whatever reads a value back is refused, as in a capture.
"""

from functools import partial

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fastgen.kernels import dispatch

# Operations that make the host wait on a GPU, or read what only the host knows.
WAITING = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::lift_fresh",
}


class _Noted(TorchDispatchMode):
    def __init__(self, tape):
        super().__init__()
        self.tape = tape

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operation._schema.name in WAITING:
            raise RuntimeError(f"operation not permitted while recording: {operation}")
        result = operation(*args, **kwargs)
        # Aliases: their shapes stay where the work changes one in place (squeeze_).
        entry = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs, result))
        self.tape.entries.append((operation, *entry))
        return result


class Tape:
    """A `fastgen.common.graphs.Recording` for the CPU."""

    graphed = True

    def __init__(self, device=None):
        self.entries, self.recording = [], False

    def record(self, work):
        self.entries.clear()
        self.recording = True
        with _Noted(self):
            work()
        self.recording = False

    def replay(self):
        for operation, args, kwargs, result in self.entries:
            again = operation(*args, **kwargs)
            new, old = pytree.tree_leaves(again), pytree.tree_leaves(result)
            for x, y in zip(new, old, strict=True):
                # Views, and arguments that were written, are the same memory as before.
                if isinstance(y, torch.Tensor) and x.data_ptr() != y.data_ptr():
                    y.copy_(x)


class Noting:
    """The C++ kernels, whose calls a running tape notes as well."""

    def __init__(self, tape):
        self.tape, self.found = tape, dispatch.find

    def find(self, operation, device, backend=None):
        """In place of `dispatch.find`."""
        kernel = self.found(operation, torch.device("cpu"), "cpp")
        noted = {"bind_combine": self._bind, "brownian": self._brownian}.get(operation)
        return kernel if noted is None else partial(noted, kernel)

    def _bind(self, bind, *args):
        bound = bind(*args)

        def call(missing):
            bound(missing)
            tape = self.tape()
            if tape.recording:
                tape.entries.append((bound, (list(missing),), {}, None))

        return call

    def _brownian(self, brownian, *args):
        w = brownian(*args)
        tape = self.tape()
        if tape.recording:
            tape.entries.append((brownian, args, {}, w))
        return w
