"""Three of four validators, as real processes, lose their vote logs: their operators restart the ledger."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from protocol.codec import decode
from protocol.ledger.block import Block
from protocol.ledger.restart_terms import decode_restarts
from roles.chain import open_stored
from roles.lock import is_locked
from testnet.cli import main
from testnet.cli.output import ExitCode
from tests.testnet.networks import Up, start_network, wait_until
from tests.testnet.test_validators import are_at, assert_one_ledger, count_events, get_heights, run_payer, stop

NAMES = tuple(f"validator-{index}" for index in range(4))
THREE = NAMES[:3]
TIMEOUTS = 3  # views in which the one that may vote waits for others in vain


@pytest.mark.full  # in `make test` simulated: tests/sim/test_restart.py, and the commands: cli/test_recover.py
def test_operators_restart_a_ledger_whose_validators_lost_their_vote_logs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "network"
    nodes = directory / "nodes"
    with start_network(directory, "--roles", "validator=4", "--seed", "89") as up:
        up.wait_for_go()
        call = partial(run, capsys)

        def fault(what: str, which: str) -> dict[str, Any]:
            return call("testnet", "fault", what, which, "--dir", directory)

        def kill(*names: str) -> list[str]:
            found = [fault("kill", name)["faults"][0]["set"] for name in names]
            wait_until(lambda: not any(is_locked(nodes / name) for name in names), "they are dead")
            return found

        with run_payer(up) as payer:
            payments = [payer.pay(name) for name in NAMES]
            wait_until(partial(are_at, up, 1), "everybody has a block")
            early = call("ledger", "snapshot", directory / "early", "--data", nodes / NAMES[0])["height"]
            payments += [payer.pay(name) for name in NAMES]
            height = payments[-1]["height"]
            wait_until(partial(are_at, up, height), "everybody is level")
            killed = kill(*THREE)
            for name in THREE:
                (nodes / name / "votes.log").unlink()
            for which in killed:
                fault("heal", which)
            wait_until(lambda: all(count_events(up, name, "votes.muted") for name in THREE), "they are silent")

            payer.order(NAMES[3], 1)
            before = count_events(up, NAMES[3], "view.timed_out")
            wait_until(lambda: count_events(up, NAMES[3], "view.timed_out") >= before + TIMEOUTS, "a vain attempt")
            assert get_heights(up) == [height] * 4
            killed = kill(*NAMES)

            recover = partial(call, "ledger", "recover")
            offers, signed = [directory / f"{name}.offer" for name in THREE], []
            for name, offer in zip(THREE, offers, strict=True):
                recover("propose", offer, "--data", nodes / name)
            for name in THREE:
                signed.append(directory / f"{name}.signed")
                recover("sign", *offers, "--out", signed[-1], "--data", nodes / name)
            for name in THREE:
                told = recover("apply", *signed, "--data", nodes / name)
            assert told["height"] == height
            put_back(nodes / NAMES[0], directory / "early", call)
            fault("heal", killed[0])  # alone, behind the restart it is to follow
            wait_until(lambda: up.get_status(NAMES[0]).get("restart", {}).get("state") == "waits", "it says so")
            found = call("node", "status", "--data", nodes / NAMES[0])
            assert (found["state"], found["restart"]["stands_on"], found["restart"]["height"]) == (
                "syncing",
                height,
                early,
            )
            assert f"blocks {early + 1} to {height} are fetched from peers" in found["restart"]["advice"]
            for which in killed[1:3]:
                fault("heal", which)
            payments.append(payer.read())  # the one that nobody could decide: the first had to go on by itself
            wait_until(lambda: up.get_status(NAMES[0])["restart"] == {}, "its status says that it is over")
            assert payments[-1]["height"] > height
            fault("heal", killed[3])  # away all the while
            payments += [payer.pay(name) for name in NAMES]
            wait_until(partial(are_at, up, payments[-1]["height"]), "everybody is level")
        stop(up)
        assert not any(count_events(up, name, "validator.accused") for name in NAMES)
        assert_one_ledger(up, payments)
        for name in NAMES:
            assert list_restarts(up, name) == {height + 1: told["id"]}


def run(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """One command in this process, which must succeed."""
    code = main([*map(str, words), "--json"])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == ExitCode.OK, told
    return told


def put_back(directory: Path, snapshot: Path, call: Callable[..., dict[str, Any]]) -> None:
    """An older ledger in the place of a stopped node's."""
    for path in directory.glob("node.db*"):
        path.unlink()
    call("ledger", "restore", snapshot, "--data", directory)


def list_restarts(up: Up, name: str) -> dict[int, str]:
    """The restarts in a node's database, by the height of the block after it: the parent that block names."""
    with open_stored(up.directory / "nodes" / name / "node.db") as (rows, _):
        kept = [row for row in rows if decode_restarts(row.restarts)]
    return {row.height: decode(Block, row.block).header.parent.hex() for row in kept}
