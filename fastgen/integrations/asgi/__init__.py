"""Samples over HTTP: continuous batching behind a small ASGI application.

Needs ``pip install 'fastgen-torch[serve]'``; ``fastgen serve MODEL`` runs it.
"""

from fastgen.integrations.asgi.app import application
from fastgen.integrations.asgi.engine import Engine
from fastgen.integrations.asgi.jobs import FullError, Limits

__all__ = ["Engine", "FullError", "Limits", "application"]
