"""`rolemesh ledger replay|snapshot|restore`: a ledger recomputed, carried away, put back, or refused with a reason."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from protocol.keys import PrivateKey, format_account
from protocol.ledger.restart import apply_decided, apply_restart
from protocol.ledger.transactions import Transfer
from roles import chain as chain_module
from roles.chain import Chain
from roles.config import write_genesis
from roles.core_effects import Commit, Put
from testnet.cli import main
from testnet.cli.output import ExitCode
from tests.protocol.ledger.test_restart import NAMES, build_after, make_ledger, make_restart
from tests.support.certificates import certify
from tests.support.ledgers import Ledger

BLOCKS = 6


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    ledger = Ledger()
    for number in range(BLOCKS):
        ledger.do(ledger.spare(number), Transfer(b"\x09" * 32, 5))
    home = tmp_path_factory.mktemp("original")
    write_genesis(home, ledger.foundation.genesis)
    chain = Chain(home / "node.db")
    chain.start()
    chain.write([*(Commit(*entry) for entry in ledger.blocks), Put("vouchers", b"a", b"1")])
    chain.close()
    return home


@pytest.fixture
def node(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "node"))


@pytest.fixture
def fresh(original, tmp_path):
    """The directory of a node of the same network that has no ledger yet."""
    (tmp_path / "fresh").mkdir()
    shutil.copy(original / "genesis.json", tmp_path / "fresh")
    return tmp_path / "fresh"


@pytest.fixture
def run(capsys):
    def call(*words):
        code = main(["ledger", *map(str, words), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


def change(path, statement):
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement).rowcount


def test_a_sound_ledger_is_recomputed_to_its_root(run, node):
    code, told = run("replay", node)

    assert code == ExitCode.OK
    assert (told["holds"], told["height"], told["blocks"], told["transactions"]) == (True, BLOCKS, BLOCKS, BLOCKS)


@pytest.mark.parametrize(
    ("statement", "height"),
    [
        ("UPDATE blocks SET certificate = x'00' WHERE height = 4", 4),
        ("UPDATE blocks SET block = (SELECT block FROM blocks WHERE height = 2) WHERE height = 3", 3),
        ("DELETE FROM blocks WHERE height = 2", 2),
        ("DELETE FROM entries WHERE name = 'models'", BLOCKS),
    ],
)
def test_the_first_height_that_differs_is_named(run, node, statement, height):
    change(node / "node.db", statement)

    code, told = run("replay", node)

    assert (code, told["error"]["code"]) == (ExitCode.INVARIANT_VIOLATED, "invariant_violated")
    assert told["error"]["details"]["first_height"] == height
    assert f"height {height}" in told["error"]["message"]


def test_a_snapshot_comes_back_in_another_directory_without_what_was_the_nodes_own(run, node, fresh, tmp_path):
    code, made = run("snapshot", tmp_path / "file", "--data", node)
    assert (code, made["height"]) == (ExitCode.OK, BLOCKS)

    code, told = run("restore", tmp_path / "file", "--data", fresh)

    assert (code, told["height"], told["trusted"]) == (ExitCode.OK, BLOCKS, False)
    chain = Chain(fresh / "node.db")
    restored = chain.start()
    chain.close()
    assert restored.state.height == BLOCKS
    assert restored.kv == {}
    assert restored.boot > 1_000_000_000  # on from the clock: peers remember the old count
    assert sorted(path.name for path in fresh.iterdir()) == ["genesis.json", "lock", "node.db"]
    assert run("replay", fresh)[0] == ExitCode.OK


def test_a_snapshot_that_was_changed_is_not_restored(run, node, fresh, tmp_path):
    run("snapshot", tmp_path / "file", "--data", node)
    change(tmp_path / "file", "UPDATE blocks SET certificate = x'00' WHERE height = 4")

    code, told = run("restore", tmp_path / "file", "--data", fresh)

    assert (code, told["error"]["details"]["first_height"]) == (ExitCode.INVARIANT_VIOLATED, 4)
    assert not (fresh / "node.db").exists()


def test_even_a_trusted_snapshot_must_have_the_state_its_last_block_names(run, node, fresh, tmp_path):
    run("snapshot", tmp_path / "file", "--data", node)
    change(tmp_path / "file", "DELETE FROM entries WHERE name = 'models'")

    code, told = run("restore", tmp_path / "file", "--data", fresh, "--trust")

    assert (code, told["error"]["code"]) == (ExitCode.CONFIG, "config")
    assert not (fresh / "node.db").exists()


def test_a_pruned_ledger_is_restored_on_trust_alone(run, node, fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(chain_module, "PRUNE_STEP", 1)
    pruned = Chain(tmp_path / "pruned.db", keep_blocks=3)
    pruned.start()
    with chain_module.open_stored(node / "node.db") as (blocks, _):
        assert len(list(blocks)) == BLOCKS
    ledger = Ledger()
    for number in range(BLOCKS):
        ledger.do(ledger.spare(number), Transfer(b"\x09" * 32, 5))
        pruned.write([Commit(*ledger.blocks[-1])])
    pruned.close()

    code, told = run("restore", tmp_path / "pruned.db", "--data", fresh)
    trusted = run("restore", tmp_path / "pruned.db", "--data", fresh, "--trust")

    assert code == ExitCode.INVARIANT_VIOLATED
    assert "pruned" in told["error"]["message"]
    assert (trusted[0], trusted[1]["first"], trusted[1]["height"]) == (ExitCode.OK, 4, BLOCKS)


def test_nothing_is_replaced(run, node, fresh, tmp_path):
    run("snapshot", tmp_path / "file", "--data", node)

    again = run("snapshot", tmp_path / "file", "--data", node)
    over = run("restore", tmp_path / "file", "--data", node)

    assert (again[0], again[1]["error"]["code"]) == (ExitCode.CONFIG, "file_exists")
    assert (over[0], over[1]["error"]["code"]) == (ExitCode.CONFIG, "file_exists")


def test_a_file_that_is_no_snapshot_or_of_another_schema_is_said_to_be(run, node, fresh, tmp_path):
    (tmp_path / "text").write_text("hello")
    assert run("restore", tmp_path / "text", "--data", fresh)[0] != ExitCode.OK
    run("snapshot", tmp_path / "file", "--data", node)
    with sqlite3.connect(tmp_path / "file") as connection:
        connection.execute("PRAGMA user_version = 1")

    code, told = run("restore", tmp_path / "file", "--data", fresh, "--trust")

    assert code == ExitCode.CONFIG
    assert "schema is version 1" in told["error"]["message"]


def test_a_ledger_that_was_restarted_is_recomputed_put_back_and_proven(run, tmp_path, capsys):
    ledger = make_ledger()
    restart = make_restart(ledger, *NAMES[:3])
    block, certificate, _ = build_after(ledger, apply_restart(ledger.state, restart), *NAMES[:3])
    after = apply_decided(ledger.state, block, certificate, (restart,))
    for name in ("node", "fresh"):
        (tmp_path / name).mkdir()
        write_genesis(tmp_path / name, ledger.foundation.genesis)
    chain = Chain(tmp_path / "node" / "node.db")
    chain.start()
    former = [PrivateKey.from_seed(ledger.foundation.nodes[name].vote) for name in NAMES]
    before = [Commit(each, certify(each.header, *former), state) for each, _, state in ledger.blocks]
    chain.write([*before, Commit(block, certificate, after, (restart,))])
    chain.close()

    assert run("replay", tmp_path / "node")[1]["height"] == 3
    assert run("snapshot", tmp_path / "file", "--data", tmp_path / "node")[0] == ExitCode.OK
    assert run("restore", tmp_path / "file", "--data", tmp_path / "fresh")[0] == ExitCode.OK
    chain = Chain(tmp_path / "fresh" / "node.db")
    restored = chain.start()
    assert restored.blocks(3).restarts == (restart,)
    assert restored.state == after
    chain.close()

    proof, who = tmp_path / "balance.proof", format_account(ledger.spare().public)
    assert run("prove", who, "--dir", tmp_path / "fresh", "--out", proof)[0] == ExitCode.OK
    assert main(["verify", str(proof), "--genesis", str(tmp_path / "fresh" / "genesis.json")]) == ExitCode.OK
    assert "and 1 restart on the way" in capsys.readouterr().out

    change(tmp_path / "node" / "node.db", "UPDATE blocks SET restarts = x'' WHERE height = 3")
    code, told = run("replay", tmp_path / "node")
    assert (code, told["error"]["details"]["first_height"]) == (ExitCode.INVARIANT_VIOLATED, 3)
