"""A vector field and its divergence from one evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastgen.common.derivatives import Pullback
from fastgen.common.transforms import transforming
from fastgen.kernels import Stream
from fastgen.noise.normals import randn

DIVERGENCES = ("exact", "hutchinson", "hutch++")


class Divergence:
    """Evaluates v(x) and estimates of tr dv/dx, as many as can be averaged.

    Args:
        kind: of `DIVERGENCES`.
        probes: vector-Jacobian products of an estimate.
        chunk: dimensions that are differentiated together by "exact".
        x: states [B, ...]: their shape and device.
        seed, sample_ids: of the probes, which are drawn once: draws 0, 1, ... of the probe stream.

    Raises:
        ValueError: naming the argument.
    """

    def __init__(
        self,
        kind: str,
        probes: int | None,
        chunk: int,
        x: Tensor,
        seed: int | Sequence[int] | Tensor,
        sample_ids: Sequence[int] | Tensor | None,
    ) -> None:
        if chunk < 1:
            raise ValueError(f"chunk={chunk!r}: expected at least 1")
        if kind == "exact":
            if probes is not None:
                raise ValueError(f"probes={probes!r}: divergence='exact' has none")
            probes = 0
        elif probes is None:
            probes = 3 if kind == "hutch++" else 1
        elif probes < 1 or (kind == "hutch++" and probes % 3):
            wanted = "a positive multiple of 3" if kind == "hutch++" else "at least 1"
            raise ValueError(f"probes={probes!r}: expected {wanted} for divergence={kind!r}")
        self.kind, self.chunk = kind, chunk
        self.estimates = {"exact": 1, "hutchinson": probes, "hutch++": probes // 3}[kind]
        size = x[:0].numel() if not len(x) else x[0].numel()
        if kind == "hutch++" and len(x) and probes // 3 > size:
            raise ValueError(
                f"probes={probes!r}: a third of them spans all {size} dimensions; use 'exact'"
            )
        # A normal's sign is a fair coin: Rademacher probes.
        draws = [
            torch.sign(
                randn(
                    x.shape,
                    seed=seed,
                    sample_ids=sample_ids,
                    draw=k,
                    stream=Stream.PROBE,
                    dtype=x.dtype,
                    device=x.device,
                )
            )
            for k in range(probes if kind == "hutchinson" else 2 * (probes // 3))
        ]
        self.probes = torch.stack(draws, 1).flatten(2) if draws else x.new_empty(len(x), 0, size)
        self._rows: Tensor | None = None
        self._chosen = self.probes

    def __call__(
        self, field: Callable[[Tensor], Tensor], x: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """v [A, ...] and the estimates [A, E] at states x [A, ...], which are samples `rows`.

        field: v of x alone, in which autograd can be relied upon: whoever makes it has checked it.
        """
        pull = Pullback(field, x, "velocity", check=False)
        found = self._traces(pull, self._of(rows))
        return (pull.value, found) if pull.tracked else (pull.value.detach(), found.detach())

    def _of(self, rows: Tensor) -> Tensor:
        """The probes of some samples; a solve asks for the same ones many times in a row."""
        if rows is not self._rows:
            self._rows, self._chosen = rows, self.probes[rows]
        return self._chosen

    def _traces(self, pull: Pullback, probes: Tensor) -> Tensor:
        x, v = pull.x, pull.value

        def single(vector: Tensor, last: bool = False) -> Tensor:
            return pull.one(vector.reshape(v.shape), last).flatten(1)

        if self.kind == "exact":
            size, total = x[:0].numel() if not len(x) else x[0].numel(), x.new_zeros(len(x))
            for begin in range(0, size, self.chunk):
                place = torch.arange(begin, min(begin + self.chunk, size), device=x.device)
                basis = torch.zeros(len(place), len(x), size, dtype=v.dtype, device=x.device)
                basis[torch.arange(len(place), device=x.device), :, place] = 1.0
                rows = pull.many(basis.reshape(-1, *v.shape)).flatten(2)
                total = total + rows.gather(2, place[:, None, None].expand(-1, len(x), 1)).squeeze(
                    2
                ).sum(0)
            return total[:, None]
        if self.kind == "hutchinson":
            if probes.shape[1] == 1:
                e = probes[:, 0]
                return (single(e, last=True) * e).sum(1, keepdim=True)
            each = [(single(e) * e).sum(1) for e in probes.unbind(1)]
            return torch.stack(each, 1)
        # tr J = tr Q^T J Q + tr (1 - Q Q^T) J (1 - Q Q^T), Q an orthonormal base of J^T S.
        half = probes.shape[1] // 2
        sketch, residual = probes[:, :half], probes[:, half:]
        q = _base(torch.stack([single(s) for s in sketch.unbind(1)], 2))
        inner = torch.stack([(single(e) * e).sum(1) for e in q.unbind(2)], 1).sum(1)
        g = residual.transpose(1, 2)
        g = g - q @ (q.transpose(1, 2) @ g)
        outer = torch.stack([(single(e) * e).sum(1) for e in g.unbind(2)], 1)
        return inner[:, None] + outer


def _base(images: Tensor) -> Tensor:
    """Orthonormal bases [A, D, K] of the spaces that images [A, D, K] span.

    Where those are dependent, as at a Jacobian of zero, the base has no derivative. There it counts
    as constant: over the residual's probes the estimate is that of the trace for any base.
    """
    q: Tensor
    q, r = torch.linalg.qr(images)
    if not (images.requires_grad or transforming()):
        return q
    size = r.detach().diagonal(dim1=1, dim2=2).abs()
    dependent = size.amin(1) <= size.amax(1) * torch.finfo(r.dtype).eps * images.shape[1]
    chosen = dependent[:, None, None]
    unit = torch.eye(images.shape[1], images.shape[2], dtype=q.dtype, device=q.device)
    regular, _ = torch.linalg.qr(torch.where(chosen, unit, images))
    base: Tensor = torch.where(chosen, q.detach(), regular)
    return base
