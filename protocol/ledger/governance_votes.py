"""Votes: by stake as it stood before the proposal, proven against that state's root, so that no stake votes twice.

A validator votes with its own stake and with what is delegated to it, but for what its delegators vote themselves,
before or after it. Where stake has gone meanwhile makes no difference.
"""

from dataclasses import replace
from hashlib import sha256
from typing import Annotated, Any

from protocol.codec import encode
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.governance import get_proposal
from protocol.ledger.governance_errors import AlreadyVoted, InvalidStakeProof, VotingOver
from protocol.ledger.governance_records import Ballot, Choice, Proposal, ProposalPhase, Tally
from protocol.ledger.pools import compute_delegation_key
from protocol.ledger.records import Delegation, NodeRecord, Pool
from protocol.ledger.state import State, StateHead, compute_params_digest, compute_root, compute_tree_key, get_head
from protocol.ledger.transactions import transaction
from protocol.ledger.tree import InvalidTreeProof, TreeProof, compute_proven_root, prove
from protocol.types import AtMost, Digest, UpTo

DELEGATIONS_MAX = 16  # in one vote
_NO_BALLOT = Ballot(0, 0)


@fast_dataclass(frozen=True)
class NodeStake:
    """The voter's node, and the sums of what is delegated to it, or that nothing is."""

    node: NodeRecord
    proof: TreeProof
    pool: Annotated[tuple[Pool, ...], AtMost(1)]
    pool_proof: TreeProof


@fast_dataclass(frozen=True)
class DelegatedStake:
    """What the voter has delegated to one validator."""

    delegation: Delegation
    proof: TreeProof


@transaction(69)
@fast_dataclass(frozen=True)
class CastVote:
    """One choice for some stake of the account, all of it as a rule. What has voted stays so.

    `head` and `params` (their digest) make a root of the state's tree the state root that the proposal names.
    """

    proposal: Digest
    choice: Annotated[int, UpTo(4)]
    head: StateHead
    params: Digest
    own: Annotated[tuple[NodeStake, ...], AtMost(1)]
    delegated: Annotated[tuple[DelegatedStake, ...], AtMost(DELEGATIONS_MAX)]


def build_votes(state: State, account: bytes, proposal: bytes, choice: Choice) -> tuple[CastVote, ...]:
    """Votes with all stake of an account, none if it has none; more than one where it has delegated to many.

    `state` is the proposal's snapshot: that after its block `height`.
    """
    node, pool = state.nodes.get(account), state.pools.get(account)
    proof, pool_proof = _prove(state, "nodes", account), _prove(state, "pools", account)
    own: tuple[NodeStake, ...] = ()
    if node is not None and (node.bond or pool is not None):
        own = (NodeStake(node, proof, () if pool is None else (pool,), pool_proof),)
    delegated = [
        DelegatedStake(item, _prove(state, "delegations", key))
        for key, item in sorted(state.delegations.items())
        if item.delegator == account
    ]
    head, params = get_head(state), compute_params_digest(state.params)
    return tuple(
        CastVote(proposal, choice, head, params, own if at == 0 else (), tuple(delegated[at : at + DELEGATIONS_MAX]))
        for at in range(0, max(len(delegated), len(own)), DELEGATIONS_MAX)
    )


def _prove(state: State, table: str, key: bytes) -> TreeProof:
    return prove(state.tree, compute_tree_key(table, key))


def apply_cast_vote(draft: Draft, context: TransactionContext, body: CastVote) -> None:
    proposal = get_proposal(draft, body.proposal)
    if proposal.phase != ProposalPhase.VOTING:
        raise VotingOver(body.proposal, proposal.phase)
    if not body.choice or not (body.own or body.delegated):
        raise InvalidStakeProof("a vote makes a choice, and shows some stake")
    for own in body.own:
        _verify_entry(proposal, body, "nodes", context.account, own.node, own.proof)
        pool = own.pool[0] if own.pool else None
        _verify_entry(proposal, body, "pools", context.account, pool, own.pool_proof)
        proposal = _count_own(draft, proposal, body, context.account, own)
    for item in body.delegated:
        key = compute_delegation_key(item.delegation.validator, context.account)
        _verify_entry(proposal, body, "delegations", key, item.delegation, item.proof)
        proposal = _count_delegated(draft, proposal, body, key, item.delegation)
    draft.proposals.put(body.proposal, proposal)


def _count_own(draft: Draft, proposal: Proposal, body: CastVote, account: bytes, own: NodeStake) -> Proposal:
    """A node's bond votes, and what it inherits less what has been overridden."""
    key = body.proposal + account
    known = draft.ballots.get(key) or _NO_BALLOT
    if known.choice:
        raise AlreadyVoted(body.proposal, account)
    behind = own.node.bond + sum(pool.delegated for pool in own.pool)
    if not behind:
        raise InvalidStakeProof("nothing was bonded by this node, nor delegated to it")
    stake = behind - known.overridden
    draft.ballots.put(key, replace(known, choice=body.choice, stake=stake))
    return _add(proposal, body.choice, stake)


def _count_delegated(
    draft: Draft, proposal: Proposal, body: CastVote, record: bytes, delegation: Delegation
) -> Proposal:
    """A delegator's stake votes itself, and its validator's vote is less by it, whether cast already or not."""
    key = body.proposal + record
    if draft.ballots.get(key) is not None:
        raise AlreadyVoted(body.proposal, delegation.delegator)
    amount = delegation.amount
    draft.ballots.put(key, Ballot(body.choice, amount))
    heir_key = body.proposal + delegation.validator
    heir = draft.ballots.get(heir_key) or _NO_BALLOT
    stake = heir.stake - amount if heir.choice else 0
    draft.ballots.put(heir_key, Ballot(heir.choice, stake, heir.overridden + amount))
    if heir.choice:
        proposal = _add(proposal, heir.choice, -amount)
    return _add(proposal, body.choice, amount)


def _add(proposal: Proposal, choice: int, stake: int) -> Proposal:
    name = Choice(choice).name.lower()
    tally: Tally = replace(proposal.tally, **{name: getattr(proposal.tally, name) + stake})
    return replace(proposal, tally=tally)


def _verify_entry(proposal: Proposal, body: CastVote, table: str, key: bytes, record: Any, proof: TreeProof) -> None:
    """InvalidStakeProof unless the proposal's snapshot has this record there, or none."""
    digest = None if record is None else sha256(encode(record)).digest()
    try:
        tree_root = compute_proven_root(compute_tree_key(table, key), digest, proof)
    except InvalidTreeProof as error:
        raise InvalidStakeProof(f"{table}: {error}") from error
    if compute_root(body.head, body.params, tree_root) != proposal.root:
        raise InvalidStakeProof(
            f"the entry in {table} does not lead to the state root of height {proposal.height}, against which this "
            "proposal is voted on"
        )
