"""Has files and folders fetched into a node's store for whoever runs it, and says how far they are."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from protocol.cid import Cid, read_cid
from protocol.errors import MalformedMessage
from protocol.keys import parse_node
from roles import core_effects as ce
from roles.file_gatherer import Progress
from roles.gathering import PROVIDERS_MAX
from roles.store_effects import FOR_EVER
from roles.wants import Wants

Peers = tuple[tuple[bytes, tuple[str, ...]], ...]  # node keys and where each can be dialled, if that is known


class Shelves(Protocol):
    """What this reads of a node's core."""

    gathers: Wants

    def get_progress(self, cid: Cid) -> Progress | None: ...


class GatherOrders:
    """`put` hands the core an event for its next turn."""

    def __init__(self, core: Shelves, put: Callable[[ce.CoreEvent], object]) -> None:
        self._core = core
        self._put = put

    def begin(self, cid: Cid, peers: Peers, name: str = "", expires_ms: int = FOR_EVER) -> None:
        """Begin, unless it is on its way already. Without peers the ledger's storage nodes are asked."""
        if self._core.gathers.open(str(cid)):
            self._put(ce.GatherWanted(cid, peers, name, expires_ms))

    def widen(self, cid: Cid, name: str = "", expires_ms: int = FOR_EVER) -> None:
        """Have the ledger's storage nodes asked as well, who keeps it first. Begins anew what has failed."""
        self._core.gathers.open(str(cid))
        self._put(ce.GatherWanted(cid, (), name, expires_ms))

    def describe(self, cid: Cid) -> dict[str, Any]:
        """`state` is `unknown`, `fetching`, `held`, or `missing` with the reason; sizes while it is on its way."""
        progress = self._core.get_progress(cid) or Progress(0, 0, 0)
        return {**self._core.gathers.describe(str(cid)), **progress._asdict()}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """For the control socket. Raises ValueError."""
        try:
            cid = read_cid(str(request.get("cid")))
            if request.get("begin") is True:
                self.begin(cid, *_read_wish(request))
        except MalformedMessage as error:
            raise ValueError(str(error)) from error
        return self.describe(cid)


def _read_wish(request: Mapping[str, Any]) -> tuple[Peers, str, int]:
    peers, name, expires_ms = request.get("peers", []), request.get("name", ""), request.get("expires_ms", FOR_EVER)
    if not isinstance(peers, list) or len(peers) > PROVIDERS_MAX:
        raise ValueError(f"peers is a list of up to {PROVIDERS_MAX}")
    if not isinstance(name, str) or type(expires_ms) is not int or not 0 <= expires_ms <= FOR_EVER:
        raise ValueError("name is text, expires_ms a whole number")
    return tuple(_read_peer(peer) for peer in peers), name, expires_ms


def _read_peer(peer: object) -> tuple[bytes, tuple[str, ...]]:
    """`{"node": "12D3Koo…", "addresses": […]}`."""
    addresses = peer.get("addresses", []) if isinstance(peer, dict) else None
    if not isinstance(peer, dict) or not isinstance(addresses, list):
        raise ValueError("a peer has a node and addresses")
    return parse_node(str(peer.get("node"))), tuple(map(str, addresses))
