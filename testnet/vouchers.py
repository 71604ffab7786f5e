"""How vouchers ended on a ledger, gathered block by block while it is recomputed: paid, given back, or not yet.

A leaf of mode `individual` stands whole in its block. Of a batch the blocks show only which vouchers it covers and what
they come to together; `testnet.batch_leaves` finds its leaves from what clients and workers hold.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from protocol.ledger.apply import decode_transactions
from protocol.ledger.batches import BatchSettle, SettlePrivate, is_paid
from protocol.ledger.block import Block
from protocol.ledger.job_records import Batch, BatchPhase, Channel
from protocol.ledger.settlement import SettledLeaf, collect_leaves
from protocol.ledger.state import State

Place = tuple[bytes, int]  # a voucher: channel, seq


@dataclass(frozen=True)
class Span:
    """Consecutive vouchers of one channel, settled under a root. `amount` in grains, of all of them together."""

    channel: bytes
    first: int
    last: int
    amount: int


@dataclass
class Root:
    """The leaves of one `BatchSettle` or `SettlePrivate`. `is_open` while the ledger may still give some of it back."""

    transaction_id: bytes
    root: bytes
    spans: tuple[Span, ...]
    is_open: bool
    is_forfeit: bool = False
    given_back: set[Place] = field(default_factory=set)

    def __iter__(self) -> Iterator[Place]:
        return ((span.channel, seq) for span in self.spans for seq in range(span.first, span.last + 1))


@dataclass
class Vouchers:
    """Give `on_block` to `recompute`. `channels` are all there ever were, `closed` those that are gone."""

    channels: dict[bytes, Channel] = field(default_factory=dict)
    closed: set[bytes] = field(default_factory=set)
    leaves: dict[Place, SettledLeaf] = field(default_factory=dict)
    roots: dict[bytes, Root] = field(default_factory=dict)  # by transaction
    covered: dict[Place, Root] = field(default_factory=dict)
    twice: list[Place] = field(default_factory=list)  # must stay empty: the ledger remembers one number per channel
    time_ms: int = 0

    def on_block(self, before: State, block: Block, after: State) -> None:
        self.time_ms = after.time_ms
        transactions = decode_transactions(block)
        settled: dict[bytes, int] = {}  # channel -> grains taken from it by the roots of this block
        for leaf in collect_leaves(transactions, after.height):
            self._note((leaf.channel, leaf.seq))
            self.leaves[leaf.channel, leaf.seq] = leaf
        for transaction in transactions:
            body = transaction.content
            if isinstance(body, BatchSettle | SettlePrivate):
                spans = tuple(Span(run.last.channel, run.seq_first, run.last.seq, run.amount) for run in body.runs)
                root = Root(transaction.id, body.root, spans, is_open=isinstance(body, BatchSettle))
                self.roots[transaction.id] = root
                for place in root:
                    self._note(place)
                    self.covered[place] = root
                for span in spans:
                    settled[span.channel] = settled.get(span.channel, 0) + span.amount
        for key in before.batches.keys() - after.batches.keys():
            self._end(self.roots[key], before.batches[key], before, after, settled)
        self._take_undecided(before, after)
        self.closed |= before.channels.keys() - after.channels.keys()
        self.channels |= after.channels

    def _note(self, place: Place) -> None:
        if place in self.leaves or place in self.covered:
            self.twice.append(place)

    def _end(self, root: Root, batch: Batch, before: State, after: State, settled: dict[bytes, int]) -> None:
        root.is_open = False
        run = max(batch.runs, key=lambda each: each.amount - each.returned)
        channels = [state.channels.get(run.channel) for state in (before, after)]
        given = channels[0].paid + settled.get(run.channel, 0) - channels[1].paid if channels[0] and channels[1] else 0
        convicted = {after.wrong[claim_id].worker for claim_id in after.wrong.keys() - before.wrong.keys()}
        # Whoever is forfeit gives back the whole run; a payout at most single leaves of it.
        is_whole = given >= run.amount - run.returned > 0
        root.is_forfeit = batch.phase != BatchPhase.WINDOW or (batch.worker in convicted and is_whole)
        for key, check in before.checks.items():
            model = before.models.get(check.claim.model)
            if key.startswith(root.transaction_id) and not is_paid(check, model):
                root.given_back.add((check.claim.channel, check.claim.seq))

    def _take_undecided(self, before: State, after: State) -> None:
        """Leaves in disputes nobody decided: they go back to the payer while their batch goes on."""
        for key in before.disputes.keys() - after.disputes.keys():
            claim = before.disputes[key].claim
            root = self.covered.get((claim.channel, claim.seq))
            if root is None or root.transaction_id not in after.batches:
                continue
            returned = [
                sum(run.returned for run in state.batches[root.transaction_id].runs)
                for state in (before, after)
                if root.transaction_id in state.batches
            ]
            if returned[-1] > returned[0]:
                root.given_back.add((claim.channel, claim.seq))
