"""Functions compiled by torch.compile that are called again and again on the same memory.

torch.compile looks before every call whether what a function depends on is still what it was
compiled for, and that takes longer than a small network. Here it looks once, when a call is bound
to memory; then the compiled code alone is called. Nothing that a function depends on may be
exchanged meanwhile, as in one solve; what tensors hold may change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from types import CodeType, FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fastgen.common.compiling import uncompiled

Call = Callable[[], Any]
Traced = Callable[..., None]


class CompileError(RuntimeError):
    """torch.compile cannot make one graph of a function, or has no compiler for it."""


class _Running(threading.local):
    """The compiled code that this thread's torch.compile calls last, with its arguments."""

    last: tuple[Callable[[list[Any]], Any], list[Any]] | None = None
    made = 0


_running = _Running()


def _backend(graph: Any, inputs: Sequence[Any]) -> Any:
    """Inductor, whose code says with what it is called."""
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    def inner(graph: Any, inputs: Sequence[Any], **options: Any) -> Any:
        compiled: Any = compile_fx_inner(graph, inputs, **options)

        def run(arguments: list[Any]) -> Any:
            kept = list(arguments)  # the compiled code empties the list
            found = compiled(arguments)
            # What is returned is worked on outside; then the code alone is not the function.
            _running.last = None if len(found) else (compiled, kept)
            return found

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    _running.made += 1
    return compile_fx(graph, list(inputs), inner_compile=inner)


class CompiledCall(NamedTuple):
    """Compiled code and what it is called with, all of it in memory that stays."""

    code: Callable[[list[Any]], Any]
    arguments: list[Any]

    def __call__(self) -> None:
        """Do it again."""
        self.code(self.arguments.copy())

    def same(self, other: Any) -> bool:
        """Whether another call does the same to the same memory."""
        return (
            isinstance(other, CompiledCall)
            and self.code is other.code
            and len(self.arguments) == len(other.arguments)
            and all(map(_same, self.arguments, other.arguments))
        )


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is int and one == other)


class CompiledFunction:
    """A function of other functions and tensors that writes its results to some of the tensors.

    Args:
        function: its first argument may be anything that torch.compile reads; the others are
            tensors or None.
    """

    def __init__(self, function: Traced) -> None:
        assert isinstance(function, FunctionType)
        # torch.compile keeps what it made at the code: a copy has its own, and its own limit.
        code = function.__code__.replace()
        own = FunctionType(code, function.__globals__, function.__name__, function.__defaults__)
        self._compiled = torch.compile(own, backend=_backend, fullgraph=True)

    @uncompiled  # within another torch.compile
    def bound(self, subject: Any, *tensors: Tensor | None) -> tuple[Call, bool]:
        """Call it once; return what calls it again on the same memory, and whether it was compiled.

        The first axis of tensors may have another length next time without compiling again, 1
        apart.

        Raises:
            CompileError: where the function cannot be compiled, naming torch's reason.
        """
        for x in tensors:
            if x is not None and x.ndim:
                torch._dynamo.maybe_mark_dynamic(x, 0)
        _running.last, count = None, _running.made
        try:
            self._compiled(subject, *tensors)
        except _dynamo_error() as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise CompileError(lines[0] if lines else type(error).__name__) from error
        last, _running.last = _running.last, None
        new = _running.made != count
        if last is None:
            return (lambda: self._compiled(subject, *tensors)), new
        made, arguments = last
        # The code without torch's own looking around, where there is such a thing.
        return CompiledCall(getattr(made, "current_callable", None) or made, arguments), new


def code_of(subject: Any) -> CodeType | type[Any]:
    """What two subjects share that compile alike: a function's code, or the class of a callable."""
    subject = getattr(subject, "__func__", subject)
    return subject.__code__ if isinstance(subject, FunctionType) else type(subject)


def _dynamo_error() -> type[Exception]:
    from torch._dynamo.exc import TorchDynamoException

    return TorchDynamoException


class CompiledFunctions:
    """Compiled functions by what they are about: the code of a function, the type of a module."""

    def __init__(self, function: Traced) -> None:
        self._function = function
        self._made: WeakKeyDictionary[Any, dict[Hashable, CompiledFunction]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def of(self, subject: Any, variant: Hashable = None) -> CompiledFunction:
        """The compiled function for a subject, one for each variant."""
        key = code_of(subject)
        with self._lock:
            variants = self._made.setdefault(key, {})
            if variant not in variants:
                variants[variant] = CompiledFunction(self._function)
            return variants[variant]
