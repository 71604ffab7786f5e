"""Node records: which keys and roles an account's node has."""

from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.epochs import VALIDATOR, wake_epoch_end
from protocol.ledger.errors import InsufficientBond, InvalidNode, LimitReached
from protocol.ledger.pools import pay_rewards
from protocol.ledger.records import NodeOwner, NodeRecord
from protocol.ledger.transactions import RegisterNode, compute_possession_bytes


def apply_register_node(draft: Draft, context: TransactionContext, body: RegisterNode) -> None:
    """Make the account's node record, or change its roles, models and price. It counts from the next snapshot on."""
    known = draft.nodes.get(context.account)
    _verify_registration(draft, context, body, known)
    bonded = known.bond if known is not None else 0
    need = max((draft.params.get_bond_min(role) for role in body.roles), default=0)
    if bonded + body.bond < need:
        raise InsufficientBond(bonded + body.bond, need)
    data = compute_possession_bytes(body, context.account)
    context.verify_bytes("the node key's proof of possession", body.node, data, body.proof)
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
    draft.nodes.put(context.account, record)
    draft.node_owners.put(body.node, NodeOwner(context.account))
    wake_epoch_end(draft)


def _verify_registration(
    draft: Draft, context: TransactionContext, body: RegisterNode, known: NodeRecord | None
) -> None:
    owner = draft.node_owners.get(body.node)
    if owner is not None and owner.account != context.account:
        raise InvalidNode(f"node key {body.node.hex()} belongs to account {owner.account.hex()}")
    if known is not None and known.node != body.node:
        raise InvalidNode(f"the account runs node {known.node.hex()} already, and keys cannot be changed yet")
    if not body.roles or len(set(body.roles)) != len(body.roles):
        raise InvalidNode("a node has at least one role and none twice")
    if len(set(body.models)) != len(body.models):
        raise InvalidNode("a model is named twice")
    unknown = next((model for model in body.models if draft.models.get(model) is None), None)
    if unknown is not None:
        raise InvalidNode(f"the ledger has no model {unknown.hex()}")
    # One validator orders blocks for now: a second one would hold the chain up, not share the work.
    was_validator = known is not None and VALIDATOR in known.roles
    if (VALIDATOR in body.roles) != was_validator or body.vote != (known.vote if known is not None else b""):
        raise InvalidNode("validators and their vote keys are those of genesis")
    if known is None and len(draft.nodes) >= draft.params.nodes_max:
        raise LimitReached("nodes", len(draft.nodes), draft.params.nodes_max)
