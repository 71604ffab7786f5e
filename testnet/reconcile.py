"""Hold what clients and workers have in hand against what a ledger has made of it: nothing lost, nothing twice.

Every receipt a client holds was acknowledged. It is accounted for when its voucher is paid, or when the payer has its
amount back: by a zero leaf, a forfeit batch, a leaf given back, a closed channel, or because the voucher has expired.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from protocol.codec import decode
from protocol.errors import MalformedMessage
from protocol.jobs import Voucher, compute_claim_id
from protocol.ledger.batches import BatchLeaf
from protocol.ledger.transactions import ZeroReason
from protocol.proofs.receipt_file import decode_receipt_file
from roles.workbook import JournalEntry
from testnet.batch_leaves import Claims, find_leaves
from testnet.papers import Papers, find_lapsed
from testnet.vouchers import Place, Root, Vouchers

LISTED_MAX = 20


class End(StrEnum):
    """What became of a voucher."""

    PAID = "paid"
    ZERO_LEAF = "zero leaf"
    FORFEIT = "batch forfeit"
    GIVEN_BACK = "leaf given back"
    CLOSED = "channel closed"
    EXPIRED = "expired"
    OPEN = "open"


@dataclass(frozen=True)
class Held:
    """A receipt a node holds for a voucher."""

    node: str
    voucher: Voucher
    request_id: bytes
    claim_id: bytes

    @property
    def place(self) -> Place:
        return self.voucher.channel, self.voucher.seq


@dataclass
class Reconciliation:
    """`ends` counts what became of the vouchers clients hold receipts for; `refunded` says why, where nothing was paid.

    `unheard` are grains paid for vouchers whose clients hold no receipt. `open` names those that are
    not accounted for, `findings` what must never be. `under_way` are requests and jobs that their nodes have not ended.
    `paid_claims` are the ids of claims whose vouchers are paid.
    """

    acknowledged: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    zero_leaves: Counter[str] = field(default_factory=Counter)
    unheard: int = 0
    under_way: int = 0
    open: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # receipts, by the names of their files
    paid_claims: set[bytes] = field(default_factory=set)

    @property
    def unaccounted(self) -> int:
        return self.ends[End.OPEN]

    @property
    def refunded(self) -> int:
        return self.acknowledged - self.ends[End.PAID] - self.unaccounted

    @property
    def holds(self) -> bool:
        return not self.findings and not self.unaccounted

    def describe(self) -> dict[str, Any]:
        return {
            "acknowledged": self.acknowledged,
            "paid": self.ends[End.PAID],
            "refunded": self.refunded,
            "unaccounted": self.unaccounted,
            "ends": {str(end): count for end, count in sorted(self.ends.items()) if count},
            "zero_leaves": dict(self.zero_leaves),
            "paid_unheard_grains": self.unheard,
            "under_way": self.under_way,
            "open": self.open[:LISTED_MAX],
            "findings": self.findings,
            "unreadable": self.unreadable,
        }


def reconcile(vouchers: Vouchers, papers: Mapping[str, Papers]) -> Reconciliation:
    """Go through what everybody holds. `papers` are by name of node, `vouchers` of the ledger they are held against."""
    found = Reconciliation()
    for place in vouchers.twice:
        found.findings.append(f"voucher {_name(place)} is settled twice")
    acknowledged = _collect_held(found, papers)
    answered = {place: (item.voucher.amount, item.claim_id) for place, item in acknowledged.items()}
    told = _Told(vouchers, {**_collect_jobs(found, vouchers, papers), **answered})
    for item in acknowledged.values():
        found.acknowledged += 1
        end = told.find_end(item)
        found.ends[end] += 1
        if end is End.PAID:
            found.paid_claims.add(item.claim_id)
        if end is End.ZERO_LEAF:
            found.zero_leaves[told.find_reason(item.place)] += 1
        if end is End.OPEN:
            found.open.append(f"{item.node}: request {item.request_id.hex()}, voucher {_name(item.place)}")
    found.findings += told.findings
    found.unheard = sum(amount for place, amount in told.list_paid() if place not in acknowledged)
    return found


def _collect_held(found: Reconciliation, papers: Mapping[str, Papers]) -> dict[Place, Held]:
    """The receipts that clients hold, by voucher. A worker that signs two of them for one voucher is found out."""
    held: dict[Place, Held] = {}
    for name, kept in papers.items():
        for item in _list_held(found, name, kept):
            other = held.setdefault(item.place, item)
            if other.claim_id != item.claim_id:
                found.findings.append(f"{name}: two receipts for voucher {_name(item.place)}")
    return held


def _list_held(found: Reconciliation, name: str, kept: Papers) -> Iterator[Held]:
    for key, data in kept.receipts.items():
        try:
            file = decode_receipt_file(data)
        except MalformedMessage:
            found.unreadable.append(key.hex())
            continue
        claim = file.receipt.claim
        yield Held(name, file.voucher, claim.request_id, compute_claim_id(claim))
    for request_id, record in kept.list_requests():
        found.under_way += not record.ended_ms
        for attempt in record.attempts:
            for receipt in attempt.receipts:
                yield Held(name, attempt.voucher, request_id, compute_claim_id(receipt.claim))


def _collect_jobs(found: Reconciliation, vouchers: Vouchers, papers: Mapping[str, Papers]) -> Claims:
    """What workers have claimed and still keep, whether or not a client has heard of it."""
    claimed: dict[Place, tuple[int, bytes]] = {}
    for kept in papers.values():
        entries = [decode(JournalEntry, data) for data in kept.jobs.values()]
        gone = vouchers.closed | find_lapsed(entries, vouchers.time_ms)
        for entry in entries:
            voucher = entry.item.voucher
            place = voucher.channel, voucher.seq
            channel = vouchers.channels.get(voucher.channel)
            is_settled = channel is not None and voucher.seq <= channel.settled_seq
            found.under_way += not is_settled and voucher.channel not in gone
            if entry.receipts and not entry.zero_reason:
                claimed[place] = voucher.amount, compute_claim_id(entry.receipts[0].claim)
    return claimed


class _Told:
    """What a ledger says about vouchers, with the leaves of its batches as far as the receipts at hand tell them."""

    def __init__(self, vouchers: Vouchers, claims: Claims) -> None:
        self._vouchers = vouchers
        self._leaves: dict[Place, BatchLeaf] = {}
        self._unpaid: set[Place] = set()  # of roots whose leaves nobody can tell: more is held than they come to
        self.findings: list[str] = []
        for root in vouchers.roots.values():
            leaves = find_leaves(root, claims)
            if leaves is None:
                self._compare_amounts(root, claims)
            else:
                self._leaves |= leaves

    def find_end(self, item: Held) -> End:
        vouchers, place = self._vouchers, item.place
        leaf = vouchers.leaves.get(place)
        if leaf is not None:
            if leaf.claim_id not in (b"", item.claim_id):
                self.findings.append(f"voucher {_name(place)} is paid for another receipt than {item.node} holds")
            return End.PAID if leaf.claim_id == item.claim_id else End.ZERO_LEAF
        root = vouchers.covered.get(place)
        if root is not None:
            return self._find_end_under(root, item)
        if item.voucher.channel in vouchers.closed:
            return End.CLOSED
        return End.EXPIRED if item.voucher.expiry_ms < vouchers.time_ms else End.OPEN

    def find_reason(self, place: Place) -> str:
        """Why a leaf earns nothing, in the ledger's word for it."""
        leaf = self._vouchers.leaves.get(place) or self._leaves.get(place)
        return ZeroReason(leaf.reason).name.lower() if leaf is not None and leaf.reason else "unknown"

    def list_paid(self) -> Iterator[tuple[Place, int]]:
        """Vouchers known to be paid, with their grains."""
        for place, leaf in self._vouchers.leaves.items():
            if leaf.amount:
                yield place, leaf.amount
        for place, held in self._leaves.items():
            root = self._vouchers.covered[place]
            if held.amount and not (root.is_open or root.is_forfeit or place in root.given_back):
                yield place, held.amount

    def _find_end_under(self, root: Root, item: Held) -> End:
        if root.is_open:
            return End.OPEN
        if root.is_forfeit:
            return End.FORFEIT
        if item.place in root.given_back:
            return End.GIVEN_BACK
        leaf = self._leaves.get(item.place)
        is_unpaid = item.place in self._unpaid if leaf is None else leaf.claim_id != item.claim_id
        return End.ZERO_LEAF if is_unpaid else End.PAID

    def _compare_amounts(self, root: Root, claims: Claims) -> None:
        """Of each span as much is unpaid as its receipts come to more than it does."""
        for span in root.spans:
            left = span.amount
            for place in ((span.channel, seq) for seq in range(span.first, span.last + 1)):
                amount = claims[place][0] if place in claims else 0
                if amount > left:
                    self._unpaid.add(place)
                else:
                    left -= amount


def _name(place: Place) -> str:
    return f"{place[1]} of channel {place[0].hex()[:16]}"
