"""Leases: storage nodes keep a blob for whoever pays, as many as it wants, for as long as the money lasts.

A storage node offers room and asks a price. A payer opens a lease on a blob by its CID and audit root and puts money
into it; the ledger draws nodes, which fetch the blob and accept once they have found the same root. Each period an
audit asks every one of them for pieces (`lease_audits`); who shows them is paid for the period, who does not pays a
penalty, and another node is drawn in its place. A term begins only if the balance covers all of it: what is promised is
paid. The rest is the payer's again when the last term is over. Source: PROTOCOL, "Store, data, schedule, votes".
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from protocol.audit import PIECE_BYTES, PIECES_MAX, Contents
from protocol.cid import CID_SIZE, unpack_cid
from protocol.errors import MalformedMessage
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import (
    InsufficientBond,
    InvalidAmount,
    InvalidLease,
    InvalidNode,
    LimitReached,
    TooFewStores,
    UnknownLease,
    UnknownNode,
)
from protocol.ledger.flows import Party, Source
from protocol.ledger.lease_places import FACTOR_MAX, STORAGE, drop, fill, list_eligible, take_place
from protocol.ledger.lease_records import Lease, Offer, Replica
from protocol.ledger.money import split_lease_pay
from protocol.ledger.params import Params
from protocol.ledger.records import DueItem
from protocol.ledger.transactions import transaction
from protocol.signing import compute_domain_prefix
from protocol.types import Digest, Exactly, Grains, UpTo, Whole

AUDIT_KIND = 60
MIB, HOUR_MS = 1024 * 1024, 3_600_000  # what a price is for
PERIODS_MAX = 1_000_000
_ID = compute_domain_prefix("lease")


@transaction(56)
@fast_dataclass(frozen=True)
class OfferSpace:
    """Room that the sender's storage node lets, and the least it takes for it; again, to change that.

    Leases it has stay as they are, also when it lets no more room than they take, or none.
    """

    room_bytes: Whole
    price: Grains  # per MiB and hour


@transaction(57)
@fast_dataclass(frozen=True)
class LeaseBlob:
    """Opens a lease, or adds to the balance of the one the sender has for this CID and says what follows its term.

    Such a second one repeats contents, price and factor. Without `renews` the lease ends with its term.
    """

    cid: Annotated[bytes, Exactly(CID_SIZE)]
    contents: Contents
    price: Grains  # per MiB and hour, to each replica
    factor: Whole  # how many replicas there are to be
    periods: Whole  # audits in a term
    renews: Annotated[int, UpTo(1)]
    amount: Grains


@transaction(58)
@fast_dataclass(frozen=True)
class KeepBlob:
    """A drawn node accepts a lease, having found its contents to be what they are said to be; or it does not.

    With `keeps` 0, one that has accepted gives its part back: another is drawn. Not while an audit waits for it.
    """

    lease: Digest
    keeps: Annotated[int, UpTo(1)]


def compute_lease_id(payer: bytes, cid: bytes) -> bytes:
    """The id of an account's lease on a CID, packed; there is at most one at a time."""
    return hashlib.sha256(_ID + payer + cid).digest()


def compute_storage_pay(size_bytes: int, price: int, time_ms: int) -> int:
    """What keeping bytes for a while costs, rounded down.

    >>> compute_storage_pay(MIB, 7_200, HOUR_MS), compute_storage_pay(MIB // 2, 7_200, 1_000)
    (7200, 1)
    """
    return size_bytes * price * time_ms // (MIB * HOUR_MS)


def compute_pay_max(size_bytes: int, price: int, params: Params) -> int:
    """The most that one replica is paid for one audit."""
    return compute_storage_pay(size_bytes, price, params.audit_ms) + params.audit_fee


def compute_term_cost(size_bytes: int, price: int, factor: int, periods: int, params: Params) -> int:
    """What a lease must hold for a term to begin."""
    return compute_pay_max(size_bytes, price, params) * factor * periods


def compute_shortfall(lease: Lease, params: Params) -> int:
    """What a lease lacks for another term after the one that runs, if each of its audits costs the most it can."""
    audit = compute_term_cost(lease.contents.size_bytes, lease.price, lease.factor, 1, params)
    return max(0, audit * (lease.left + lease.periods) - lease.balance)


def is_running_out(lease: Lease, params: Params) -> bool:
    """Whether a lease that is to be renewed has not the money for it, and ends with its term unless its payer adds."""
    return bool(lease.renews) and compute_shortfall(lease, params) > 0


def find_price(offers: Mapping[bytes, Offer], payer: bytes, size_bytes: int, factor: int) -> int | None:
    """The lowest price for which enough nodes of others let as much room; None when there are too few."""
    prices = sorted(
        offer.price
        for account, offer in offers.items()
        if account != payer and not offer.is_silent and offer.room_bytes - offer.leased_bytes >= size_bytes
    )
    return prices[factor - 1] if 0 < factor <= len(prices) else None


def apply_offer_space(draft: Draft, context: TransactionContext, body: OfferSpace) -> None:
    node = draft.nodes.get(context.account)
    if node is None:
        raise UnknownNode(context.account)
    if STORAGE not in node.roles:
        raise InvalidNode("a storage node offers space, this one has other roles")
    need = draft.params.get_bond_min(STORAGE)
    if node.bond < need:
        raise InsufficientBond(node.bond, need)
    known = draft.offers.get(context.account)
    leased_bytes = known.leased_bytes if known is not None else 0
    draft.offers.put(context.account, Offer(body.room_bytes, body.price, leased_bytes))


def apply_lease_blob(draft: Draft, context: TransactionContext, body: LeaseBlob) -> None:
    key = compute_lease_id(context.account, body.cid)
    _verify_terms(key, body)
    known = draft.leases.get(key)
    if known is not None:
        _extend(draft, context, key, known, body)
        return
    params, contents = draft.params, body.contents
    if len(draft.leases) >= params.leases_max:
        raise LimitReached("leases", len(draft.leases), params.leases_max)
    cost = compute_term_cost(contents.size_bytes, body.price, body.factor, body.periods, params)
    if body.amount < cost:
        raise InvalidAmount("what a term of the lease takes", body.amount, cost)
    draft.debit(context.account, body.amount)
    lease = Lease(
        payer=context.account,
        cid=body.cid,
        contents=contents,
        price=body.price,
        factor=body.factor,
        periods=body.periods,
        renews=body.renews,
        balance=body.amount,
        left=body.periods,
    )
    have = len(list_eligible(draft, lease))
    if have < lease.factor:
        raise TooFewStores(have, lease.factor, contents.size_bytes, lease.price)
    fill(draft, key, lease)
    draft.plan(DueItem(draft.time_ms + params.audit_ms, AUDIT_KIND, key, waking=1, graced=0))


def apply_keep_blob(draft: Draft, context: TransactionContext, body: KeepBlob) -> None:
    lease = draft.leases.get(body.lease)
    if lease is None:
        raise UnknownLease(body.lease)
    replica = find_replica(lease, context.account)
    if replica is None:
        raise InvalidLease(body.lease, "the account was not drawn for it, or another has its place by now")
    if body.keeps:
        if replica.height:
            raise InvalidLease(body.lease, "the account has accepted it already")
        take_place(draft, body.lease, lease, replica)
        return
    if replica.is_asked:
        raise InvalidLease(body.lease, "an audit waits for the account's answer")
    fill(draft, body.lease, drop(draft, lease, replica, is_passed=True))


def find_replica(lease: Lease, account: bytes) -> Replica | None:
    """An account's part in a lease."""
    return next((replica for replica in lease.replicas if replica.account == account), None)


def pay_replica(draft: Draft, lease: Lease, pay: int, account: bytes) -> int:
    """Divide what an answered audit earns; the lease's balance after it."""
    storage, treasury, burn = split_lease_pay(pay, draft.params)
    draft.earn(Source.LEASE, Party.STORAGE, account, storage)
    draft.fund(Source.LEASE, treasury)
    draft.burn(Source.LEASE, burn)
    draft.count_work(account, paid=1, earned=pay, burnt=burn)
    return lease.balance - pay


def _verify_terms(key: bytes, body: LeaseBlob) -> None:
    contents = body.contents
    try:
        unpack_cid(body.cid)
    except MalformedMessage as error:
        raise InvalidLease(key, str(error)) from error
    if not 1 <= body.factor <= FACTOR_MAX:
        raise InvalidLease(key, f"{body.factor} replicas, from 1 to {FACTOR_MAX} can be")
    if not 1 <= body.periods <= PERIODS_MAX:
        raise InvalidLease(key, f"{body.periods} audits in a term, from 1 to {PERIODS_MAX} can be")
    least = max(1, -(-contents.size_bytes // PIECE_BYTES))
    if not least <= contents.pieces <= PIECES_MAX:
        raise InvalidLease(key, f"{contents.size_bytes} bytes are {least} pieces at least, not {contents.pieces}")


def _extend(draft: Draft, context: TransactionContext, key: bytes, lease: Lease, body: LeaseBlob) -> None:
    if (body.contents, body.price, body.factor) != (lease.contents, lease.price, lease.factor):
        raise InvalidLease(key, "it is open; contents, price and factor are what they are until it ends")
    draft.debit(context.account, body.amount)
    extended = replace(lease, balance=lease.balance + body.amount, periods=body.periods, renews=body.renews)
    draft.leases.put(key, extended)
