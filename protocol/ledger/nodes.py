"""Node records and the stake behind them: register, bond, unbond, slash."""

from dataclasses import replace

from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.epochs import wake_epoch_end
from protocol.ledger.errors import InsufficientBond, InvalidAmount, InvalidNode, LimitReached, UnknownNode
from protocol.ledger.records import DueItem, NodeOwner, NodeRecord, Unbonding
from protocol.ledger.transactions import RegisterNode, Stake, Unstake, compute_possession_bytes
from protocol.types import BP

UNBOND_KIND = 4
VALIDATOR = "validator"


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


def apply_stake(draft: Draft, context: TransactionContext, body: Stake) -> None:
    node = _get_node(draft, context.account)
    if not body.amount:
        raise InvalidAmount("a stake", body.amount, 1)
    draft.debit(context.account, body.amount)
    draft.nodes.put(context.account, replace(node, bond=node.bond + body.amount))
    wake_epoch_end(draft)


def apply_unstake(draft: Draft, context: TransactionContext, body: Unstake) -> None:
    """Move bond to unbonding. It can be slashed until it matures."""
    node = _get_node(draft, context.account)
    if not body.amount:
        raise InvalidAmount("an unstake", body.amount, 1)
    if body.amount > node.bond:
        raise InsufficientBond(node.bond, body.amount)
    bond_min = draft.params.get_bond_min(VALIDATOR)
    if VALIDATOR in node.roles and node.bond - body.amount < bond_min:
        raise InvalidNode(f"a validator keeps {bond_min} grains bonded: others cannot take its place yet")
    under_way = sum(entry.account == context.account for _, entry in draft.unbonding.items())
    if under_way >= draft.params.unbondings_max:
        raise LimitReached("unbondings of this account", under_way, draft.params.unbondings_max)
    draft.nodes.put(context.account, replace(node, bond=node.bond - body.amount))
    draft.unbonding.put(context.id, Unbonding(context.account, body.amount))
    draft.plan(DueItem(draft.time_ms + draft.params.unbonding_ms, UNBOND_KIND, context.id, waking=0))


def mature_unbonding(draft: Draft, item: DueItem) -> None:
    """Due: pay out what is left of an unbonding."""
    entry = draft.unbonding.get(item.id)
    if entry is not None:
        draft.unbonding.delete(item.id)
        draft.credit(entry.account, entry.amount)


def slash(draft: Draft, account: bytes, reporter: bytes) -> int:
    """Take `slash_bp` of an account's bonded and unbonding stake; the amount, in grains.

    The reporter gets its share unless it is the slashed account itself; the rest burns.
    """
    params = draft.params
    node = draft.nodes.get(account)
    taken = 0
    if node is not None:
        taken = node.bond * params.slash_bp // BP
        draft.nodes.put(account, replace(node, bond=node.bond - taken))
    for key, entry in list(draft.unbonding.items()):
        if entry.account == account:
            part = entry.amount * params.slash_bp // BP
            draft.unbonding.put(key, replace(entry, amount=entry.amount - part))
            taken += part
    reward = 0 if reporter == account else taken * params.reporter_bp // BP
    draft.credit(reporter, reward)
    draft.burned += taken - reward
    return taken


def _get_node(draft: Draft, account: bytes) -> NodeRecord:
    node = draft.nodes.get(account)
    if node is None:
        raise UnknownNode(account)
    return node


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
