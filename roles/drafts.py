"""Blocks of the next height, proposed and not yet decided: their outlines, the bodies that are here, what is missing.

A proposal brings a block's outline, header and digests; most transactions are in the mempool by then, and the rest is
asked for. A block is checked once: the state it leads to is kept for the moment it is decided.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from protocol.ledger.apply import apply_block
from protocol.ledger.block import (
    Block,
    check_header_time,
    compute_block_id,
    compute_digests_root,
)
from protocol.ledger.fees import BLOCK_UNITS_MAX, UNIT_BYTES
from protocol.ledger.state import State
from protocol.messages import Outline
from roles.mempool import Mempool

OUTLINES_MAX = 64  # of this height and the next together
BODIES_BYTES_MAX = BLOCK_UNITS_MAX * UNIT_BYTES  # of one block


@dataclass
class Draft:
    """One proposed block. `bodies` were fetched; `result` is the block with the state after it, once it holds."""

    outline: Outline
    bodies: dict[bytes, bytes] = field(default_factory=dict)
    result: tuple[Block, State] | None = None


class Drafts:
    """By block id. `begin` says on which state the next height builds; `apply` what a block makes of it."""

    def __init__(self, apply: Callable[[State, Block], State] = apply_block) -> None:
        self._apply = apply
        self._state: State | None = None
        self._drafts: dict[bytes, Draft] = {}

    def begin(self, state: State) -> None:
        """A new height: what was proposed for it early stays."""
        self._state = state
        later = {key: draft for key, draft in self._drafts.items() if draft.outline.header.height > state.height}
        self._drafts = later

    def add_own(self, block: Block, after: State) -> bytes:
        """A block this validator has built; its id."""
        digests = tuple(hashlib.sha256(data).digest() for data in block.transactions)
        self._drafts[after.block_id] = Draft(Outline(block.header, digests), {}, (block, after))
        return after.block_id

    def add_logged(self, block: Block) -> None:
        """A block this validator voted for in an earlier life."""
        digests = tuple(hashlib.sha256(data).digest() for data in block.transactions)
        bodies = dict(zip(digests, block.transactions, strict=True))
        self._drafts[compute_block_id(block.header)] = Draft(Outline(block.header, digests), bodies)

    def note(self, outline: Outline) -> bool:
        """Keep an outline of this height or the next; False when it is none or there is no room."""
        header = outline.header
        assert self._state is not None
        if not 0 < header.height - self._state.height <= 2:
            return False
        if compute_digests_root(outline.digests) != header.transactions_root:
            return False
        block_id = compute_block_id(header)
        if block_id not in self._drafts and len(self._drafts) >= OUTLINES_MAX:
            return False
        self._drafts.setdefault(block_id, Draft(outline))
        return True

    def get_outline(self, block_id: bytes) -> Outline | None:
        draft = self._drafts.get(block_id)
        return None if draft is None else draft.outline

    def get_result(self, block_id: bytes, pool: Mempool) -> tuple[Block, State] | None:
        """A decided block and the state after it; None when some of it is missing."""
        missing = self.list_missing(block_id, pool)
        if missing is None or missing:
            return None
        self.check(block_id, pool, True, 0)
        return self._drafts[block_id].result

    def get_body(self, block_id: bytes, digest: bytes) -> bytes | None:
        """A transaction of a block that came with it."""
        draft = self._drafts.get(block_id)
        if draft is None:
            return None
        if draft.result is not None and digest in draft.outline.digests:
            return draft.result[0].transactions[draft.outline.digests.index(digest)]
        return draft.bodies.get(digest)

    def fill(self, block_id: bytes, items: Iterable[bytes]) -> bool:
        """Keep bodies of a block; whether any was missing."""
        draft = self._drafts.get(block_id)
        if draft is None:
            return False
        wanted = set(draft.outline.digests) - draft.bodies.keys()
        fresh = {hashlib.sha256(data).digest(): data for data in items}
        found = {digest: data for digest, data in fresh.items() if digest in wanted}
        size_bytes = sum(map(len, found.values())) + sum(map(len, draft.bodies.values()))
        if not found or size_bytes > BODIES_BYTES_MAX:
            return False
        draft.bodies.update(found)
        return True

    def list_missing(self, block_id: bytes, pool: Mempool) -> tuple[bytes, ...] | None:
        """Digests of bodies that are not here; None when not even the outline is."""
        draft = self._drafts.get(block_id)
        if draft is None:
            return None
        if draft.result is not None:
            return ()
        return tuple(digest for digest in draft.outline.digests if self._find(draft, digest, pool) is None)

    def check(self, block_id: bytes, pool: Mempool, is_repeated: bool, now_ms: int) -> Block:
        """The whole block, if it may be voted for. InvalidBlock says why it may not. Nothing of it may be missing."""
        draft, state = self._drafts[block_id], self._state
        assert state is not None
        header = draft.outline.header
        if not is_repeated:
            check_header_time(state, header, now_ms)
        if draft.result is None:
            bodies = [self._find(draft, digest, pool) for digest in draft.outline.digests]
            block = Block(header, tuple(data for data in bodies if data is not None))
            draft.result = block, self._apply(state, block)
        return draft.result[0]

    def _find(self, draft: Draft, digest: bytes, pool: Mempool) -> bytes | None:
        return draft.bodies.get(digest) or pool.get(digest)
