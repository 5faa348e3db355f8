"""`ClusterJoiner`: joins a server to its cluster, and separates it again."""

from __future__ import annotations

from collections.abc import Callable

from .joined_cluster import JoinedCluster
from .peers import Peers
from .quotas.quotas import QuotaBook
from .quotas.shared_rates import SharedRates
from .rooms.rooms import Rooms


class ClusterJoiner:
    """The parts of a server that use its cluster: all of them from `enter` to `leave`, and none before and after.

    Args:
        join: joins the cluster. None if the server has no cluster.
    """

    def __init__(
        self,
        join: Callable[[Peers], JoinedCluster] | None,
        peers: Peers,
        rooms: Rooms,
        quotas: QuotaBook | None,
    ) -> None:
        self._join = join
        self._peers = peers
        self._rooms = rooms
        self._quotas = quotas
        self._rates: SharedRates | None = None

    @property
    def cluster(self) -> JoinedCluster | None:
        """The cluster, between `enter` and `leave`."""
        return self._peers.joined_cluster

    def enter(self) -> None:
        """Join the cluster, if there is one. Idempotent."""
        if self._join is not None and self.cluster is None:
            cluster = self._peers.joined_cluster = self._join(self._peers)
            self._rooms.elsewhere = cluster.rooms
            self._rooms.presences.use(cluster.rooms.presence)
            if self._quotas is not None:
                self._rates = SharedRates(self._quotas, self._rooms.registry, cluster)

    def leave(self) -> JoinedCluster | None:
        """Separate the server from the cluster, and return it, to be closed. None if it is not joined."""
        cluster, self._peers.joined_cluster, self._rooms.elsewhere = self.cluster, None, None
        if self._rates is not None:
            self._rates.end()
            self._rates = None
        return cluster
