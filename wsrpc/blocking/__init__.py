"""`Client` and `ClusterClient` for programs without an event loop: scripts, notebooks, cron jobs, Celery tasks.

They have the methods of the asynchronous classes, which wait instead of being awaited. Each runs an event loop in a
thread of its own.
"""

from ._blocking_client import Client
from ._blocking_cluster import ClusterClient, ClusterPeer, ClusterPeerChannel, ClusterRoom, ClusterRoomChannel
from ._blocking_peer import AnonymousChannel, Channel, Peer
from ._blocking_stream import Stream
from ._blocking_upload import upload

__all__ = [
    "AnonymousChannel",
    "Channel",
    "Client",
    "ClusterClient",
    "ClusterPeer",
    "ClusterPeerChannel",
    "ClusterRoom",
    "ClusterRoomChannel",
    "Peer",
    "Stream",
    "upload",
]
