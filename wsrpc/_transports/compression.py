"""Compression of messages (RFC 7692): the extension of the `websockets` library, with a limit that can change."""

from __future__ import annotations

from collections.abc import Sequence

from websockets.extensions import ClientExtensionFactory, Extension, ServerExtensionFactory
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.typing import ExtensionName, ExtensionParameter

__all__ = ["AcceptedCompression", "Compression", "OfferedCompression"]

NAME = ExtensionName("permessage-deflate")


class Compression(Extension):
    """The extension of one connection."""

    name = NAME

    def __init__(self, extension: Extension) -> None:
        self._extension = extension
        self.largest = 0
        """Maximum number of bytes of the next frame after it was decompressed."""

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        return self._extension.decode(frame, max_size=self.largest)

    def encode(self, frame: Frame) -> Frame:
        return self._extension.encode(frame)


class AcceptedCompression(ServerExtensionFactory):
    """Accepts a client's offer of compression. The settings are those with which the library's own server accepts."""

    name = NAME

    def __init__(self) -> None:
        self._factory = ServerPerMessageDeflateFactory(
            server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
        )
        self.agreed: Compression | None = None

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], Extension]:
        response, extension = self._factory.process_request_params(params, accepted_extensions)
        self.agreed = Compression(extension)
        return response, self.agreed


class OfferedCompression(ClientExtensionFactory):
    """Offers compression to a server. The settings are those with which the library's own client offers it."""

    name = NAME

    def __init__(self) -> None:
        self._factory = ClientPerMessageDeflateFactory(compress_settings={"memLevel": 5})
        self.agreed: Compression | None = None

    def get_request_params(self) -> Sequence[ExtensionParameter]:
        return self._factory.get_request_params()

    def process_response_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> Extension:
        self.agreed = Compression(self._factory.process_response_params(params, accepted_extensions))
        return self.agreed
