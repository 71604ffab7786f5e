"""Draws everyone can repeat: the workers an account is served by, their order for a request, the verifiers of a claim,
the storage nodes of a lease.

All draws are by bond and quality, without replacement, from a seed, in whole numbers. No node weighs more than a
quarter of those it is drawn among, from five of them on (with fewer, that cap could not be met). Nodes are named by
their node keys.
"""

import hashlib
from collections.abc import Callable, Sequence

from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.job_errors import TooFewCandidates
from protocol.ledger.records import Candidate, EpochSnapshot
from protocol.signing import compute_domain_prefix

CAPPED_FROM = 5
DRAWS_MAX = 8_192  # remembered of one epoch
_WORKING_SET = compute_domain_prefix("working-set")
_ORDER = compute_domain_prefix("order")
_COMMITTEE = compute_domain_prefix("committee")
_STORES = compute_domain_prefix("stores")

Compute = Callable[[bytes, bytes, bytes, Sequence[Candidate], int], tuple[bytes, ...]]


@fast_dataclass(frozen=True)
class _Weighted:
    node: bytes
    weight: int


def compute_working_set(
    seed: bytes, account: bytes, model: bytes, candidates: Sequence[Candidate], k: int
) -> tuple[bytes, ...]:
    """The at most k inference nodes that serve `model` to `account` in the epoch of `seed`; none if nobody does."""
    eligible = [item for item in candidates if item.serves(model)]
    return _draw(_WORKING_SET + seed + account + model, eligible, min(k, len(eligible)))


def draw_working_set(snapshot: EpochSnapshot, account: bytes, model: bytes, k: int) -> tuple[bytes, ...]:
    """As `compute_working_set`, of an epoch, and remembered."""
    return _draw_once(compute_working_set, snapshot, account, model, k)


def compute_order(request_id: bytes, nodes: Sequence[bytes]) -> tuple[bytes, ...]:
    """Nodes in the order in which this request asks them: by rendezvous hash."""
    return tuple(sorted(nodes, key=lambda node: hashlib.sha256(_ORDER + request_id + node).digest()))


def compute_committee(
    seed: bytes, request_id: bytes, worker: bytes, candidates: Sequence[Candidate], k: int
) -> tuple[bytes, ...]:
    """The k verifiers of a worker's claim, in the order drawn. None is of the worker's account.

    TooFewCandidates when k accounts cannot be had: a committee never shrinks.
    """
    own = {item.account for item in candidates if item.node == worker}
    eligible = [
        item for item in candidates if "verifier" in item.roles and item.account not in own and item.node != worker
    ]
    if len(eligible) < k:
        raise TooFewCandidates(len(eligible), k)
    return _draw(_COMMITTEE + seed + request_id + worker, eligible, k)


def draw_committee(snapshot: EpochSnapshot, request_id: bytes, worker: bytes, k: int) -> tuple[bytes, ...]:
    """As `compute_committee`, of an epoch, and remembered.

    Gossip asks for a claim's verifiers, then a role, and every block that tries its settlement.
    """
    return _draw_once(compute_committee, snapshot, request_id, worker, k)


def _draw_once(compute: Compute, snapshot: EpochSnapshot, first: bytes, second: bytes, k: int) -> tuple[bytes, ...]:
    key = (compute.__name__, first, second, k)
    drawn = snapshot.draws.get(key)
    if drawn is None:
        if len(snapshot.draws) >= DRAWS_MAX:
            snapshot.draws.clear()
        drawn = snapshot.draws[key] = compute(snapshot.seed, first, second, snapshot.candidates, k)
    return drawn


def draw_stores(seed: bytes, lease: bytes, eligible: Sequence[Candidate], k: int) -> tuple[bytes, ...]:
    """The k storage nodes a lease is offered to, in the order drawn; all of the eligible if there are no more."""
    return _draw(_STORES + seed + lease, eligible, min(k, len(eligible)))


def _draw(seed: bytes, eligible: Sequence[Candidate], k: int) -> tuple[bytes, ...]:
    """k different nodes, each next one by weight among those left. An account has one node, so accounts differ too."""
    limit = sum(item.draw_weight for item in eligible)
    if len(eligible) >= CAPPED_FROM:
        limit //= 4
    # Sorted, so that the order in which candidates are handed in decides nothing. Weight 0 is still drawn, last of all.
    left = sorted((_Weighted(item.node, min(item.draw_weight, limit)) for item in eligible), key=lambda item: item.node)
    drawn: list[bytes] = []
    for number in range(k):
        total = sum(item.weight for item in left)
        point = int.from_bytes(hashlib.sha256(seed + number.to_bytes(4, "big")).digest(), "big") % max(total, 1)
        index = 0
        while index < len(left) - 1 and point >= left[index].weight:
            point -= left[index].weight
            index += 1
        drawn.append(left.pop(index).node)
    return tuple(drawn)
