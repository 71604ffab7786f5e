"""Gets blobs by CID: from disk, else from the storage nodes on the ledger, hash-checked, one after the other."""

import random
from dataclasses import dataclass, field
from typing import Any

from protocol.content import compute_digest, format_cid
from protocol.ledger.state import State
from protocol.messages import Blob, GetBlob
from roles.core_effects import LoadBlob, Log, NetPenalise, PutBlob
from roles.courier import Courier, Out, ToRoles
from roles.role import Fetched

FETCH_TIMEOUT_MS = 10_000
ROUNDS_MAX = 8  # times through all providers before giving up
ROUND_WAIT_MS = 500
FETCHES_MAX = 256


@dataclass
class _Fetch:
    roles: list[int] = field(default_factory=list)
    is_local: bool = True
    providers: list[bytes] = field(default_factory=list)
    rounds: int = 0


class BlobFetcher:
    """The blobs this node is looking for, by digest."""

    def __init__(self, node: bytes, courier: Courier, rng: random.Random) -> None:
        self._node = node
        self._courier = courier
        self._rng = rng
        self._fetches: dict[bytes, _Fetch] = {}

    def fetch(self, digest: bytes, role: int, is_local: bool) -> list[Out]:
        """Look on disk first. `is_local` looks nowhere else."""
        fetch = self._fetches.get(digest)
        if fetch is None:
            if len(self._fetches) >= FETCHES_MAX:
                return [ToRoles(Fetched(format_cid(digest), None, f"{FETCHES_MAX} fetches are under way"), role)]
            fetch = self._fetches[digest] = _Fetch()
        fetch.roles.append(role)
        fetch.is_local = fetch.is_local and is_local
        return [LoadBlob(digest)] if len(fetch.roles) == 1 else []

    def on_loaded(self, digest: bytes, data: bytes | None, state: State, now_ms: int) -> list[Out]:
        fetch = self._fetches.get(digest)
        if fetch is None:
            return []
        if data is not None:
            return self._finish(digest, data, "")
        if fetch.is_local:
            return self._finish(digest, None, "not on this node")
        return self._ask_next(digest, fetch, state, now_ms)

    def on_answer(self, digest: bytes, peer: bytes, message: Any, state: State, now_ms: int) -> list[Out]:
        fetch = self._fetches.get(digest)
        if fetch is None:
            return []
        if not isinstance(message, Blob):
            return self._ask_next(digest, fetch, state, now_ms)
        if compute_digest(message.data) != digest:
            penalty = NetPenalise(peer, f"sent other bytes than {format_cid(digest)}")
            return [penalty, *self._ask_next(digest, fetch, state, now_ms)]
        fields = {"digest": digest, "cid": format_cid(digest), "bytes": len(message.data), "blocks": 1, "from": peer}
        return [PutBlob(digest, message.data), Log("blob.fetched", fields), *self._finish(digest, message.data, "")]

    def on_unanswered(self, digest: bytes, state: State, now_ms: int) -> list[Out]:
        fetch = self._fetches.get(digest)
        return self._ask_next(digest, fetch, state, now_ms) if fetch else []

    on_timer = on_unanswered

    def _ask_next(self, digest: bytes, fetch: _Fetch, state: State, now_ms: int) -> list[Out]:
        if not fetch.providers:
            fetch.rounds += 1
            if fetch.rounds > ROUNDS_MAX:
                return self._finish(digest, None, "no storage node has it")
            fetch.providers = [node.node for node in state.get_nodes("storage") if node.node != self._node]
            self._rng.shuffle(fetch.providers)
            if fetch.rounds > 1 or not fetch.providers:
                return [self._courier.wake(f"fetch:{digest.hex()}", now_ms + ROUND_WAIT_MS * fetch.rounds)]
        peer = fetch.providers.pop()
        token = f"fetch:{digest.hex()}"
        return [self._courier.request(peer, "blob", GetBlob(digest), token, FETCH_TIMEOUT_MS, now_ms)]

    def _finish(self, digest: bytes, data: bytes | None, error: str) -> list[Out]:
        fetch = self._fetches.pop(digest)
        return [ToRoles(Fetched(format_cid(digest), data, error), role) for role in fetch.roles]
