"""Probability paths between two samples: x_t = a(t) x0 + b(t) x1 + s(t) z, z ~ N(0, 1).

Time runs from the source x0 at t = 0 to the data x1 at t = 1 in everything that is trained here, as
in the papers of flow matching. `fastgen.sample`, whose time runs from 1 (noise) to 0 (data), is
given `Model(..., data_at=1)`. With ``data_at=0`` a path is run through backwards: x1 is still the
data, now at t = 0, and velocities, always dx_t/dt, have the other sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import fastgen.kernels as kernels
from fastgen.common.checks import check_choice, check_dense, check_floating, check_function
from fastgen.common.display import displayed
from fastgen.common.transforms import outside_transforms, transforming
from fastgen.kernels import Clock, Noise, Stream
from fastgen.kernels.bridge.contract import TERMS
from fastgen.kernels.bridge.reference import row_coefficients
from fastgen.kernels.contract import DTYPE_CODES
from fastgen.noise.keys import training_noise
from fastgen.training.paths.path_sample import TARGETS, PathSample, packed
from fastgen.training.times import Times, check_times, uniform

UNIFORM = uniform()
# A function of time as a sum of the kernel's features: 1, t, r = sqrt(t (1 - t)), r' and 1 / r.
Recipe = tuple[float, float, float, float, float]
NOTHING: Recipe = (0.0, 0.0, 0.0, 0.0, 0.0)
# Kinds of batches whose calls a path keeps described; a run has few kinds.
MAX_DESCRIBED = 32
ONE: Recipe = (1.0, 0.0, 0.0, 0.0, 0.0)
# A `fastgen.couplings.Coupling`, or a function with its arguments.
CouplingFunction = Callable[..., tuple[Tensor, Tensor]]
NEITHER: tuple[Tensor | None, Tensor | None] = (None, None)


@displayed
class Path:
    """What all paths share: times, pairs, noise, one kernel call, and clear errors.

    Subclasses set noise_source (x0 is N(0, 1) noise, drawn where it is not given; such a path has
    no z beside it), elementwise (False where elements of a sample depend on each other, so that
    there can be no mask), and give either `recipe` or `coefficients`, both with data at t = 1.
    """

    noise_source = False
    elementwise = True

    def __init__(self, data_at: int = 1) -> None:
        if data_at not in (0, 1):
            raise ValueError(f"data_at={data_at!r}: expected 0 or 1")
        self.data_at = data_at
        self._batches: dict[tuple[object, ...], Any] = {}
        self._tables: dict[tuple[object, ...], tuple[Tensor | None, bool]] = {}

    @property
    def has_noise(self) -> bool:
        """Whether s is not identically 0."""
        return False

    def recipe(self) -> dict[str, Recipe] | None:
        """a, b, s and their derivatives da, db, ds, and 1 / s, as sums of features.

        None if they are not such sums. 1 / s (1 / a where x0 is the noise) is left out on paths
        without a score, and where it is not such a sum itself.
        """
        return None

    def coefficients(self, t: Tensor) -> dict[str, Tensor]:
        """a, b, s, da, db, ds and the standard deviation `std` at times t [B], float64."""
        found = self.recipe()
        assert found is not None, f"{type(self).__name__} gives neither recipe nor coefficients"
        names = ("a", "b", "s", "da", "db", "ds")
        table = torch.tensor([[found[n] for n in names]], dtype=torch.float64, device=t.device)
        values = row_coefficients(table, t)[:, 0].unbind(-1)
        result = dict(zip(names, values, strict=True))
        return {**result, "std": result["a"] if self.noise_source else result["s"]}

    def standard_deviation(self, t: Tensor) -> Tensor:
        """That of x_t given its end points (given the data alone where x0 is noise), [B]."""
        u = t.to(torch.float64)
        u = u if self.data_at == 1 else 1 - u
        return self.coefficients(u)["std"].to(t.dtype)

    def sample(
        self,
        x0: Tensor | None,
        x1: Tensor,
        t: Tensor | None = None,
        *,
        seed: int | Tensor = 0,
        step: int = 0,
        sample_ids: Sequence[int] | Tensor | None = None,
        targets: Sequence[str] = ("velocity",),
        times: Times = UNIFORM,
        coupling: CouplingFunction | None = None,
        pairs: tuple[Tensor | None, Tensor | None] = NEITHER,
        labels: tuple[Tensor | None, Tensor | None] = NEITHER,
        mask: Tensor | None = None,
    ) -> PathSample:
        """A batch of states and targets, in one pass over x0 and x1; differentiable in both.

        Times and noise are functions of (seed, step, sample id) alone: see `fastgen.noise`.

        Args:
            x0: source [N, ...]; None on paths whose source is noise: then it is drawn.
            x1: data [N', ...].
            t: times [B] in [0, 1]; drawn from ``times`` if None. On a GPU, where looking at them
                would take a synchronisation, times out of range give NaN.
            seed: one 64-bit seed, or a tensor with one for each row.
            step: number of the training step, 0 <= step < 2^32.
            sample_ids: of the B rows; the default is 0 .. B - 1.
            targets: of "velocity", "noise", "score", "data" and "source".
            times: the distribution of t (`fastgen.training.times`).
            coupling: a `fastgen.couplings.Coupling`, or another function that is called as
                coupling(x0, x1, labels0, labels1) and returns the pairs (i, j).
            pairs: indices (i, j): row b is x0[i[b]] with x1[j[b]]; None: row b itself.
            labels: handed to the coupling.
            mask: for samples of different lengths, True where an element of x1 is live; any shape
                that broadcasts to it. Padding is 0 in the state and the targets, losses are over
                the live elements, and noise is that of the samples without padding.

        Raises:
            ValueError: naming the argument that does not fit.
        """
        if isinstance(targets, str) or not hasattr(targets, "__iter__"):
            name = targets if isinstance(targets, str) else "velocity"
            raise ValueError(f"targets={targets!r}: expected names in a tuple, ({name!r},)")
        if mask is not None:
            if not self.elementwise:
                raise ValueError(f"mask: on {self!r} elements of a sample depend on each other")
            pairs = self._paired(x0, x1, coupling, pairs, labels)
            x0, x1, padding = packed(x0, x1, pairs, mask)
            key: dict[str, Any] = {"seed": seed, "step": step, "sample_ids": sample_ids}
            return self.sample(x0, x1, t, targets=targets, times=times, **key).unpacked(padding)
        if t is None and sample_ids is None and coupling is None and labels is NEITHER:
            found = self._quickly(x0, x1, seed, step, tuple(targets), times, pairs)
            if found is not None:
                return found
        if not isinstance(times, Times):
            raise TypeError(f"times={times!r}: expected a distribution of fastgen.training.times")
        pairs = self._paired(x0, x1, coupling, pairs, labels)
        rows = (x1 if pairs[1] is None else pairs[1]).shape[0]
        if x0 is not None and (x0 if pairs[0] is None else pairs[0]).shape[0] != rows:
            raise ValueError(
                f"x0: expected as many rows (or indices) as x1, {rows}, got "
                f"{(x0 if pairs[0] is None else pairs[0]).shape[0]}"
            )
        if not isinstance(targets, Sequence):
            raise TypeError(f"targets={targets!r}: expected names in a tuple")
        for name in targets:
            check_choice("targets", name, TARGETS)
        device = x1.device
        noise = training_noise(rows, device, seed, step, sample_ids)
        when = times.clock(device) if t is None else check_times("t", t, rows)
        return self._batch(x0, x1, when, noise, tuple(targets), pairs)

    def _quickly(
        self,
        x0: Tensor | None,
        x1: Tensor,
        seed: int | Tensor,
        step: int,
        targets: tuple[str, ...],
        times: Times,
        pairs: tuple[Tensor | None, Tensor | None],
    ) -> PathSample | None:
        """`sample` by the kernel call that an earlier batch of the same kind has left described.

        The first batch of a kind (shapes, dtype, targets, times) goes the long way, with all its
        checks, and its call is described beside that: everything but the tensors, the seed and the
        step. Later batches hand over these alone, which is what makes small ones cheap.

        Returns:
            None where the long way has to be taken: for the first batch of a kind, under
            torch.compile, for gradients, off the CPU, and for arguments that do not fit, of which
            the long way says what is wrong.
        """
        if torch.compiler.is_compiling() or type(seed) is not int or type(x1) is not Tensor:
            return None
        if transforming():
            return None
        if type(pairs) is not tuple or len(pairs) != 2 or type(step) is not int:
            return None
        i, j = pairs
        if j is not None and type(j) is not Tensor:
            return None
        key = x1.shape, None if j is None else j.shape, x1.dtype, x0 is None, targets, times
        batches = self._batches.get(key)
        if batches is None:
            if key not in self._batches:
                if len(self._batches) >= MAX_DESCRIBED:
                    self._batches.clear()
                # None is kept as well: batches of this kind never go the short way.
                self._batches[key] = self._described(x0, x1, j, targets, times)
            return None
        found = batches.run(seed, step, x0, x1, i, j)
        if found is None:
            return None
        return PathSample(self, found[0], found[1], dict(zip(targets, found[2:])))  # noqa: B905

    def _described(
        self,
        x0: Tensor | None,
        x1: Tensor,
        j: Tensor | None,
        targets: tuple[str, ...],
        times: Times,
    ) -> Any:
        """The calls of such batches for C++, or None where something about them is unusual."""
        drawn, rows = x0 is None, x1 if j is None else j
        if x1.device.type != "cpu" or x1.ndim == 0 or rows.ndim == 0:
            return None
        if not isinstance(times, Times):
            return None
        if (drawn and not self.noise_source) or x1.dtype not in DTYPE_CODES:
            return None
        if any(name not in TARGETS for name in targets):
            return None
        table, noisy = self._recipes(targets, drawn, x1.device)
        if table is None:
            return None
        clock, stream = times.clock(x1.device), Stream.TRAINING
        return kernels.batches(len(rows), x1.shape[1:], x1.dtype, table, clock, noisy, stream)

    def _paired(
        self,
        x0: Tensor | None,
        x1: Tensor,
        coupling: CouplingFunction | None,
        pairs: tuple[Tensor | None, Tensor | None],
        labels: tuple[Tensor | None, Tensor | None],
    ) -> tuple[Tensor | None, Tensor | None]:
        if x0 is not None and check_dense("x0", x0).is_floating_point():
            check_floating("x0", x0)
        check_floating("x1", x1, "[N, ...]")
        if not isinstance(pairs, tuple) or len(pairs) != 2:
            raise TypeError("pairs: expected a tuple (i, j) of index tensors or None")
        if not all(index is None or isinstance(index, Tensor) for index in pairs):
            raise TypeError("pairs: expected index tensors or None")
        if x0 is None and not self.noise_source:
            raise ValueError(f"x0: {type(self).__name__} starts from samples; give them")
        if x0 is not None and x0.shape[1:] != x1.shape[1:]:
            raise ValueError(
                f"x0: expected rows of shape {tuple(x1.shape[1:])} like x1, got {tuple(x0.shape)}"
            )
        if coupling is None:
            if labels != NEITHER:
                raise ValueError("labels: only a coupling reads them; give one")
            return pairs
        if pairs != NEITHER:
            raise ValueError("pairs: give either these or a coupling")
        if x0 is None:
            raise ValueError("coupling: give x0, whose rows are to be paired")
        check_function("coupling", coupling)
        if labels == NEITHER:
            return _two_indices(coupling(x0, x1))
        for name, y, x in zip(("labels[0]", "labels[1]"), labels, (x0, x1), strict=True):
            if y is None or y.shape[:1] != x.shape[:1]:
                got = "None" if y is None else str(tuple(y.shape))
                raise ValueError(f"{name}: expected one label for each of {len(x)} rows, got {got}")
        return _two_indices(coupling(x0, x1, *labels))

    def _batch(
        self,
        x0: Tensor | None,
        x1: Tensor,
        when: Tensor | Clock,
        noise: Noise,
        targets: tuple[str, ...],
        pairs: tuple[Tensor | None, Tensor | None],
    ) -> PathSample:
        drawn = x0 is None
        key = targets, drawn, x1.device
        if key not in self._tables:
            self._tables[key] = self._recipes(targets, drawn, x1.device)
        table, noisy = self._tables[key]
        if table is None:
            when = kernels.times(noise, when) if isinstance(when, Clock) else when
            table = self._rows(when, targets, drawn)
        time_dtype = torch.float64 if x1.dtype == torch.float64 else torch.float32
        kind = x1.dtype if x0 is None else torch.promote_types(x0.dtype, x1.dtype)
        t, x_t, *found = kernels.bridge(
            x0,
            x1,
            table,
            when,
            noise,
            index0=pairs[0],
            index1=pairs[1],
            noisy=noisy,
            dtypes=[kind] * (1 + len(targets)),
            time_dtype=time_dtype,
        )
        return PathSample(self, t, x_t, dict(zip(targets, found, strict=True)))

    def _names(self, targets: tuple[str, ...], drawn: bool) -> list[tuple[str, str, str]]:
        """The coefficients of x0, x1 and z for the state and each target, by name."""
        noise = 0 if self.noise_source else 2
        result = []
        for name in ("state", *targets):
            if name in ("noise", "score") and not (self.noise_source or self.has_noise):
                raise ValueError(
                    f"targets: {name!r}: there is no noise on {self!r}; give sigma > 0"
                )
            row = {
                "state": ["a", "b", "s"],
                "velocity": ["da", "db", "ds"],
                "data": ["", "one", ""],
                "source": ["one", "", ""],
            }.get(name, ["", "", ""])
            if name in ("noise", "score"):
                row[noise] = "one" if name == "noise" else "minus_inverse"
            if drawn:  # the noise that x0 stands for is in the place of z
                row = ["", row[1], row[0]]
            result.append((row[0], row[1], row[2]))
        return result

    @outside_transforms
    def _recipes(
        self, targets: tuple[str, ...], drawn: bool, device: torch.device
    ) -> tuple[Tensor | None, bool]:
        """The kernel's recipes [M, 3, 5], if there are, and whether z is drawn."""
        names = self._names(targets, drawn)
        noisy = drawn or self.has_noise
        found = self.recipe()
        if found is None or ("score" in targets and "inverse" not in found):
            return None, noisy
        known = {"": NOTHING, "one": ONE, **found}
        known["minus_inverse"] = scaled(found.get("inverse", NOTHING), -1.0)
        if self.data_at == 0:
            known = {
                name: scaled(_reversed(row), -1.0 if name in ("da", "db", "ds") else 1.0)
                for name, row in known.items()
            }
        rows = [[known[n] for n in row] for row in names]
        return torch.tensor(rows, dtype=torch.float64, device=device), noisy

    def _rows(self, t: Tensor, targets: tuple[str, ...], drawn: bool) -> Tensor:
        """The coefficients of every row, [B, M, 3]."""
        backwards = self.data_at == 0
        found = self.coefficients(1 - t if backwards else t)
        zero = torch.zeros_like(t)
        known = {"": zero, "one": zero + 1, "minus_inverse": -1 / found["std"], **found}
        if backwards:
            known |= {name: -found[name] for name in ("da", "db", "ds")}
        rows = [known[n] for row in self._names(targets, drawn) for n in row]
        return torch.stack(rows, -1).reshape(len(t), len(rows) // TERMS, TERMS)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_batches": {}, "_tables": {}}


def scaled(row: Recipe, factor: float) -> Recipe:
    """factor times a function of time."""
    a, b, c, d, e = (factor * x if x else 0.0 for x in row)
    return a, b, c, d, e


def _reversed(row: Recipe) -> Recipe:
    """The same function of 1 - t."""
    one, t, r, slope, inverse = row
    return one + t, -t, r, -slope, inverse


def _two_indices(found: Any) -> tuple[Tensor, Tensor]:
    """What a coupling returned, or an error that says what it should have been."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise TypeError(f"coupling: expected a pair of index tensors (i, j), got {found!r:.80}")
    for index in found:
        if not isinstance(index, Tensor) or index.ndim != 1:
            raise TypeError(f"coupling: expected index tensors [B], got {index!r:.80}")
    return found[0], found[1]
