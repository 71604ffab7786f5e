"""How those who cheat speak: what an honest validator would have said, put into a liar's words."""

import random

from protocol.consensus.messages import Message, Proposal, Vote
from protocol.ledger.apply import build_block
from protocol.ledger.block import Certificate, compute_transactions_root
from protocol.messages import CertifiedBlock, DraftParts, GetDraft, Outline, Proposed, Said
from testnet.consensus.liars import Liar
from testnet.consensus.seat import Seat


class Mouths:
    """`twins` are blocks by equivocators: each is told to some in place of the other."""

    def __init__(self, rng: random.Random) -> None:
        self.twins: dict[bytes, bytes] = {}
        self._outlines: dict[bytes, Outline] = {}
        self._hidden: dict[bytes, frozenset[int]] = {}  # from whom a block's builder keeps it
        self._rng = rng

    def retell(self, seat: Seat, said: Said, target: int) -> Said | None:
        """What another validator hears instead; None for nothing."""
        liar = seat.liar
        assert liar is not None
        for item in said.proposed:
            self._note(seat, liar, item)
        messages: tuple[Message, ...] = (*(item.proposal for item in said.proposed), *said.certificates, *said.votes)
        told: list[Message] = [heard for message in messages for heard in liar.say(message, target)]
        causes = () if liar.kind == "silent" else said.causes
        if not told and not causes:
            return None
        return Said(
            tuple(self._propose(item, target) for item in told if isinstance(item, Proposal)),
            tuple(item for item in told if isinstance(item, Certificate)),
            tuple(item for item in told if isinstance(item, Vote)),
            causes,
        )

    def answer(self, liar: Liar, question: GetDraft, source: int) -> DraftParts | None:
        """About a block that only liars know of, or that its builder keeps to itself; None to answer truly."""
        if source in self._hidden.get(question.block_id, ()):
            return DraftParts((), ())
        if question.block_id in self.twins and question.block_id in self._outlines and not question.digests:
            return DraftParts((self._outlines[question.block_id],), ())
        return None

    def offer(
        self, liar: Liar, items: tuple[CertifiedBlock, ...], blocks: list[CertifiedBlock]
    ) -> tuple[CertifiedBlock, ...]:
        """Blocks for somebody who is behind: from a liar in sync, one that nobody has decided."""
        if liar.kind != "lying in sync" or not items:
            return items
        block, ballot = items[0].block, items[0].certificate.ballot
        return (CertifiedBlock(block, liar.forge(ballot)),)

    def _note(self, seat: Seat, liar: Liar, item: Proposed) -> None:
        """A proposal of its own, for the first time: hide its block, or build another one to go with it."""
        block_id = item.proposal.ballot.block_id
        if not item.outlines or block_id in self._outlines:
            return
        outline = self._outlines[block_id] = item.outlines[0]
        if item.proposal.leader != liar.key:
            return
        if liar.withholds:
            self._hidden[block_id] = frozenset(other for other in range(len(liar.keys)) if self._rng.random() < 0.5)
        if liar.kind == "equivocating" and outline.header.height == seat.height + 1:
            header, state = outline.header, seat.disk.state
            block, after, _ = build_block(
                state, (), header.time_ms + 1, header.builder, check_signatures=False, reveal=header.reveal or None
            )
            assert block.header.transactions_root == compute_transactions_root(())
            self.twins[block_id], self.twins[after.block_id] = after.block_id, block_id
            self._outlines[after.block_id] = Outline(block.header, ())

    def _propose(self, proposal: Proposal, target: int) -> Proposed:
        block_id = proposal.ballot.block_id
        outline = self._outlines.get(block_id)
        is_shown = outline is not None and target not in self._hidden.get(block_id, ())
        return Proposed(proposal, (outline,) if outline is not None and is_shown else ())
