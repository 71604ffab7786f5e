"""A test network's genesis: derived from one seed, sound, and funded."""

import pytest

from protocol.keys import PrivateKey
from protocol.ledger.genesis import Genesis, build_state, compute_chain_id
from protocol.ledger.models import explain_calibration
from testnet.genesis import DEFAULT_ROLES, NODE_BALANCE_GRAINS, build_genesis, list_shipped, load_models


def test_the_same_seed_and_time_found_the_same_network_and_another_seed_another() -> None:
    one, again, other = build_genesis(7, now_ms=5), build_genesis(7, now_ms=5), build_genesis(8, now_ms=5)

    assert one == again
    assert compute_chain_id(one.genesis) != compute_chain_id(other.genesis)
    assert not {keys.account for keys in one.nodes.values()} & {keys.account for keys in other.nodes.values()}


def test_every_node_is_registered_bonded_and_able_to_pay() -> None:
    foundation = build_genesis(1)

    state = build_state(foundation.genesis)

    assert len(foundation.nodes) == sum(DEFAULT_ROLES.values())
    for name, seeds in foundation.nodes.items():
        role = name.rpartition("-")[0]
        record = state.find_node(PrivateKey.from_seed(seeds.node).public)
        assert record is not None
        assert record.roles == (role,)
        assert record.bond >= state.params.get_bond_min(role)
        assert state.get_balance(record.account) > 0
        assert bool(record.vote) == (role == "validator") == (seeds.vote is not None)


def test_workers_and_verifiers_offer_every_model_and_can_be_drawn_from_the_first_epoch() -> None:
    genesis = build_genesis(1).genesis

    epoch = build_state(genesis).get_epoch(0)

    assert epoch is not None
    models = tuple(sorted(model.digest for model in genesis.models))
    assert models
    assert {candidate.models for candidate in epoch.get_candidates("inference")} == {models}
    assert {candidate.models for candidate in epoch.get_candidates("verifier")} == {models}


def test_spare_accounts_are_funded_and_belong_to_nobody() -> None:
    foundation = build_genesis(1, spare_accounts=3)

    state = build_state(foundation.genesis)

    accounts = [PrivateKey.from_seed(seed).public for seed in foundation.spare]
    assert len(set(accounts)) == 3
    assert not set(accounts) & set(state.nodes)
    assert {state.get_balance(account) for account in accounts} == {NODE_BALANCE_GRAINS}


def test_the_supply_is_what_was_allocated_and_survives_json() -> None:
    foundation = build_genesis(3, {"inference": 2, "client": 1}, spare_accounts=1)

    assert build_state(foundation.genesis).supply == 4 * NODE_BALANCE_GRAINS
    assert Genesis.from_json(foundation.genesis.to_json()) == foundation.genesis


@pytest.mark.parametrize("roles", [{"inference": 0}, {"inference": 251}, {"inference": -1, "client": 3}])
def test_a_network_of_no_nodes_or_too_many_is_refused(roles: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="nodes"):
        build_genesis(1, roles)


def test_float_models_that_can_be_calibrated_ship_with_their_bound() -> None:
    records = {record.name: record for record in load_models(list_shipped())}
    calibrated = {name: record.calibration[0] for name, record in records.items() if record.calibration}

    assert set(calibrated) == {"digits-cnn", "digits-fp32", "pydoc"}
    assert {name: explain_calibration(found) for name, found in calibrated.items()} == dict.fromkeys(calibrated, "")
    assert all(len(found.versions) == 3 for found in calibrated.values())
    # A row of `pydoc` is a step of a text, with some 8,000 numbers in its logits and its cache.
    assert all(found.rows >= (1_000 if name == "pydoc" else 5_000) for name, found in calibrated.items())
