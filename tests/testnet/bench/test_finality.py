"""The benchmark of finality: its network is real, its client believes nobody, and its parts count right."""

import hashlib
import json
import sys
from dataclasses import replace

import pytest

from protocol.keys import PrivateKey
from protocol.ledger.apply import apply_block, build_block
from protocol.ledger.block import InvalidCertificate, compute_block_id
from protocol.ledger.genesis import Genesis, build_state
from protocol.ledger.signatures import verify_transaction
from protocol.ledger.transactions import read_transaction
from protocol.messages import CertifiedBlock
from testnet.bench.finality import measure as bench
from testnet.bench.finality.client import Client, Sent
from testnet.bench.finality.purse import Purse
from testnet.bench.finality.shares import Sampler
from testnet.bench.ledger import make_limit
from testnet.found import NetworkPlan, found_network
from testnet.genesis import build_genesis
from tests.support.certificates import certify

GENESIS_MS = 1_700_000_000_000
VOTER = PrivateKey.from_seed(build_genesis(5, {"validator": 1}).nodes["validator-0"].vote or b"")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    directory = tmp_path_factory.mktemp("net") / "net"
    directory.mkdir()
    return found_network(NetworkPlan(directory, 5, {"validator": 1}, (), spare_accounts=3), GENESIS_MS)


class Stopped:
    """Validators that nobody has started."""

    def __init__(self, network):
        self.network = network
        self.genesis = Genesis.from_json(json.dumps(network.genesis))


@pytest.mark.full  # in `make test`: its parts, below
def test_the_network_makes_transfers_final_and_says_where_its_time_went(monkeypatch):
    monkeypatch.setattr(bench, "SECONDS", 1.5)
    monkeypatch.setattr(bench, "WARM_S", 0.5)
    monkeypatch.setattr(bench, "PER_S_MAX", 1_500)
    notes = []

    figures = bench.measure(notes.append, make_limit(50), 50, full=False, only=frozenset())

    by_name = {figure.name: figure for figure in figures}
    assert set(bench.NAMES) <= set(by_name)
    assert all(by_name[name].value > 0 and by_name[name].peer_value > 0 for name in bench.NAMES)
    assert by_name["finality_p50"].value <= by_name["finality_p99"].value
    shares = [figure.value for name, figure in by_name.items() if name.startswith("transfers_share_")]
    assert 95 <= sum(shares) <= 105
    assert by_name["transfers_share_signatures"].value > 0
    assert any("us of processor time" in note for note in notes)


def test_transfers_are_signed_by_accounts_in_turn_and_go_on_where_the_last_phase_ended(network):
    validators = Stopped(network)
    purse = Purse(validators.genesis, network.accounts)
    purse.sign(4)
    first = [read_transaction(data) for data in purse.take(3)]
    purse.sign(4)

    then = [read_transaction(data) for data in purse.take(9)]

    assert [item.nonce for item in (*first, *then)] == [0, 0, 0, 1, 1, 1, 2]
    assert len({item.account for item in first}) == 3
    assert then[0].account == first[0].account
    for item in (*first, *then):
        verify_transaction(item)


def test_the_client_takes_the_next_block_if_its_certificate_and_its_transactions_hold(network):
    validators = Stopped(network)
    state, purse = build_state(validators.genesis), Purse(validators.genesis, network.accounts)
    purse.sign(2)
    mine, other = purse.take(2)
    client = Client(validators)
    client._in_flight[hashlib.sha256(mine).digest()] = Sent(mine, 0.0)
    builder = validators.genesis.nodes[0].account
    transactions = [replace(read_transaction(data), valid_until_ms=GENESIS_MS + 10**9) for data in (mine, other)]
    block, after, dropped = build_block(state, transactions, GENESIS_MS + 100, builder, check_signatures=False)
    assert len(block.transactions) == 2, dropped
    assert apply_block(state, block, check_signatures=False) == after
    item = CertifiedBlock(block, certify(block.header, VOTER))

    for bad in (
        replace(item, block=replace(block, transactions=block.transactions[:1])),
        replace(item, certificate=replace(item.certificate, votes=())),
        replace(item, block=replace(block, header=replace(block.header, time_ms=GENESIS_MS + 101))),
    ):
        with pytest.raises(InvalidCertificate):
            client._take(bad)
    assert (client.in_flight, client.final) == (1, [])

    client._in_flight = {hashlib.sha256(data).digest(): Sent(data, 0.0) for data in (block.transactions[0], mine)}
    client._take(item)

    assert (client.in_flight, len(client.final), client.blocks) == (1, 1, 1)
    assert client._tip_id == compute_block_id(block.header)
    client._take(item)
    assert client.blocks == 1


def test_time_goes_to_the_innermost_part_at_work():
    sampler = Sampler()

    def find() -> str:
        return sampler.parts.find(sys._getframe())

    assert find() == "rest"
    source = "def ask(find):\n    return find()\n"
    for module, part in (
        ("protocol.ledger.draft", "ledger"),
        ("protocol.keys", "signatures"),
        ("roles.votelog", "disk"),
        ("roles.validator", "consensus"),
        ("p2p.gossipsub.router", "gossip"),
        ("somebody.elses", "rest"),
    ):
        names = {"__name__": module}
        exec(compile(source, module, "exec"), names)
        assert names["ask"](find) == part
