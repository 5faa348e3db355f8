"""Compression of messages (RFC 7692): the extension of the `websockets` library, with the settings that it uses itself.

An object makes one offer, or accepts one. ``agreed`` is then the extension, if both sides have agreed on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from websockets.exceptions import NegotiationError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.typing import ExtensionParameter

SMALLEST_WINDOW = "8"
"""Window with which zlib decompresses, but does not compress. Not all versions of the library refuse it."""


class AcceptedCompression(ServerPerMessageDeflateFactory):
    """Accepts a client's offer of compression."""

    agreed: PerMessageDeflate | None = None

    def __init__(self) -> None:
        super().__init__(server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5})

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        if ("server_max_window_bits", SMALLEST_WINDOW) in params:
            raise NegotiationError("zlib does not compress with server_max_window_bits=8")
        response, self.agreed = super().process_request_params(params, accepted_extensions)
        return response, self.agreed


class OfferedCompression(ClientPerMessageDeflateFactory):
    """Offers compression to a server."""

    agreed: PerMessageDeflate | None = None

    def __init__(self) -> None:
        super().__init__(compress_settings={"memLevel": 5})

    def process_response_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> PerMessageDeflate:
        if ("client_max_window_bits", SMALLEST_WINDOW) in params:
            raise NegotiationError("zlib does not compress with client_max_window_bits=8")
        self.agreed = super().process_response_params(params, accepted_extensions)
        return self.agreed
