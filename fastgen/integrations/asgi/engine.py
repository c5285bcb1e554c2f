"""A thread that steps a continuous batch for whoever asks: a bounded queue, deadlines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_sizes, check_whole
from fastgen.common.display import displayed
from fastgen.generation.run import decoded_shape
from fastgen.integrations.asgi.jobs import Asked, Event, FullError, Job, Limits, Offer
from fastgen.plans import Plan
from fastgen.sampling import Sampler

OWN = "default"  # the sampler's plan, by name


@displayed
class Engine:
    """Jobs of several samples each, in rows of one batch that all share the network's calls.

    Sample i of a seed is that of the noise contract, with the bits of a run in a batch of so many
    rows: who asks again gets them again, from this process or another.

    Args:
        sampler: model, plan and guidance.
        shape: of one state.
        rows: of the batch: requests that are drawn at a time.
        plans: others that requests may ask for, by name.
        classes: of labels, which the network then takes as ``label_name``; None: it takes none.
        label_name: the network's argument.
        decode: from states [B, ...] to samples [B, ...].
        limits: what is taken on.

    Guidance with a row for each sample needs ``rows`` of them.
    """

    def __init__(
        self,
        sampler: Sampler,
        shape: Sequence[int],
        *,
        rows: int = 16,
        plans: Mapping[str, Plan] | None = None,
        classes: int | None = None,
        label_name: str = "labels",
        decode: Callable[[Tensor], Tensor] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.rows = check_whole("rows", rows, 1)
        self.shape = tuple(check_sizes("shape", shape, "the shape of one state"))
        if plans and OWN in plans:
            raise ValueError(f"plans: {OWN!r} is the sampler's own")
        self._plans: dict[str, Plan | None] = {OWN: None, **(plans or {})}
        self.limits = Limits() if limits is None else limits
        self.offer = Offer(tuple(self._plans), classes, sampler.guidance is not None)
        self._sampler, self._label_name, self._decode = sampler, label_name, decode
        self.sample_shape = self.shape
        if decode is not None:
            self.sample_shape = decoded_shape(sampler, self.shape, decode)
        self._batch = self._made()
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._owners: dict[int, tuple[Job, int]] = {}
        self._pace = 0.0  # seconds a sample, of late
        self.steps, self.samples = 0, 0
        self._thread = threading.Thread(target=self._work, name="fastgen-engine", daemon=True)
        self._thread.start()

    def _facts(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "rows": self.rows,
            "plans": list(self._plans),
            "classes": self.offer.classes,
            "limits": self.limits,
        }

    def _made(self) -> Any:
        arguments = {}
        if self.offer.classes is not None:
            device = self._sampler.model.device
            arguments[self._label_name] = torch.zeros(self.rows, dtype=torch.int64, device=device)
        plans = [plan for plan in self._plans.values() if plan is not None]
        shape = (self.rows, *self.shape)
        return self._sampler.serve(shape, plans=plans, previews=True, net_kwargs=arguments)

    @property
    def alive(self) -> bool:
        """Whether it takes jobs."""
        return self._thread.is_alive() and not self._stopped

    @property
    def waiting(self) -> int:
        """Samples that no row is free for yet."""
        return sum(len(job.waiting) for job in list(self._jobs))

    @property
    def active(self) -> int:
        """Samples that are drawn now."""
        return len(self._owners)

    def submit(self, asked: Asked, tell: Callable[[Event], None]) -> Job:
        """Take a job; ``tell`` is called from the engine's thread with what becomes of it.

        Raises:
            FullError: where more samples would wait than the limit says.
            RuntimeError: after `stop`.
        """
        job = Job(asked, tell)
        with self._changed:
            if not self.alive:
                raise RuntimeError("the engine has stopped")
            free = self.rows - self.active
            waiting = self.waiting
            if waiting + len(job.waiting) > self.limits.queue + free:
                raise FullError(self._pace * max(waiting + len(job.waiting) - self.limits.queue, 1))
            self._jobs.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Drop a job: its rows are free before the next step. One that is over stays as it is."""
        job.cancelled.set()
        with self._changed:
            self._changed.notify()

    def stop(self) -> None:
        """Fail what is under way, and end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._jobs or self._stopped):
                    self._changed.wait()
                if self._stopped:
                    for job in list(self._jobs):
                        self._end(job, RuntimeError("the server stops"))
                    return
            begin = time.monotonic()
            try:
                self._drop()
                self._admit()
                finished = self._step()
            except Exception as error:  # of the network: the jobs fail, the server goes on
                for job in list(self._jobs):
                    self._end(job, error)
                self._batch, self._owners = self._made(), {}
                continue
            if finished:
                spent = (time.monotonic() - begin) / finished
                self._pace = spent if not self._pace else 0.9 * self._pace + 0.1 * spent

    def _drop(self) -> None:
        """End jobs whose client has left, or whose time is over."""
        for job in list(self._jobs):
            if job.cancelled.is_set():
                self._end(job, None)
            elif job.late:
                self._end(job, TimeoutError(f"not done in {job.asked.deadline:g} seconds"))

    def _admit(self) -> None:
        """Give free rows to those who came first."""
        for job in list(self._jobs):
            asked = job.asked
            while job.waiting and self._batch.free:
                number = job.waiting.pop()
                own = {}
                if asked.labels is not None:
                    own[self._label_name] = torch.tensor(asked.labels[number])
                try:
                    ticket = self._batch.admit(
                        seed=asked.seed,
                        sample_id=asked.ids[number],
                        plan=self._plans[asked.plan],
                        scale=asked.guidance,
                        net_kwargs=own,
                    )
                except (ValueError, TypeError) as error:
                    self._end(job, error)
                    break
                job.tickets[ticket] = number
                self._owners[ticket] = job, number

    def _step(self) -> int:
        """One call of the network; how many samples it finished."""
        found = self._batch.step()
        self.steps += bool(self._owners)
        for ticket, x in found.items():
            owner = self._owners.pop(ticket, None)
            if owner is None:  # of a job that has ended in this step
                continue
            job, number = owner
            del job.tickets[ticket]
            sample = x if self._decode is None else self._decode(x[None])[0]
            if bool(sample.isfinite().all()):
                job.tell(Event("sample", number, sample.cpu()))
                self.samples += 1
            else:
                self._end(job, FloatingPointError("a sample has NaN or infinity"))
            if job.over and job in self._jobs:
                self._jobs.remove(job)
                job.tell(Event("done"))
        for ticket, (job, number) in list(self._owners.items()):
            done, of = self._batch.evaluations(ticket)
            if job.asked.previews and done % job.asked.previews == 0:
                data = self._batch.preview(ticket)
                shown = data if self._decode is None else self._decode(data[None])[0]
                job.tell(Event("preview", number, shown.cpu(), done, of))
        return len(found)

    def _end(self, job: Job, error: Exception | None) -> None:
        """Take a job out; error: what it is told, unless nobody listens."""
        if job not in self._jobs:
            return
        self._jobs.remove(job)
        for ticket in job.tickets:
            self._owners.pop(ticket, None)
            with suppress(KeyError):  # finished in this step
                self._batch.retire(ticket)
        job.tickets.clear()
        job.waiting.clear()
        if error is not None:
            job.tell(Event("failed", error=error))
