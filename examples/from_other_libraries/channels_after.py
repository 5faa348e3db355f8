"""channels_before.py with wsrpc. Channels still finds the user of the session.

python django_site.py ada secret
uvicorn channels_after:application --ws wsrpc_adapters.uvicorn:WebSocketProtocol
"""

from __future__ import annotations

from typing import Any

import django_site
from asgiref.sync import async_to_sync
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from wsrpc import Handshake, Peer, Server
from wsrpc_adapters.asgi import asgi

server = Server()


@server.on_handshake
def members_only(handshake: Handshake) -> None:
    if not handshake.state["user"].is_authenticated:
        handshake.reject(403)
    handshake.principal = handshake.state["user"].pk


@server.on("open")
def opened(peer: Peer) -> None:
    server.room("lobby").add(peer)


@server.on("say")
async def say(peer: Peer, text: str) -> int:
    await server.room("lobby").emit("said", peer.state["user"].username, text)
    return len(text)


def announce(request: HttpRequest) -> HttpResponse:
    async_to_sync(server.room("lobby").emit)("said", "Django", request.POST["text"])
    return HttpResponse("announced")


async def rpc(scope: Any, receive: Any, send: Any) -> None:
    await asgi(server, state={"user": scope["user"]})(scope, receive, send)


django_site.urlpatterns += [path("login/<name>", django_site.log_in), path("announce", announce)]
websocket = AuthMiddlewareStack(URLRouter([path("ws", rpc)]))
application = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": websocket, "lifespan": asgi(server)})
