"""`Service`: base class of services, with the server to which the class was added."""

from __future__ import annotations

from .server import Server, ServerChannel
from .services.services import CHANNEL, BaseService, owner_of


class Service(BaseService):
    """Base class of services. Each instance of a service class serves one connection.

    Register the class with `Server.add_service`. The methods that are decorated with `method` are handlers.

    For connections that do not use the ws-wrapper protocol, write one of the methods
    ``async def serve(self, connection)``, ``on_json(self, value)`` and ``on_message(self, message)`` instead of
    handlers. If a class has several of these methods, the first one in this order is used. ``serve`` gets the
    `RawConnection`, and the connection is closed when it returns. The other two, sync or async, get every message of
    the connection, one at a time. ``on_json`` gets the decoded message, converted to the annotation of ``value``. A
    message that cannot be decoded or converted closes the connection with 1007. An exception in one of the three
    methods closes it as described for `Server.serve_raw`.

    The attribute ``peer``, or ``connection`` in a service with one of these methods, is set after the factory has
    returned.
    """

    @property
    def server(self) -> Server:
        """The server to which the class was added.

        Raises:
            RuntimeError: the factory has not returned yet, for example in ``__init__``.
        """
        owner = owner_of(self)
        if owner is None:
            name = type(self).__qualname__
            raise RuntimeError(
                f"{name} has no server before its factory returns: take the peer as an argument, and use peer.server"
            )
        return owner.server

    @property
    def channel(self) -> Server | ServerChannel:
        """The channel of the server to which the class was added. Events that you emit on it go to all peers.

        For example, use ``await self.channel.emit("said", text)``. If the class was added without ``channel=``, this is
        the server itself.

        Raises:
            RuntimeError: as for `server`.
        """
        server = self.server
        name: str | None = getattr(self, CHANNEL, None)
        return server if name is None else server.of(name)
