"""Follows the ledger: hears of heads, fetches certified blocks, applies them in order.

Gossip may lose a head: until it is level the follower asks a random peer again and again whether there is more, and
after that it hears from every peer that is asked for lost gossip how high that one is (`roles.pull`).
"""

import random
from collections.abc import Callable
from typing import Any

from protocol.codec import encode
from protocol.errors import ProtocolError
from protocol.keys import format_account
from protocol.ledger.restart import InvalidRestart, apply_decided
from protocol.ledger.restart_pending import apply_pending, is_ahead
from protocol.ledger.restart_terms import Restart, are_same, find_double_signers
from protocol.ledger.state import State
from protocol.ledger.transactions import read_transaction
from protocol.messages import Blocks, CertifiedBlock, GetBlocks, Head
from roles.core_effects import Commit, Halt, Log, NetPenalise
from roles.courier import Courier, Out, ToRoles
from roles.role import Decided, LedgerAdvanced

ASK_TIMEOUT_MS = 4_000
ASK_AGAIN_MS = 300
IDLE_MS = 2_000
BLOCKS_BYTES_MAX = 1024 * 1024
BLOCKS_MAX = 256
RECENT_MAX = 32


class Follower:
    """One node's view of the ledger. `state` is what the next block follows, `decided` that of the last one."""

    def __init__(
        self,
        state: State,
        read_block: Callable[[int], CertifiedBlock | None],
        courier: Courier,
        rng: random.Random,
        restarts: tuple[Restart, ...] = (),
    ) -> None:
        """`state` is that of the last block. The next one follows `restarts`, each of which must apply, unless they
        stand on a later block: then they wait for it.
        """
        self.decided = state
        self.pending = restarts
        self.state = apply_pending(state, restarts)
        self.is_level = False  # whether a peer had nothing newer for us
        # A validator decides most blocks itself: it waits before it fetches one, and a power cut must not undo any.
        self.is_voter = False
        self._read_block = read_block
        self._courier = courier
        self._rng = rng
        self._asked: bytes | None = None
        # A restart is loaded by who has seen that height: there is more than we have.
        self._height_heard = max([state.height, *(restart.terms.height for restart in restarts)])
        self._held: tuple[bytes, tuple[CertifiedBlock, ...]] = (b"", ())  # to apply while the next are on their way
        self._recent: dict[int, CertifiedBlock] = {}  # the newest may not be on disk yet

    @property
    def is_waiting(self) -> bool:
        """Whether restarts are loaded that stand on a block we have still to get."""
        return is_ahead(self.decided, self.pending)

    @property
    def is_synced(self) -> bool:
        return self.is_level and not self.is_waiting

    def start(self, now_ms: int) -> list[Out]:
        told = [self._tell("restart.waits")] if self.is_waiting else []
        return [*told, self._courier.wake("sync", now_ms + ASK_AGAIN_MS)]

    def on_head(self, sender: bytes, head: Head, peers: tuple[bytes, ...], now_ms: int) -> list[Out]:
        self._height_heard = max(self._height_heard, head.header.height)
        if self.is_voter:
            return [self._courier.wake("sync", now_ms + ASK_AGAIN_MS)]
        return self._ask(peers, now_ms, first=sender)

    def on_tip(self, peer: bytes, tip: int, now_ms: int) -> list[Out]:
        """A peer's word that it has so many blocks: it is asked for those we lack."""
        return self._ask((peer,), now_ms, first=peer) if tip > self.state.height else []

    def on_timer(self, peers: tuple[bytes, ...], now_ms: int) -> list[Out]:
        if self._height_heard > self.state.height or not self.is_synced:
            return [*self._ask(peers, now_ms), self._courier.wake("sync", now_ms + ASK_AGAIN_MS)]
        return [self._courier.wake("sync", now_ms + IDLE_MS)]

    def on_answer(self, peer: bytes, message: Any, peers: tuple[bytes, ...], now_ms: int) -> list[Out]:
        self._asked = None
        if not isinstance(message, Blocks):
            return []
        out = self.apply_held()
        after = self.state.height + len(message.items)
        if message.items and message.items[-1].block.header.height == after < message.tip:
            self._held = (peer, message.items)
            asked = self._ask(peers, now_ms, first=peer, after=after)
            return [*out, *asked, self._courier.wake("apply", now_ms)]
        out += self._apply_all(peer, message.items)
        if message.tip <= self.state.height:
            self.is_level = True
        if message.items and self.state.height < max(self._height_heard, message.tip):
            out += self._ask(peers, now_ms, first=peer)
        return out

    def apply_held(self) -> list[Out]:
        """Apply the blocks of an answer that has more behind it: those have been asked for by now."""
        (peer, items), self._held = self._held, (b"", ())
        return self._apply_all(peer, items)

    def _apply_all(self, peer: bytes, items: tuple[CertifiedBlock, ...]) -> list[Out]:
        out: list[Out] = []
        for item in items:
            if item.block.header.height != self.state.height + 1:
                continue
            try:
                out += self._apply(item)
            except ProtocolError as error:
                reason = f"block {item.block.header.height}: {error}"
                return [*out, NetPenalise(peer, reason), Log("block.refused", {"peer": peer, "reason": reason})]
        return out

    def on_unanswered(self, peers: tuple[bytes, ...], now_ms: int) -> list[Out]:
        failed, self._asked = self._asked, None
        others = tuple(peer for peer in peers if peer != failed)
        return self._ask(others, now_ms) if self._height_heard > self.state.height else []

    def adopt(self, decided: Decided) -> list[Out]:
        """Take over a block this node has built and certified itself."""
        header = decided.block.header
        if header.height != self.state.height + 1 or header.parent != self.state.block_id:
            return [Log("block.refused", {"height": header.height, "reason": "the ledger has moved on"})]
        self.is_level = True
        if self.pending and not self.is_waiting:
            return self._apply(CertifiedBlock(decided.block, decided.certificate, self.pending))
        return self._advance(CertifiedBlock(decided.block, decided.certificate), decided.state)

    def get_blocks(self, request: GetBlocks) -> Blocks:
        """Blocks from the asked height up, as many as fit one answer."""
        items: list[CertifiedBlock] = []
        size_bytes = 0
        for height in range(max(1, request.height), min(self.state.height, request.height + BLOCKS_MAX - 1) + 1):
            item = self._recent.get(height) or self._read_block(height)
            if item is None:
                break
            size_bytes += len(encode(item))
            if items and size_bytes > BLOCKS_BYTES_MAX:
                break
            items.append(item)
        return Blocks(self.state.height, tuple(items))

    def _ask(
        self, peers: tuple[bytes, ...], now_ms: int, first: bytes | None = None, after: int | None = None
    ) -> list[Out]:
        if self._asked is not None or not (peers or first):
            return []
        peer = first if first is not None and first in peers else self._rng.choice(peers) if peers else first
        assert peer is not None
        self._asked = peer
        request = GetBlocks((self.state.height if after is None else after) + 1)
        return [self._courier.request(peer, "sync", request, "sync", ASK_TIMEOUT_MS, now_ms)]

    def _apply(self, item: CertifiedBlock) -> list[Out]:
        after = apply_decided(self.decided, item.block, item.certificate, item.restarts, check_signatures=False)
        # Later restarts may go on from those that are loaded here; instead of them there may be none.
        followed = item.restarts[: len(self.pending)]
        if self.pending and not self.is_waiting and not are_same(followed, self.pending):
            height, blamed = self.decided.height, _find_blamed(self.pending, item.restarts)
            what = f"block {height + 1} is decided otherwise than by the restart file here, which would take it back"
            return [Halt(what + (f"; both restarts are signed by {', '.join(blamed)}" if blamed else ""))]
        return self._advance(item, after)

    def _advance(self, item: CertifiedBlock, state: State) -> list[Out]:
        was_waiting = self.is_waiting
        self.decided = state
        if not was_waiting:
            self.pending = ()
        self._height_heard = max(self._height_heard, state.height)
        self._recent[state.height] = item
        self._recent.pop(state.height - RECENT_MAX, None)
        commit = Commit(item.block, item.certificate, state, item.restarts, is_synced=self.is_voter)
        try:
            self.state = apply_pending(state, self.pending)
        except InvalidRestart as error:
            return [commit, Halt(f"the restart file here cannot be used at height {state.height}: {error}")]
        transactions = tuple(read_transaction(data) for data in item.block.transactions)
        reached = [self._tell("restart.reached")] if was_waiting and not self.is_waiting else []
        return [commit, *reached, ToRoles(LedgerAdvanced(self.state, transactions, item.certificate))]

    def _tell(self, name: str) -> Log:
        terms = self.pending[-1].terms
        fields = {"generation": terms.generation, "stands_on": terms.height, "height": self.decided.height}
        return Log(name, fields)


def _find_blamed(ours: tuple[Restart, ...], theirs: tuple[Restart, ...]) -> list[str]:
    """Whoever has signed two restarts of one generation."""
    blamed = {account for one in ours for other in theirs for account in find_double_signers(one, other)}
    return sorted(map(format_account, blamed))
