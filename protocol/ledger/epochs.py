"""Epochs: who can be drawn, and by what seed, until the next one.

The epoch of a header is its time since genesis in whole epochs. When a block passes an end, its last act is the
snapshot that counts from the next block on; ends that passed while the network slept are one change. The end stands in
the due queue as a lazy item; a registration or new stake makes it a waking one, so that a node that joins a sleeping
network is drawn when the epoch it joined in is over.
"""

import hashlib
from collections.abc import Collection, Mapping

from protocol.ledger.draft import Draft
from protocol.ledger.params import Params
from protocol.ledger.pools import pay_all_rewards
from protocol.ledger.quality import compute_draw_weight, compute_quality, may_observe, may_verify
from protocol.ledger.records import (
    CANDIDATES_MAX,
    Candidate,
    DueItem,
    EpochSnapshot,
    NodeRecord,
    Onion,
    Pool,
    WorkCount,
)
from protocol.signing import compute_domain_prefix

EPOCH_KIND = 1
VALIDATOR = "validator"
VERIFIER = "verifier"
ORACLE = "oracle"
_SEED_PREFIX = compute_domain_prefix("epoch")
_NO_ID = bytes(32)


def compute_epoch_seed(seed: bytes, epoch: int) -> bytes:
    """The seed of an epoch's draws, from the ledger's seed after the block that begins it."""
    return hashlib.sha256(_SEED_PREFIX + seed + epoch.to_bytes(8, "big")).digest()


def compute_epoch(time_ms: int, genesis_ms: int, epoch_ms: int) -> int:
    """The epoch a header time falls into."""
    return (time_ms - genesis_ms) // epoch_ms


def take_snapshot(
    height: int,
    seed: bytes,
    nodes: Mapping[bytes, NodeRecord],
    pools: Mapping[bytes, Pool],
    tombstones: Collection[bytes],
    work: Mapping[bytes, WorkCount],
    params: Params,
) -> EpochSnapshot:
    """Every node in the roles its bond reaches, by account; convicted validators in others than that.

    Verifiers that were in the minority too often are left out, and everybody has the quality its record makes.

    If that leaves no validator, slashes having taken them below their bond, all of them stay: a chain without
    validators could never mend itself.
    """
    validators = _find_validators(nodes, tombstones, params)
    candidates = (
        _make_candidate(nodes[account], pools.get(account), work.get(account), params, validators)
        for account in sorted(nodes)
    )
    return EpochSnapshot(height, seed, tuple(item for item in candidates if item.roles)[:CANDIDATES_MAX])


def plan_epoch_end(draft: Draft, waking: int = 0) -> None:
    """Put the end of the running epoch into the due queue, or make it a waking item."""
    time_ms = draft.base.genesis_ms + (draft.epoch + 1) * draft.params.epoch_ms
    draft.plan(DueItem(time_ms, EPOCH_KIND, _NO_ID, waking, graced=0))


def wake_epoch_end(draft: Draft) -> None:
    """A node has something to gain from the next snapshot: let it come in time, even in a network that sleeps."""
    if not draft.is_epoch_over:  # else the snapshot ends this very block
        plan_epoch_end(draft, waking=1)


def end_epoch(draft: Draft) -> None:
    """The last act of a block that passed an epoch's end."""
    base = draft.base
    pay_all_rewards(draft)
    for account, onion in list(draft.onions.items()):
        node = draft.nodes.get(account)
        if node is None or VALIDATOR not in node.roles:
            draft.onions.delete(account)
        elif onion.next_tip:
            draft.onions.put(account, Onion(onion.next_tip, onion.next_number, b"", 0))
    draft.epoch = compute_epoch(draft.time_ms, base.genesis_ms, draft.params.epoch_ms)
    seed = compute_epoch_seed(draft.seed, draft.epoch)
    nodes, pools = dict(draft.nodes.items()), dict(draft.pools.items())
    tombstones = dict(draft.tombstones.items())
    work = dict(draft.work.items())
    snapshot = take_snapshot(draft.height + 1, seed, nodes, pools, tombstones, work, draft.params)
    draft.epochs.put(draft.epoch, snapshot)
    kept = [epoch for epoch, _ in draft.epochs.items()]
    for epoch in kept[: -draft.params.epochs_kept]:
        draft.epochs.delete(epoch)
    oldest = kept[-draft.params.epochs_kept :][0]
    for claim_id, proven in list(draft.wrong.items()):
        if proven.epoch < oldest:
            draft.wrong.delete(claim_id)
    for owners in (draft.node_owners, draft.vote_owners):
        for key, owner in list(owners.items()):
            if 0 < owner.left_epoch <= oldest:
                owners.delete(key)
    plan_epoch_end(draft)


def _find_validators(
    nodes: Mapping[bytes, NodeRecord], tombstones: Collection[bytes], params: Params
) -> frozenset[bytes]:
    """The accounts that validate: those that reach the bond, or else those without a conviction, or else all."""
    asking = [node for node in nodes.values() if VALIDATOR in node.roles]
    honest = [node for node in asking if node.account not in tombstones]
    bonded = [node for node in honest if node.bond >= params.get_bond_min(VALIDATOR)]
    return frozenset(node.account for node in bonded or honest or asking)


def _make_candidate(
    node: NodeRecord, pool: Pool | None, work: WorkCount | None, params: Params, validators: Collection[bytes]
) -> Candidate:
    roles = tuple(role for role in node.roles if _has_role(node, role, work, params, validators))
    delegated = pool.delegated if pool is not None else 0
    quality = compute_quality(work, params)
    return Candidate(
        account=node.account,
        node=node.node,
        vote=node.vote,
        roles=roles,
        models=node.models,
        price=node.price,
        weight=node.bond,
        delegated=delegated,
        quality=quality,
        draw_weight=compute_draw_weight(node.bond, quality, params),
    )


def _has_role(
    node: NodeRecord, role: str, work: WorkCount | None, params: Params, validators: Collection[bytes]
) -> bool:
    if role == VALIDATOR:
        return node.account in validators
    is_trusted = {VERIFIER: may_verify, ORACLE: may_observe}.get(role)
    return node.bond >= params.get_bond_min(role) and (is_trusted is None or is_trusted(work, params))
