"""Description of the events of a server or client as data, with their parameters and results as JSON Schema.

`describe` reads the signatures of the registered handlers, and the contracts of events that were declared.
`wsrpc.codegen.typescript` turns the description into declarations, and msgspec into JSON::

    msgspec.json.encode(wsrpc.schema.describe(server))
"""

from __future__ import annotations

from typing import Any

from ._client.client import Client, core_of
from ._core.api.registration import Router, registry_of
from ._core.wire.codecs import enc_hook_of
from ._schema.description import Description, EventSchema, Kind, ParameterSchema
from ._schema.description import describe as describe_registry
from ._server.server import Server, settings_of

__all__ = ["Description", "EventSchema", "Kind", "ParameterSchema", "describe"]


def describe(registered: Server | Client | Router, /) -> Description:
    """Describe the events for which ``registered`` has handlers, including its channels, services and included routers.

    Emitted events are included if they were declared with ``declare()``. Handlers that were registered with
    ``hidden=True`` are left out, and so are injected parameters (`Peer`, `Context`).

    The same registrations give the same description, even if they were made in another order. If a type has no schema,
    no exception is raised: the schema is empty, and the ``notes`` of the event say why.

    Raises:
        TypeError: ``registered`` is not a server, client or router.
    """
    value: Any = registered
    if not isinstance(value, Server | Client | Router):
        raise TypeError(f"describe() takes a Server, a Client or a Router, got {value!r}")
    return describe_registry(registry_of(value), _enc_hook(value))


def _enc_hook(registered: Server | Client | Router) -> Any:
    """Return the user's function that encodes defaults; None if there is none."""
    if isinstance(registered, Server):
        return enc_hook_of(settings_of(registered).codec)
    if isinstance(registered, Client):
        return enc_hook_of(core_of(registered).peer_session.host.settings.codec)
    return None
