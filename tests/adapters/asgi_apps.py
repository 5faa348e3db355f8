"""One application for each ASGI framework, with a server at ``/ws`` and an HTTP route at ``/hello``.

A client says with ``?access_token=`` or a session who it is; `on_handshake` or the framework's own means find
the user, who is in ``peer.state["user"]``. Each closes the server when it shuts down, in its framework's way.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any

import django
import litestar
import quart
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.sessions import SessionMiddlewareStack
from django.conf import settings
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from fastapi import Depends, FastAPI, WebSocket, WebSocketException
from litestar.di import NamedDependency, Provide

from wsrpc import Handshake, Server
from wsrpc_adapters.asgi import asgi, lifespan, serve_websocket

USERS = {"t1": "ada"}


def authenticate(server: Server) -> None:
    """By the token, before the upgrade."""

    @server.on_handshake
    async def gate(handshake: Handshake) -> None:
        user = USERS.get(handshake.bearer_token or "")
        if user is None:
            handshake.reject(401, "who are you?")
        handshake.state["user"] = user


def current_user(websocket: WebSocket) -> str:
    user = USERS.get(websocket.query_params.get("access_token", ""))
    if user is None:
        raise WebSocketException(1008, "who are you?")
    return user


def fastapi(server: Server) -> Any:
    app = FastAPI(lifespan=lifespan(server))

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.websocket("/ws")
    async def ws(websocket: WebSocket, user: Annotated[str, Depends(current_user)]) -> None:
        await serve_websocket(server, websocket, state={"user": user})

    return app


@litestar.get("/hello")
async def hello_litestar() -> str:
    return "hello"


async def litestar_user(socket: litestar.WebSocket[Any, Any, Any]) -> str:
    user = USERS.get(socket.query_params.get("access_token", ""))
    if user is None:
        raise litestar.exceptions.NotAuthorizedException
    return user


def litestar_route(server: Server) -> Any:
    @litestar.websocket("/ws", dependencies={"user": Provide(litestar_user)})
    async def ws(socket: litestar.WebSocket[Any, Any, Any], user: NamedDependency[str]) -> None:
        await serve_websocket(server, socket, state={"user": user})

    return litestar.Litestar([hello_litestar, ws], lifespan=[lifespan(server)], logging_config=None)


def in_quart(server: Server) -> Any:
    authenticate(server)
    app = quart.Quart(__name__)
    rpc, rest = asgi(server), app.asgi_app

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        mine = scope["type"] == "websocket" and scope["path"] == "/ws"
        await (rpc if mine else rest)(scope, receive, send)

    app.asgi_app = asgi_app  # type: ignore[method-assign]

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.while_serving
    async def living() -> AsyncGenerator[None]:
        async with lifespan(server)(app):
            yield

    return app


def hello_django(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


urlpatterns = [path("hello", hello_django)]

settings.configure(
    SECRET_KEY="for these tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    INSTALLED_APPS=["django.contrib.sessions"],
    LOGGING_CONFIG=None,
)
django.setup()


def channels_cookie() -> str:
    """What a browser has after it logged in."""
    session = SessionStore()
    session["user"] = "ada"
    session.save()
    return f"sessionid={session.session_key}"


def django_channels(server: Server) -> Any:
    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        if handshake.state["user"] is None:
            handshake.reject(401, "who are you?")

    async def ws(scope: Any, receive: Any, send: Any) -> None:
        await asgi(server, state={"user": scope["session"].get("user")})(scope, receive, send)

    websockets = SessionMiddlewareStack(URLRouter([path("ws", ws)]))
    return ProtocolTypeRouter({"http": get_asgi_application(), "websocket": websockets})


APPS: dict[str, Callable[[Server], Any]] = {
    "fastapi": fastapi,
    "litestar": litestar_route,
    "quart": in_quart,
    "channels": django_channels,
}
