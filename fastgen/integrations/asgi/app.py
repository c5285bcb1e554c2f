"""The application: POST /sample, GET /health, GET /metrics."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from fastgen.integrations.asgi import answers
from fastgen.integrations.asgi.engine import Engine
from fastgen.integrations.asgi.jobs import Asked, Event, FullError, Job, read
from fastgen.integrations.asgi.metrics import Metrics

# Of a client that left before its answer, as nginx counts it; nobody sees it.
LEFT = 499


def application(
    engine: Engine, *, token: str | None = None, limits: tuple[float, float] = (-1.0, 1.0)
) -> Starlette:
    """An ASGI application around an engine, which it stops when it ends.

    ``POST /sample`` takes a JSON object: seed, ids (or first and count), plan, guidance, label (or
    labels), format ("npy", "png", "json"), deadline, stream, previews. It answers with the samples
    when all are there; with ``stream: true`` as server-sent events, each sample when it is, and
    every ``previews`` evaluations the data prediction. A client that leaves frees its rows before
    the next call of the network. Errors are JSON with "error": 400 for what was asked, 401 for the
    token, 413 for its size, 429 with Retry-After where the queue is full, 504 at the deadline.

    Args:
        engine: what draws.
        token: that clients must send as ``Authorization: Bearer TOKEN``, to all but /health.
        limits: the numbers that are black and white in PNG files.
    """
    if token is not None and (not token or not token.isascii() or len(token.split()) != 1):
        raise ValueError("token: expected characters without spaces, of ASCII")
    metrics = Metrics(engine)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.stop)

    async def sample(request: Request) -> Response:
        begin = time.monotonic()
        try:
            asked = read(await _body(request, engine.limits.body), engine.offer, engine.limits)
            if asked.format == "png":
                answers.check_pictures(engine.sample_shape)
        except _TooLongError as error:
            return refused(413, error)
        except (ValueError, TypeError) as error:
            return refused(400, error)
        except ClientDisconnect:
            return refused(LEFT, RuntimeError("the client has left"))
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Event) -> None:
            with suppress(RuntimeError):  # a loop that has ended, and nobody who waits
                loop.call_soon_threadsafe(events.put_nowait, event)

        try:
            job = engine.submit(asked, tell)
        except FullError as error:
            return refused(429, error, {"Retry-After": str(error.seconds)})
        except RuntimeError as error:
            return refused(503, error)
        if asked.stream:
            stream = _stream(engine, job, events, limits, lambda s: counted(s, begin))
            return StreamingResponse(stream, media_type="text/event-stream")
        return await _answer(engine, job, events, request, limits, lambda s: counted(s, begin))

    def refused(status: int, error: Exception, headers: dict[str, str] | None = None) -> Response:
        metrics.count(status)
        return JSONResponse({"error": str(error)}, status, headers)

    def counted(status: int, begin: float) -> None:
        metrics.count(status, time.monotonic() - begin if status == 200 else None)

    async def health(request: Request) -> Response:
        facts: dict[str, Any] = {
            "active": engine.active,
            "waiting": engine.waiting,
            "rows": engine.rows,
        }
        facts |= {"plans": list(engine.offer.plans), "shape": list(engine.shape)}
        if engine.alive:
            return JSONResponse({"status": "ok", **facts})
        return JSONResponse({"status": "stopped", **facts}, 503)

    async def measured(request: Request) -> Response:
        text, kind = metrics.text()
        return Response(text, headers={"Content-Type": kind})

    routes = [
        Route("/sample", _guarded(sample, token), methods=["POST"]),
        Route("/metrics", _guarded(measured, token)),
        Route("/health", health),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


class _TooLongError(ValueError):
    """A body above the limit."""


Endpoint = Callable[[Request], Any]


def _guarded(endpoint: Endpoint, token: str | None) -> Endpoint:
    """The endpoint for those who have the token."""
    if token is None:
        return endpoint
    wanted = f"Bearer {token}".encode()

    async def checked(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, wanted):
            told = {"error": "give the token: Authorization: Bearer TOKEN"}
            return JSONResponse(told, 401, {"WWW-Authenticate": "Bearer"})
        found: Response = await endpoint(request)
        return found

    return checked


async def _body(request: Request, most: int) -> bytes:
    """The body, no more of it than allowed.

    Raises:
        _TooLongError: naming the limit.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _TooLongError(f"the body has more than {most} bytes")
        parts.append(part)
    return b"".join(parts)


async def _answer(
    engine: Engine,
    job: Job,
    events: asyncio.Queue[Event],
    request: Request,
    limits: tuple[float, float],
    counted: Callable[[int], None],
) -> Response:
    """All samples at once, or why there are none."""
    left = asyncio.ensure_future(_left(request))
    found: dict[int, Any] = {}
    try:
        while True:
            event = asyncio.ensure_future(events.get())
            await asyncio.wait({left, event}, return_when=asyncio.FIRST_COMPLETED)
            if not event.done():
                event.cancel()
                counted(LEFT)
                return Response(status_code=LEFT)
            kind, number, value, *_, error = event.result()
            if kind == "sample":
                found[number] = value
            elif kind == "failed":
                status = _status(error)
                counted(status)
                return JSONResponse({"error": str(error)}, status)
            elif kind == "done":
                samples = [found[n] for n in range(len(job.asked.ids))]
                content, media, headers = await asyncio.to_thread(
                    answers.whole, job.asked, samples, limits
                )
                counted(200)
                return Response(content, media_type=media, headers=headers)
    finally:
        left.cancel()
        engine.cancel(job)


async def _left(request: Request) -> None:
    """Wait until the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(
    engine: Engine,
    job: Job,
    events: asyncio.Queue[Event],
    limits: tuple[float, float],
    counted: Callable[[int], None],
) -> AsyncIterator[bytes]:
    """Server-sent events until the job is over; closed, it drops the job."""
    asked: Asked = job.asked
    status = LEFT
    try:
        while True:
            event = await events.get()
            yield answers.event(asked, event, limits)
            if event.kind in ("done", "failed"):
                status = 200 if event.kind == "done" else _status(event.error)
                return
    finally:
        counted(status)
        engine.cancel(job)


def _status(error: Exception | None) -> int:
    if isinstance(error, TimeoutError):
        return 504
    return 400 if isinstance(error, (ValueError, TypeError)) else 500
