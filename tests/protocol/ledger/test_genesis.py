"""Genesis: lossless as text, strict when read, and refused when no ledger could start from it."""

import json
from dataclasses import replace

import pytest

from protocol.errors import MalformedMessage
from protocol.keys import format_account
from protocol.ledger.genesis import Genesis, GenesisVesting, build_state, compute_chain_id, verify_genesis
from protocol.ledger.params import Params
from protocol.ledger.state import compute_supply
from protocol.types import INT_MAX
from testnet.genesis import build_genesis

GENESIS = build_genesis(7, now_ms=5).genesis
VESTING = GenesisVesting(bytes(32), 7, cliff_ms=5, part_ms=3, parts=2)


def test_a_genesis_survives_its_text() -> None:
    text = GENESIS.to_json()
    assert Genesis.from_json(text) == GENESIS
    assert "12D3Koo" in text
    assert '"account": "rm1' in text


def test_what_vests_for_the_treasury_says_so() -> None:
    genesis = replace(GENESIS, vesting=(replace(VESTING, account=b""),))
    assert json.loads(genesis.to_json())["vesting"][0]["account"] == "treasury"
    assert Genesis.from_json(genesis.to_json()) == genesis
    with pytest.raises(ValueError, match="the treasury's"):
        verify_genesis(replace(GENESIS, vesting=(replace(VESTING, account=b"short"),)))


def _vest(**changes: object) -> dict[str, object]:
    fields = {"account": format_account(bytes(32)), "amount": 7, "cliff_ms": 5, "part_ms": 3, "parts": 2}
    return fields | changes


def test_every_change_of_a_genesis_founds_another_chain() -> None:
    chains = {compute_chain_id(GENESIS)}
    for changed in (
        replace(GENESIS, name="other"),
        replace(GENESIS, time_ms=6),
        replace(GENESIS, seed=bytes(32)),
        replace(GENESIS, params=replace(GENESIS.params, epoch_ms=1)),
        replace(GENESIS, allocations=GENESIS.allocations[:-1]),
        replace(GENESIS, nodes=GENESIS.nodes[:-1]),
        replace(GENESIS, models=()),
        replace(GENESIS, feeds=()),
        replace(GENESIS, treasury=1),
        replace(GENESIS, vesting=(VESTING,)),
    ):
        chains.add(compute_chain_id(changed))
    assert len(chains) == 11


@pytest.mark.parametrize(
    "damage",
    [
        lambda fields: fields.pop("seed"),
        lambda fields: fields.update(more=1),
        lambda fields: fields.update(time_ms="5"),
        lambda fields: fields.update(time_ms=True),
        lambda fields: fields.update(time_ms=-1),
        lambda fields: fields.update(seed="00"),
        lambda fields: fields.update(seed="XY" * 32),
        lambda fields: fields.update(nodes={}),
        lambda fields: fields["allocations"][0].update(account="rm1qqqq"),
        lambda fields: fields["allocations"][0].update(amount=2**63),
        lambda fields: fields["nodes"][0].update(node="12D3KooX"),
        lambda fields: fields["nodes"][0].update(bond=10**18),
        lambda fields: fields["nodes"][0].update(vote=""),
        lambda fields: fields["params"].update(epoch_ms=0),
        lambda fields: fields["params"].update(settle_window_ms=2**60 + 1),
        lambda fields: fields.update(time_ms=2**61 + 1),
        lambda fields: fields.update(allocations=fields["allocations"][1:]),
        lambda fields: fields["params"].update(reporter_bp=5_001),
        lambda fields: fields["params"].update(fee_treasury_bp=7_001),
        lambda fields: fields["params"].update(inference_worker_bp=9_000),
        lambda fields: fields["params"].update(verifiers_max=1),
        lambda fields: fields["params"]["bonds"].append(fields["params"]["bonds"][0]),
        lambda fields: fields["models"].append(fields["models"][0]),
        lambda fields: fields["feeds"].append(fields["feeds"][0]),
        lambda fields: fields["allocations"].append(fields["allocations"][0]),
        lambda fields: fields["nodes"].append(fields["nodes"][0]),
        lambda fields: fields.update(treasury=2**63 - 1),
        lambda fields: fields["nodes"][0].update(onion="00"),
        lambda fields: fields["nodes"][1].update(onion="00" * 32),
        lambda fields: fields["vesting"].append(_vest(amount=0)),
        lambda fields: fields["vesting"].append(_vest(parts=0)),
        lambda fields: fields["vesting"].append(_vest(parts=10_001)),
        lambda fields: fields["vesting"].append(_vest(part_ms=0)),
        lambda fields: fields["vesting"].append(_vest(part_ms=2**60)),
        lambda fields: fields["vesting"].append(_vest(amount=2**63 - 1)),
        lambda fields: fields["vesting"].append(_vest(account="")),
        lambda fields: fields["allocations"][0].update(account="treasury"),
        lambda fields: fields["nodes"][0].update(account="treasury"),
        lambda fields: fields["params"].update(base_fee_min=0),
        lambda fields: fields["params"].update(base_fee_min=2**51),
        lambda fields: fields["params"].update(unbonding_ms=1),
    ],
)
def test_a_damaged_genesis_is_refused(damage: object) -> None:
    fields = json.loads(GENESIS.to_json())
    damage(fields)  # type: ignore[operator]
    with pytest.raises(MalformedMessage, match="not a genesis"):
        Genesis.from_json(json.dumps(fields))


def test_text_that_is_no_json_is_refused() -> None:
    for text in ("", "[]", "null", "[" * 100_000, "{"):
        with pytest.raises(MalformedMessage):
            Genesis.from_json(text)


def test_the_supply_is_what_was_allocated_bonds_included() -> None:
    state = build_state(GENESIS)
    assert compute_supply(state) == state.supply == sum(entry.amount for entry in GENESIS.allocations)
    node = GENESIS.nodes[0]
    allocated = next(entry.amount for entry in GENESIS.allocations if entry.account == node.account)
    assert state.get_balance(node.account) == allocated - node.bond


def test_a_supply_beyond_what_can_be_counted_is_refused() -> None:
    entries = tuple(replace(entry, amount=INT_MAX) for entry in GENESIS.allocations[:2])
    with pytest.raises(ValueError, match="supply exceeds"):
        verify_genesis(replace(GENESIS, nodes=(), allocations=entries))


def test_the_default_parameters_hold_together() -> None:
    params = Params()
    # Stake must outlast the evidence against it, in a network that makes blocks.
    assert params.unbonding_ms > params.epochs_kept * params.epoch_ms
