"""Ledgers recomputed from genesis and blocks: whatever was tampered with is found."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.keys import PrivateKey
from protocol.ledger.apply import build_block
from protocol.ledger.genesis import compute_chain_id
from protocol.ledger.state import compute_supply
from protocol.ledger.transactions import Transfer
from roles.chain import Chain
from roles.config import UserError, write_genesis
from roles.core_effects import Commit
from testnet.network_file import NetworkFile, NodeEntry, write_network_file
from testnet.recompute import find_chains, recompute_directory
from tests.support.certificates import certify
from tests.support.disputes import Quarrel
from tests.support.ledgers import Ledger

HEIGHTS = {"validator-0": 8, "inference-0": 8, "verifier-0": 5, "client-0": 0}


def _make_story() -> Ledger:
    ledger = Ledger()
    channel = ledger.open_channel()
    ledger.do(ledger.account("inference-0"), ledger.settle(channel, ledger.work(channel)[2]))
    Quarrel(ledger, "client-0", ledger.work(channel, 2, "inference-1")[0]).condemn()
    ledger.block(after_ms=20_000)
    return ledger


@pytest.fixture(scope="module")
def story() -> Ledger:
    return _make_story()


@pytest.fixture(scope="module")
def original(story: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network's directory, all its nodes stopped."""
    root = tmp_path_factory.mktemp("network")
    for name, height in HEIGHTS.items():
        folder = root / "nodes" / name
        folder.mkdir(parents=True)
        write_genesis(folder, story.foundation.genesis)
        chain = Chain(folder / "node.db")
        chain.start()
        chain.write([Commit(*entry) for entry in story.blocks[:height]])
        chain.close()
    genesis = story.foundation.genesis
    nodes = tuple(NodeEntry(name, name.partition("-")[0], "12D3", "rm1", (), f"nodes/{name}") for name in HEIGHTS)
    told = NetworkFile("dev-7", compute_chain_id(genesis).hex(), 7, 1, json.loads(genesis.to_json()), nodes, ())
    write_network_file(root / "testnet.json", told)
    return root


@pytest.fixture
def network(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def test_an_untouched_network_holds(network: Path, story: Ledger) -> None:
    heights: list[int] = []
    result = recompute_directory(network, lambda before, block, after: heights.append(after.height))
    assert result.holds
    assert result.findings == []
    assert result.heights == HEIGHTS
    assert heights == list(range(1, 9))
    assert result.state == story.state
    assert compute_supply(result.state) == story.state.supply
    assert [(leaf.seq, leaf.amount, leaf.height) for leaf in result.leaves.values()] == [(1, 1_000_000, 2)]
    assert (result.blocks, result.transactions) == (8, 7)


def test_one_nodes_directory_is_recomputed_alone(network: Path) -> None:
    result = recompute_directory(network / "nodes" / "verifier-0")
    assert result.holds
    assert result.heights == {"verifier-0": 5}


def test_a_directory_without_a_ledger_is_said_to_be_one(tmp_path: Path) -> None:
    assert find_chains(tmp_path) == {}
    with pytest.raises(UserError, match="holds no ledger"):
        recompute_directory(tmp_path)


def _edit(network: Path, name: str, statement: str, *values: object) -> None:
    connection = sqlite3.connect(network / "nodes" / name / "node.db")
    assert connection.execute(statement, values).rowcount
    connection.commit()
    connection.close()


def _flip(network: Path, name: str, table: str, column: str, where: str, place: float) -> None:
    connection = sqlite3.connect(network / "nodes" / name / "node.db")
    data = bytearray(connection.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()[0])
    data[int(place * (len(data) - 1))] ^= 0x10
    connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (bytes(data),))
    connection.commit()
    connection.close()


def _cut_tail(network: Path) -> None:
    """Forget the last block, and put nothing in place of the state after it."""
    _edit(network, "validator-0", "DELETE FROM blocks WHERE height = 8")


def _change_genesis(network: Path) -> None:
    path = network / "nodes" / "inference-0" / "genesis.json"
    path.write_text(path.read_text().replace('"dev-7"', '"dev-8"'))


def _break_genesis(network: Path) -> None:
    (network / "nodes" / "inference-0" / "genesis.json").write_text("{}")


def _change_network_file(network: Path) -> None:
    path = network / "testnet.json"
    path.write_text(path.read_text().replace('"dev-7"', '"dev-8"'))


FIRST_ENTRY = "name = 'accounts' AND key = (SELECT min(key) FROM entries WHERE name = 'accounts')"
TAMPERINGS: dict[str, Callable[[Path], None]] = {
    "a block is dropped": lambda n: _edit(n, "inference-0", "DELETE FROM blocks WHERE height = 4"),
    "the first block is dropped": lambda n: _edit(n, "inference-0", "DELETE FROM blocks WHERE height = 1"),
    "the last block is dropped": _cut_tail,
    "all blocks are dropped": lambda n: _edit(n, "inference-0", "DELETE FROM blocks"),
    "the state is dropped": lambda n: _edit(n, "inference-0", "DELETE FROM state"),
    "the state of a node that is behind": lambda n: _flip(n, "verifier-0", "state", "frame", "id = 1", 0.5),
    "an entry of the state is dropped": lambda n: _edit(n, "inference-0", "DELETE FROM entries WHERE name = 'feeds'"),
    "certificates are swapped": lambda n: _edit(
        n,
        "inference-0",
        "UPDATE blocks SET certificate = (SELECT certificate FROM blocks WHERE height = 3) WHERE height = 4",
    ),
    "a block is put elsewhere": lambda n: _edit(
        n,
        "inference-0",
        "UPDATE blocks SET (block, certificate) = (SELECT block, certificate FROM blocks WHERE height = 3)"
        " WHERE height = 4",
    ),
    "the database is junk": lambda n: (n / "nodes/inference-0/node.db").write_bytes(b"junk" * 999) and None,
    "genesis is another": _change_genesis,
    "genesis is no genesis": _break_genesis,
    "the network file's genesis is another": _change_network_file,
    "the network file is junk": lambda n: (n / "testnet.json").write_text("junk") and None,
    "a node's database is gone": lambda n: (n / "nodes/inference-0/node.db").unlink(),
    "the state says it is of another block": lambda n: _edit(n, "inference-0", "UPDATE state SET height = 7"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_found(network: Path, name: str) -> None:
    TAMPERINGS[name](network)
    result = recompute_directory(network)
    assert not result.holds
    assert all(result.findings)


@pytest.mark.parametrize("node", ["validator-0", "verifier-0"])
@pytest.mark.parametrize("place", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize(
    ("table", "column", "where"),
    [
        ("blocks", "block", "height = 2"),
        ("blocks", "certificate", "height = 5"),
        ("state", "frame", "id = 1"),
        ("entries", "record", FIRST_ENTRY),
    ],
)
def test_a_flipped_byte_is_found_wherever_it_is(
    network: Path, node: str, place: float, table: str, column: str, where: str
) -> None:
    _flip(network, node, table, column, where, place)
    result = recompute_directory(network)
    assert not result.holds
    assert all(finding.startswith(f"{node}: ") for finding in result.findings)
    alone = recompute_directory(network / "nodes" / node)
    assert not alone.holds


def test_a_block_certified_twice_is_a_fork_and_is_found(network: Path, story: Ledger) -> None:
    """The validator itself has signed two blocks of one height, each valid for whoever sees only that one."""
    vote = PrivateKey.from_seed(story.foundation.nodes["validator-0"].vote or b"")
    before = story.blocks[6][2]
    builder = story.account("validator-0").public
    block, after, _ = build_block(before, [], before.time_ms + 77, builder)
    folder = network / "nodes" / "inference-0"
    (folder / "node.db").unlink()
    chain = Chain(folder / "node.db")
    chain.start()
    chain.write([*(Commit(*entry) for entry in story.blocks[:7]), Commit(block, certify(block.header, vote), after)])
    chain.close()
    assert recompute_directory(folder).holds
    result = recompute_directory(network)
    assert len(result.findings) == 1
    assert "is certified, and so is another one of this height" in result.findings[0]


def test_a_ledger_that_its_own_validator_has_forged_is_found(tmp_path: Path) -> None:
    """Money out of nowhere, a fitting root, a valid certificate: only recomputing shows it."""
    ledger = Ledger()
    ledger.do(ledger.spare(), Transfer(b"\x09" * 32, 5))
    block, _, after = ledger.blocks[0]
    forged = replace(block.header, state_root=bytes(32))
    vote = PrivateKey.from_seed(ledger.foundation.nodes["validator-0"].vote or b"")
    write_genesis(tmp_path, ledger.foundation.genesis)
    chain = Chain(tmp_path / "node.db")
    chain.start()
    chain.write([Commit(replace(block, header=forged), certify(forged, vote), after)])
    chain.close()
    result = recompute_directory(tmp_path)
    assert len(result.findings) == 1
    assert "state root is" in result.findings[0]
