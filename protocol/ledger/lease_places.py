"""Who keeps a lease: nodes are drawn for its free places, get some time to accept, and are replaced when they do not.

Of the nodes in a lease those count that have let no audit pass, or have yet to accept. When they are fewer than the
factor others are drawn, so that a replica is made anew as soon as one has missed an audit; whoever missed it stays, and
can answer the next one, until the new one is there.
"""

from dataclasses import replace

from protocol.committee import draw_stores
from protocol.ledger.draft import Draft
from protocol.ledger.lease_records import PASSED_MAX, REPLICAS_MAX, Lease, Replica
from protocol.ledger.records import Candidate, DueItem

STORAGE = "storage"
PLACE_KIND = 62
KEEPING_PARTS = 2  # a node that is fined for a while keeps the leases it has with half of the bond
FACTOR_MAX = REPLICAS_MAX // 2
BYTES_PER_MS = 1024  # that a node can be expected to fetch


def list_eligible(draft: Draft, lease: Lease) -> list[Candidate]:
    """Nodes that can be drawn for a lease now: with room, for its price, of other accounts than those in it."""
    snapshot = draft.epochs.get(draft.epoch)
    if snapshot is None:
        return []
    taken = {lease.payer, *lease.passed, *(replica.account for replica in lease.replicas)}
    return [
        candidate
        for candidate in snapshot.get_candidates(STORAGE)
        if candidate.account not in taken and is_storing(draft, candidate.account) and _lets(draft, candidate, lease)
    ]


def is_storing(draft: Draft, account: bytes, bond_parts: int = 1) -> bool:
    """Whether an account runs a storage node, with the bond that asks for, or a part of it."""
    node = draft.nodes.get(account)
    if node is None or STORAGE not in node.roles:
        return False
    return node.bond * bond_parts >= draft.params.get_bond_min(STORAGE)


def fill(draft: Draft, key: bytes, lease: Lease) -> None:
    """Keep a lease with as many nodes as it asks for, as far as there are any: draw more, or call some off."""
    sound = [replica for replica in lease.replicas if not replica.misses]
    offered = [replica for replica in sound if not replica.height]
    for replica in offered[: max(0, len(sound) - lease.factor)]:
        lease = drop(draft, lease, replica)
    missing = lease.factor - len(sound)
    if missing > 0 and lease.left:
        lease = _draw(draft, key, lease, missing)
    draft.leases.put(key, lease)


def take_place(draft: Draft, key: bytes, lease: Lease, replica: Replica) -> None:
    """A drawn node has the blob: it is paid from now on, and takes the place of one that misses audits."""
    accepted = replace(replica, height=draft.height, since_ms=draft.time_ms, deadline_ms=0)
    lease = put_replica(lease, accepted)
    hear(draft, replica.account)
    holding = [item for item in lease.replicas if item.height]
    worst = max(holding, key=lambda item: item.misses)
    if len(holding) > lease.factor:
        lease = drop(draft, lease, worst, is_passed=True)
    draft.leases.put(key, lease)


def close_places(draft: Draft, item: DueItem) -> None:
    """Due: drawn nodes that have not accepted by now lose their place to others, and are not drawn for a while."""
    lease = draft.leases.get(item.id)
    if lease is None:
        return
    for replica in lease.replicas:
        if not replica.height and replica.deadline_ms <= draft.time_ms:
            lease = drop(draft, lease, replica)
            hush(draft, replica.account)
    fill(draft, item.id, lease)


def drop(draft: Draft, lease: Lease, replica: Replica, is_passed: bool = False) -> Lease:
    """The lease without a node; its room is free again. Passed, it is not drawn for it before the next audit."""
    offer = draft.offers.get(replica.account)
    if offer is not None:
        free = replace(offer, leased_bytes=offer.leased_bytes - lease.contents.size_bytes)
        draft.offers.put(replica.account, free)
    left = tuple(item for item in lease.replicas if item.account != replica.account)
    passed = (*lease.passed, replica.account)[-PASSED_MAX:] if is_passed else lease.passed
    return replace(lease, replicas=left, passed=passed)


def put_replica(lease: Lease, replica: Replica) -> Lease:
    """The lease with a node's part in it changed."""
    changed = (replica if item.account == replica.account else item for item in lease.replicas)
    return replace(lease, replicas=tuple(changed))


def hush(draft: Draft, account: bytes) -> None:
    """A node has let a deadline pass: it is drawn no more until it is heard of again."""
    offer = draft.offers.get(account)
    if offer is not None:
        draft.offers.put(account, replace(offer, is_silent=1))


def hear(draft: Draft, account: bytes) -> None:
    """A node has kept a deadline."""
    offer = draft.offers.get(account)
    if offer is not None and offer.is_silent:
        draft.offers.put(account, replace(offer, is_silent=0))


def _lets(draft: Draft, candidate: Candidate, lease: Lease) -> bool:
    offer = draft.offers.get(candidate.account)
    return (
        offer is not None
        and not offer.is_silent
        and offer.price <= lease.price
        and offer.room_bytes - offer.leased_bytes >= lease.contents.size_bytes
    )


def _draw(draft: Draft, key: bytes, lease: Lease, missing: int) -> Lease:
    """Draw nodes for free places, by the seed of the last block."""
    eligible = list_eligible(draft, lease)
    seed = draft.base.seed + lease.draws.to_bytes(8, "big")
    drawn = set(draw_stores(seed, key, eligible, missing))
    size_bytes = lease.contents.size_bytes
    deadline_ms = draft.time_ms + draft.params.lease_accept_ms + size_bytes // BYTES_PER_MS
    replicas = lease.replicas
    for candidate in eligible:
        if candidate.node in drawn:
            replicas = (*replicas, Replica(candidate.account, deadline_ms))
            offer = draft.offers.get(candidate.account)
            assert offer is not None  # it would not be eligible
            draft.offers.put(candidate.account, replace(offer, leased_bytes=offer.leased_bytes + size_bytes))
    if drawn:
        draft.plan(DueItem(deadline_ms, PLACE_KIND, key, waking=1, graced=0))
    return replace(lease, replicas=replicas, draws=lease.draws + 1)
