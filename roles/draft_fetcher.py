"""Which parts of proposed blocks are asked for, of whom: one question per block at a time, validators in turn."""

from dataclasses import dataclass

from protocol.messages import GetDraft
from roles.drafts import BODIES_BYTES_MAX, Drafts
from roles.mempool import Mempool
from roles.role import Effect, Request, SetTimer

WANTED_MAX = 32
ASK_TIMEOUT_MS = 1_000
PAUSE_MS = 100  # after an answer that brought nothing


@dataclass
class _Wanted:
    is_repeated: bool
    peers: list[bytes]  # whom to ask, the next one first
    token: str = ""  # of the question under way


class DraftFetcher:
    """Blocks the core waits for, by id. Tokens begin with `draft-`."""

    def __init__(self) -> None:
        self._wanted: dict[bytes, _Wanted] = {}
        self._count = 0

    def clear(self) -> None:
        self._wanted.clear()

    def want(self, block_id: bytes, is_repeated: bool, peers: tuple[bytes, ...]) -> None:
        if len(self._wanted) < WANTED_MAX:
            self._wanted[block_id] = _Wanted(is_repeated, list(peers))

    def is_repeated(self, block_id: bytes) -> bool:
        wanted = self._wanted.get(block_id)
        return wanted is not None and wanted.is_repeated

    def list_wanted(self) -> tuple[bytes, ...]:
        return tuple(self._wanted)

    def drop(self, block_id: bytes) -> None:
        """It is here."""
        self._wanted.pop(block_id, None)

    def is_ours(self, token: str) -> bool:
        return token.startswith("draft-")

    def ask(self, block_id: bytes, digests: tuple[bytes, ...], now_ms: int) -> list[Effect]:
        """Ask the next peer for these bodies, or for the outline if none are named."""
        wanted = self._wanted.get(block_id)
        if wanted is None or wanted.token or not wanted.peers:
            return []
        self._count += 1
        wanted.token = f"draft-{self._count}"
        question = GetDraft(block_id, digests)
        return [Request(wanted.peers[0], "consensus", question, wanted.token, ASK_TIMEOUT_MS)]

    def end(self, token: str) -> bytes | None:
        """A question has ended; the block it was about, if that is still wanted."""
        for block_id, wanted in self._wanted.items():
            if wanted.token == token:
                wanted.token = ""
                return block_id
        return None

    def turn_from(self, block_id: bytes, peer: bytes) -> None:
        """A peer had nothing: it is asked again after all others."""
        wanted = self._wanted[block_id]
        if peer in wanted.peers:
            wanted.peers.remove(peer)
            wanted.peers.append(peer)

    def pause(self, now_ms: int) -> list[Effect]:
        return [SetTimer("fetch", now_ms + PAUSE_MS)]

    def pick_bodies(self, question: GetDraft, drafts: Drafts, pool: Mempool) -> tuple[bytes, ...]:
        """Of the transactions a peer asks for those that are here, as many as fit."""
        picked: list[bytes] = []
        bytes_left = BODIES_BYTES_MAX
        for digest in question.digests:
            data = drafts.get_body(question.block_id, digest) or pool.get(digest)
            if data is None:
                continue
            bytes_left -= len(data)
            if bytes_left < 0:
                break
            picked.append(data)
        return tuple(picked)
