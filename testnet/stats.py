"""An activity as numbers for programs, and whether its sums are those of the ledger they were taken from."""

from typing import Any

from protocol.keys import format_account
from protocol.ledger.flows import Party, Source
from protocol.ledger.state import State, compute_supply
from testnet.activity import BATCH, INDIVIDUAL, JOB, PRIVATE, Activity
from testnet.statements import Heard, describe_statements

FEES = (Source.TRANSACTION, Source.INFERENCE, Source.LEASE, Source.APP, Source.ANSWER)
PENALTIES = (Source.STAKE, Source.BOND, Source.DEPOSIT)
ROLES = ("validator", "inference", "verifier", "oracle", "storage")
MODES = (INDIVIDUAL, JOB, BATCH, PRIVATE)


def describe_all(activity: Activity, state: State, heard: Heard) -> dict[str, Any]:
    """Both parts: what the ledger shows, and what accounts have signed, which nobody can check."""
    owners = {key: owner.account for key, owner in state.node_owners.items()}
    return {
        "from_the_ledger": describe_activity(activity, state),
        "signed_statements": describe_statements(heard, owners),
    }


def describe_activity(activity: Activity, state: State) -> dict[str, Any]:
    """What the ledger says, up to this state, its last. Amounts in grains."""
    settled, checked = sum(activity.settled.values()), sum(activity.checked.values())
    return {
        "height": state.height,
        "epoch": state.epoch,
        "time_ms": state.time_ms,
        "ran_ms": state.time_ms - state.genesis_ms,
        "blocks": activity.blocks,
        "transactions": dict(sorted(activity.transactions.items())),
        "accounts": activity.accounts.describe(),
        "customers": activity.customers.describe(),
        "receipts": {
            "settled": settled,
            "by_mode": {mode: activity.settled[mode] for mode in MODES},
            "checked": checked,
            "checked_share": round(checked / settled, 6) if settled else None,
            "void": activity.void,
            "forfeit": activity.forfeit,
        },
        "models": _list_models(activity, state),
        "apps": _list_apps(activity, state),
        "roles": [_describe_role(activity, state, role) for role in ROLES],
        "fees": {
            str(source): {str(party): activity.flows[source, party] for party in Party if activity.flows[source, party]}
            for source in FEES
        },
        "treasury": {
            "has_grains": state.treasury,
            "waiting_grains": sum(entry.treasury for entry in state.pending.values()),
            "vesting_grains": sum(
                entry.amount - entry.released for entry in state.vesting.values() if not entry.account
            ),
            "came_in_grains": {str(source): amount for source, amount in sorted(activity.payments.came_in.items())},
            "granted_grains": activity.payments.granted,
            "paid_grains": activity.payments.paid,
            "payments": activity.payments.count,
        },
        "stake": {
            "bonded_grains": sum(node.bond for node in state.nodes.values()),
            "delegated_grains": sum(item.amount for item in state.delegations.values()),
            "delegations": len(state.delegations),
            "unbonding_grains": sum(entry.amount for entry in state.unbonding.values()),
        },
        "penalties": {
            "proven_wrong": activity.proven_wrong,
            "validators_convicted": activity.tombstones,
            **{f"{source}_grains": sum(activity.flows[source, party] for party in Party) for source in PENALTIES},
        },
        "supply": {
            "genesis_grains": state.supply,
            "now_grains": compute_supply(state),
            "burned_grains": state.burned,
        },
        "findings": find_differences(activity, state),
    }


def find_differences(activity: Activity, state: State) -> list[str]:
    """Where sums over the blocks are not what the state has: nowhere, or a rule pays and does not say so."""
    began = activity.genesis or state
    burned = sum(activity.flows[source, Party.BURN] for source in Source)
    waiting = sum(entry.burn for entry in state.pending.values())
    pairs = {
        "supply": (compute_supply(state), state.supply),
        "treasury": (activity.payments.compute_balance(state), state.treasury),
        "burned": (began.burned + burned - waiting, state.burned),
        "fees by model": (_sum_models(activity), sum(activity.flows[Source.INFERENCE, party] for party in Party)),
    }
    return [f"{name}: {told} told, the state has {has}" for name, (told, has) in pairs.items() if told != has]


def _sum_models(activity: Activity) -> int:
    return activity.in_batches.fees + sum(use.fees for use in activity.models.values())


def _list_models(activity: Activity, state: State) -> list[dict[str, Any]]:
    """Those that are used or registered, most fees first; without a digest, what batches do not tell."""
    rows: list[dict[str, Any]] = []
    for digest in activity.models.keys() | state.models.keys():
        use, record = activity.models.get(digest), state.models.get(digest)
        rows.append(
            {
                "model": digest.hex(),
                "name": record.name if record is not None else "",
                "receipts": use.receipts if use is not None else 0,
                "fees_grains": use.fees if use is not None else 0,
            }
        )
    rows.sort(key=lambda row: (-row["fees_grains"], row["name"], row["model"]))
    batched = activity.in_batches
    if batched.receipts or batched.fees:
        rows.append({"model": "", "name": "", "receipts": batched.receipts, "fees_grains": batched.fees})
    return rows


def _list_apps(activity: Activity, state: State) -> list[dict[str, Any]]:
    """Those that have had an income or are registered. What was counted of a retired one is forgotten with it."""
    names = {name for name, _ in activity.app_flows} | set(state.apps)
    rows: list[dict[str, Any]] = []
    for name in names:
        record = state.apps.get(name)
        rows.append(
            {
                "app": name,
                "owner": format_account(record.owner) if record is not None else None,
                "income_grains": sum(activity.app_flows[name, party] for party in Party),
                "owner_grains": activity.app_flows[name, Party.OWNER],
                "periods_sold": record.sold if record is not None else None,
                "requests": record.requests if record is not None else None,
                "passes": sum(held.app == name for held in state.passes.values()),
            }
        )
    return sorted(rows, key=lambda row: (-row["income_grains"], row["app"]))


def _describe_role(activity: Activity, state: State, role: str) -> dict[str, Any]:
    nodes = [node for node in state.nodes.values() if role in node.roles]
    party = Party(role) if role in list(Party) else None
    return {
        "role": role,
        "nodes": len(nodes),
        "bonded_enough": len(state.get_nodes(role)),
        "bonded_grains": sum(node.bond for node in nodes),
        "earners": len(activity.earners.get(party, ())) if party is not None else 0,
        "income_grains": sum(activity.flows[source, party] for source in Source) if party is not None else 0,
    }
