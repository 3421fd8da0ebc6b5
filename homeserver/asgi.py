"""`uvicorn homeserver.asgi:app` is a whole server; `create_app` is for those who embed one."""

from homeserver.app.application import Application
from homeserver.config.load import load
from homeserver.config.model import Config

__all__ = ["app", "create_app"]


def create_app(config: Config) -> Application:
    """An ASGI application with these settings."""
    return Application(config)


app = create_app(load())
