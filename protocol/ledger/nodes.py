"""Node records: which keys and roles an account's node has.

A record changes at once; draws and votes go by the snapshot of their epoch, so a change takes force at the next one.
Former keys keep their owner as long as a kept snapshot knows them: work done and votes cast with them find it.
"""

from dataclasses import replace

from protocol.content import format_cid
from protocol.keys import format_account, format_node
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft, Overlay
from protocol.ledger.epochs import VALIDATOR, wake_epoch_end
from protocol.ledger.errors import InsufficientBond, InvalidNode, LimitReached, UnknownNode
from protocol.ledger.pools import pay_rewards
from protocol.ledger.records import KeyOwner, NodeRecord
from protocol.ledger.staking import verify_not_the_last
from protocol.ledger.transactions import RegisterNode, RotateKeys, compute_possession_bytes


def apply_register_node(draft: Draft, context: TransactionContext, body: RegisterNode) -> None:
    """Make the account's node record, or change its roles, models and price."""
    known = draft.nodes.get(context.account)
    _verify_registration(draft, context, body, known)
    bonded = known.bond if known is not None else 0
    need = max((draft.params.get_bond_min(role) for role in body.roles), default=0)
    if bonded + body.bond < need:
        raise InsufficientBond(bonded + body.bond, need)
    _verify_possession(context, body, is_new_vote=known is None or known.vote != body.vote)
    draft.debit(context.account, body.bond)
    pay_rewards(draft, context.account)
    record = NodeRecord(
        account=context.account,
        node=body.node,
        vote=body.vote,
        roles=body.roles,
        models=body.models,
        price=body.price,
        bond=bonded + body.bond,
        changed_epoch=draft.epoch,
    )
    _change_keys(draft, known, record)


def apply_rotate_keys(draft: Draft, context: TransactionContext, body: RotateKeys) -> None:
    """Give the account's node other keys."""
    known = draft.nodes.get(context.account)
    if known is None:
        raise UnknownNode(context.account)
    if (body.node, body.vote) == (known.node, known.vote):
        raise InvalidNode("the node has these keys already")
    if len(body.vote) != len(known.vote):
        raise InvalidNode("validators have a vote key of 32 bytes, others none")
    _verify_free(draft.node_owners, "node", body.node, context.account)
    _verify_free(draft.vote_owners, "vote", body.vote, context.account)
    _verify_possession(context, body, is_new_vote=known.vote != body.vote)
    _change_keys(draft, known, replace(known, node=body.node, vote=body.vote, changed_epoch=draft.epoch))


def _verify_registration(
    draft: Draft, context: TransactionContext, body: RegisterNode, known: NodeRecord | None
) -> None:
    _verify_free(draft.node_owners, "node", body.node, context.account)
    _verify_free(draft.vote_owners, "vote", body.vote, context.account)
    if known is not None and known.node != body.node:
        raise InvalidNode(f"the account runs node {format_node(known.node)}: other keys are for RotateKeys")
    if not body.roles or len(set(body.roles)) != len(body.roles):
        raise InvalidNode("a node has at least one role and none twice")
    if len(set(body.models)) != len(body.models):
        raise InvalidNode("a model is named twice")
    unknown = next((model for model in body.models if draft.models.get(model) is None), None)
    if unknown is not None:
        raise InvalidNode(f"the ledger has no model {format_cid(unknown)}")
    validates, validated = VALIDATOR in body.roles, known is not None and VALIDATOR in known.roles
    if len(body.vote) != (32 if validates else 0):
        raise InvalidNode("validators have a vote key of 32 bytes, others none")
    if validates and validated and known is not None and body.vote != known.vote:
        raise InvalidNode(f"the validator votes by {known.vote.hex()}: other keys are for RotateKeys")
    if validates and draft.tombstones.get(context.account) is not None:
        raise InvalidNode("the account has been convicted of false votes and validates no more")
    if validated and not validates and known is not None:
        verify_not_the_last(draft, known, bond=0)
    if known is None and len(draft.nodes) >= draft.params.nodes_max:
        raise LimitReached("nodes", len(draft.nodes), draft.params.nodes_max)


def _verify_free(owners: Overlay[bytes, KeyOwner], what: str, key: bytes, account: bytes) -> None:
    owner = owners.get(key)
    if owner is not None and owner.account != account:
        raise InvalidNode(f"{what} key {key.hex()} belongs to account {format_account(owner.account)}")


def _verify_possession(context: TransactionContext, body: RegisterNode | RotateKeys, is_new_vote: bool) -> None:
    data = compute_possession_bytes(body, context.account)
    context.verify_bytes("the node key's proof of possession", body.node, data, body.proof)
    if body.vote and is_new_vote:
        context.verify_bytes("the vote key's proof of possession", body.vote, data, body.vote_proof)


def _change_keys(draft: Draft, known: NodeRecord | None, record: NodeRecord) -> None:
    """Put a record and say whose its keys are; those it had before stay its own for as long as epochs know them."""
    draft.nodes.put(record.account, record)
    for owners, before, key in (
        (draft.node_owners, known.node if known is not None else b"", record.node),
        (draft.vote_owners, known.vote if known is not None else b"", record.vote),
    ):
        if before and before != key:
            owners.put(before, KeyOwner(record.account, draft.epoch + 1))
        if key:
            owners.put(key, KeyOwner(record.account, 0))
    wake_epoch_end(draft)
