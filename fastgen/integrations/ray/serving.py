"""Ray Serve in front of `fastgen.integrations.asgi`: replicas with a batch each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastgen.common.checks import check_whole


def deployment(
    make: Callable[[], Any], *, replicas: int = 1, gpus: float = 0.0, cpus: float = 1.0
) -> Any:
    """An application of Ray Serve whose replicas serve ``make()``.

    ``ray.serve.run(deployment(make))``. Ray hands each request to a replica, starts one that dies
    again, and answers with an error what it had in hand; asked again, that has the same bits,
    whichever replica draws it.

    Args:
        make: makes the ASGI application, `fastgen.integrations.asgi.application`, in each replica:
            a function of a module that these can import.
        replicas: how many.
        gpus, cpus: of each.

    Raises:
        ImportError: without ``pip install 'ray[serve]'``.
    """
    from ray import serve

    check_whole("replicas", replicas, 1)

    class Samples:
        """One replica."""

    options = {"num_gpus": gpus, "num_cpus": cpus}
    wrapped: Any = serve.deployment(num_replicas=replicas, ray_actor_options=options)
    return wrapped(serve.ingress(make)(Samples)).bind()
