"""A chat with Django Channels, for users who are logged in to Django, in the project of django_site.py.

python django_site.py ada secret
uvicorn channels_before:application

It needs channels and uvicorn[standard]. channels_after.py is the same with wsrpc.
"""

from __future__ import annotations

from typing import Any

import django_site
from asgiref.sync import async_to_sync
from channels.auth import AuthMiddlewareStack
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path


class Chat(AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        if not self.scope["user"].is_authenticated:
            await self.close()
            return
        await self.channel_layer.group_add("lobby", self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("lobby", self.channel_name)

    async def receive_json(self, content: dict[str, Any], **_: object) -> None:
        if content["type"] == "say":
            name, text = self.scope["user"].username, content["text"]
            await self.channel_layer.group_send("lobby", {"type": "said", "name": name, "text": text})
            await self.send_json({"type": "answer", "id": content["id"], "value": len(text)})

    async def said(self, event: dict[str, Any]) -> None:
        await self.send_json({"type": "said", "name": event["name"], "text": event["text"]})


def announce(request: HttpRequest) -> HttpResponse:
    event = {"type": "said", "name": "Django", "text": request.POST["text"]}
    async_to_sync(get_channel_layer().group_send)("lobby", event)
    return HttpResponse("announced")


django_site.urlpatterns += [path("login/<name>", django_site.log_in), path("announce", announce)]
websocket = AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter([path("ws", Chat.as_asgi())])))
application = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": websocket})
