"""The application that Ray's replicas serve; a module that they can import."""

from fastgen.integrations.asgi import Engine, application
from tests.generation import sets


def app():
    return application(Engine(sets.sampler(), sets.SHAPE, rows=4, classes=3))
