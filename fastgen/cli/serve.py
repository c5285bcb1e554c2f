"""`fastgen serve`: samples over HTTP, with continuous batching."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fastgen.cli.arguments import limits, plan_options, shape
from fastgen.cli.drawing import add_drawing_arguments, check_solver, guidance_of, placed, plan_of
from fastgen.cli.sources import add_source_arguments, find_model

if TYPE_CHECKING:
    from starlette.applications import Starlette

TOKEN = "FASTGEN_TOKEN"
NEEDED = ("starlette", "uvicorn", "prometheus_client")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_source_arguments(parser)
    parser.add_argument("--shape", type=shape, help="C,H,W of one state; the source's, if known")
    parser.add_argument("--rows", type=int, default=16, help="samples drawn at a time (16)")
    parser.add_argument("--classes", type=int, help="of labels, if the network takes them")
    parser.add_argument("--label-name", default="labels", help="the network's argument (labels)")
    add_drawing_arguments(parser)
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=PLAN.json",
        help="a plan that requests may ask for by name; repeat for more",
    )
    parser.add_argument("--device", help="the first GPU, or the CPU")
    parser.add_argument("--host", default="127.0.0.1", help="this machine alone (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--token-file",
        type=Path,
        help=f"whose text clients must send as a bearer token; or {TOKEN}",
    )
    parser.add_argument("--queue", type=int, default=256, help="samples that wait, at most (256)")
    parser.add_argument("--most", type=int, default=64, help="samples of one request (64)")
    parser.add_argument("--deadline", type=float, default=120.0, help="seconds of one (120)")
    parser.add_argument("--limits", type=limits, default=(-1.0, 1.0), help="black,white (-1,1)")


def run(arguments: argparse.Namespace) -> None:
    """Serve until interrupted."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} needed: pip install 'fastgen-torch[serve]'")
    check_solver(arguments)
    token = _token(arguments)
    app = made(arguments, token)
    import uvicorn

    print(f"http://{arguments.host}:{arguments.port}/sample", flush=True)
    uvicorn.run(
        app, host=arguments.host, port=arguments.port, log_level="warning", access_log=False
    )


def made(arguments: argparse.Namespace, token: str | None) -> Starlette:
    """The application."""
    options = plan_options(arguments)
    source = placed(find_model(arguments), arguments.device)
    sizes = arguments.shape or source.shape
    if sizes is None:
        raise ValueError(f"--shape: {arguments.source} does not say what shape a sample has")
    plan = plan_of(arguments, source, options)
    from fastgen.integrations.asgi import Engine, Limits, application
    from fastgen.plans import Plan
    from fastgen.sampling import Sampler

    plans = {}
    for text in arguments.also:
        name, equals, path = text.partition("=")
        if not equals:
            raise ValueError(f"--also {text}: expected NAME=PLAN.json")
        plans[name] = Plan.from_json(Path(path).read_bytes())
    arguments.labels = arguments.classes  # guidance is between labels
    device = source.model.device
    guidance = guidance_of(arguments, arguments.label_name, arguments.rows, device)
    engine = Engine(
        Sampler(source.model, plan, guidance=guidance),
        sizes,
        rows=arguments.rows,
        plans=plans,
        classes=arguments.classes,
        label_name=arguments.label_name,
        decode=None if source.latent is None else source.latent.decode,
        limits=Limits(queue=arguments.queue, count=arguments.most, deadline=arguments.deadline),
    )
    return application(engine, token=token, limits=arguments.limits)


def _token(arguments: argparse.Namespace) -> str | None:
    """What clients must send.

    Raises:
        ValueError: for an address that others reach, without a token.
    """
    token: str | None = os.environ.get(TOKEN)
    if arguments.token_file is not None:
        token = arguments.token_file.read_text().strip()
    if token is None and not _only_here(arguments.host):
        raise ValueError(
            f"--host {arguments.host}: others reach it; give --token-file, or {TOKEN} in the "
            "environment"
        )
    return token


def _only_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
