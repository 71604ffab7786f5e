"""Several validators as real processes: killed, cut off from each other and left to sleep, they order one ledger."""

import json
import queue
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from protocol.consensus.log import decode_record
from protocol.consensus.messages import Vote
from protocol.keys import parse_node
from protocol.ledger.block import get_validators
from protocol.ledger.state import State
from roles.chain import open_stored
from roles.config import read_config, write_config
from roles.eventlog import read_events
from roles.keystore import get_key_path, read_public
from roles.votelog import read_votes
from testnet.cli.output import ExitCode
from testnet.faults import Crash, FaultPlan
from testnet.join import make_node
from testnet.network_file import claim_account
from tests.testnet.networks import Up, run_cli, start_network, wait_until

TIMEOUT_S = 60.0
FINAL_MS_MAX = 500
HEAL_S_MAX = 10.0
KILL_EVERY_MS = 900


@dataclass
class Payer:
    """The payer's process, and what it has said."""

    process: "subprocess.Popen[str]"
    said: "queue.Queue[dict[str, Any]]" = field(default_factory=queue.Queue)

    def listen(self) -> None:
        """Take what it says, until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.put(json.loads(line))

    def order(self, validator: str, count: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{validator} {count}\n")
        self.process.stdin.flush()

    def read(self, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        return self.said.get(timeout=timeout_s)

    def pay(self, validator: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        self.order(validator, 1)
        return self.read(timeout_s)


@contextmanager
def run_payer(up: Up) -> Iterator[Payer]:
    """A client of the network that pays when it is told to."""
    network = up.network
    path = up.directory / "testnet.json"
    directory = up.directory / "payer"
    make_node(directory, network, claim_account(path, network, "payer"), "client", name="payer")
    write_config(directory, replace(read_config(directory), roles=("tests.testnet.payer:Payer",)))
    validators = [f"{node.name}={node.node}" for node in network.nodes if node.role == "validator"]
    command = [sys.executable, "-m", "tests.testnet.payer", str(directory), *validators]
    with (
        (directory / "run.log").open("ab") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            payer = Payer(process)
            threading.Thread(target=payer.listen, daemon=True).start()
            assert "ready" in payer.read()
            yield payer
        finally:
            process.kill()


def get_heights(up: Up) -> list[int]:
    return [int(up.get_status(node.name).get("height", -1)) for node in up.network.nodes if node.role == "validator"]


def are_at(up: Up, height: int) -> bool:
    return min(get_heights(up)) >= height


def assert_one_ledger(up: Up, payments: list[dict[str, Any]]) -> None:
    """Stopped, the network's ledgers recompute from genesis, are one, and hold every payment that was said to be."""
    code, found = run_cli("testnet", "check", str(up.directory))
    assert code == ExitCode.OK, found
    assert found["height"] >= max(payment["height"] for payment in payments)
    assert found["transactions"]["Transfer"] >= len(payments)


def stop(up: Up) -> None:
    up.process.send_signal(signal.SIGINT)
    up.process.communicate(timeout=TIMEOUT_S)


def fault(up: Up, *arguments: str) -> None:
    code, said = run_cli("testnet", "fault", *arguments, "--dir", str(up.directory))
    assert code == ExitCode.OK, said


def count_events(up: Up, node: str, name: str) -> int:
    directory = up.directory / "nodes" / node if node else up.directory
    return sum(event["name"] == name for event in read_events(directory))


def test_four_validators_sleep_wake_part_and_meet_again(tmp_path: Path) -> None:
    names = [f"validator-{index}" for index in range(4)]
    with start_network(tmp_path / "net", "--roles", "validator=4", "--seed", "51") as up:
        up.wait_for_go()
        with run_payer(up) as payer:
            # Asleep: whoever of the four is given a transaction, it is soon on the payer's own ledger.
            payments = [payer.pay(names[0])]
            took_ms = []
            for name in names * 2:
                wait_until(partial(are_at, up, len(payments)), "all sleep")
                payments.append(payer.pay(name))
                took_ms.append(payments[-1]["ms"])
            assert sorted(took_ms)[len(took_ms) // 2] <= FINAL_MS_MAX, took_ms

            # Two and two: nobody decides. Then all together: what waited is decided soon.
            height = len(payments)
            wait_until(partial(are_at, up, height), "all sleep")
            before = count_events(up, names[0], "view.timed_out")
            fault(up, "partition", "validator-0,validator-1", "/", "validator-2,validator-3")
            payer.order(names[0], 1)
            wait_until(lambda: count_events(up, names[0], "view.timed_out") >= before + 2, "two tries without a quorum")
            assert max(get_heights(up)) == height
            fault(up, "heal")
            payments.append(payer.read(HEAL_S_MAX))

            # Three and one: the three go on, and the fourth is with them soon after the heal.
            fault(up, "partition", "validator-3", "/", "rest")
            payments += [payer.pay(name) for name in names[:3]]
            height = payments[-1]["height"]
            assert get_heights(up)[3] < height
            fault(up, "heal")
            payments.append(payer.pay(names[3], HEAL_S_MAX))
            wait_until(partial(are_at, up, height), "the fourth validator has caught up", HEAL_S_MAX)
        stop(up)
        assert_one_ledger(up, payments)


def read_states(up: Up) -> list[State]:
    """The ledger of every validator, as it is on disk now."""
    states = []
    for node in up.network.nodes:
        if node.role == "validator":
            with open_stored(up.directory / node.directory / "node.db") as (_, stored):
                assert stored is not None
                states.append(stored.restore())
    return states


@pytest.mark.full  # in `make test` the simulator shows it
def test_a_validator_that_begins_to_lie_is_convicted_by_the_others_who_go_on_without_it(tmp_path: Path) -> None:
    names = [f"validator-{index}" for index in range(4)]
    with start_network(tmp_path / "net", "--roles", "validator=4", "--seed", "52") as up:
        up.wait_for_go()
        with run_payer(up) as payer:
            payments = [payer.pay(names[0])]
            fault(up, "kill", names[2])
            directory = up.directory / "nodes" / names[2]
            liar = "testnet.lying_validator:LyingValidator"
            write_config(directory, replace(read_config(directory), roles=(liar,)))
            fault(up, "heal")
            wait_until(partial(are_at, up, payments[-1]["height"]), "the liar is up")
            while not read_states(up)[0].tombstones:
                payments.append(payer.pay(names[len(payments) % 2]))
                assert len(payments) < 100
            payments += [payer.pay(name) for name in names[:2] * 2]
        stop(up)
        assert count_events(up, names[2], "votes.twisted")
        assert not any(count_events(up, name, "votes.twisted") for name in names if name != names[2])
        assert_one_ledger(up, payments)
        ledger = max(read_states(up), key=lambda state: state.height)
        [(account, stone)] = ledger.tombstones.items()
        bond_min = ledger.params.get_bond_min("validator")
        assert ledger.nodes[account].node == parse_node(up.get_status(names[2])["node"])
        assert stone.slashed == bond_min - ledger.nodes[account].bond > bond_min // 2


@pytest.mark.full
def test_a_validator_whose_vote_key_is_rotated_votes_with_the_new_one_from_the_next_epoch_on(tmp_path: Path) -> None:
    names = [f"validator-{index}" for index in range(4)]
    with start_network(tmp_path / "net", "--roles", "validator=4", "--seed", "53") as up:
        up.wait_for_go()
        directory = up.directory / "nodes" / names[1]
        former = read_public(get_key_path(directory, "vote"))
        with run_payer(up) as payer:
            payments = [payer.pay(names[0])]
            code, told = run_cli("keys", "rotate", "vote", "--data", str(directory))
            assert code == ExitCode.OK, told
            assert told["former"] == former.hex()

            # The epoch ends without anybody's help, and the node takes the key up by itself.
            wait_until(lambda: read_public(get_key_path(directory, "vote")).hex() == told["public"], "the new key")
            wait_until(lambda: up.get_status(names[1]).get("state") == "serving", "the node is there again")
            assert up.pids[names[1]] == up.get_status(names[1])["pid"]
            # Without its votes there would be no quorum now.
            fault(up, "kill", names[3])
            payments += [payer.pay(name) for name in names[:3]]
            fault(up, "heal")
            wait_until(partial(are_at, up, payments[-1]["height"]), "everybody is level")
        stop(up)
        assert count_votes(directory / "votes.log", bytes.fromhex(told["public"])) > 0
        assert count_votes(directory / f"votes.former-{former.hex()[:16]}.log", former) > 0
        assert read_public(directory / "keys" / f"vote.former-{former.hex()[:16]}.key") == former
        assert not any(count_events(up, name, "validator.accused") for name in names)
        assert not any(count_events(up, name, "votes.muted") for name in names)
        assert_one_ledger(up, payments)
        for state in read_states(up):
            assert bytes.fromhex(told["public"]) in {item.vote for item in get_validators(state)}


def count_votes(path: Path, key: bytes) -> int:
    """How many votes a log holds; they are all of this key."""
    held = read_votes(path.read_bytes())
    assert held is not None
    assert held.start.vote == key
    votes = [record for record in map(decode_record, held.records) if isinstance(record, Vote)]
    assert all(vote.voter == key for vote in votes)
    return len(votes)


def run_through_kills(directory: Path, validators: int, kills: int, seed: int) -> None:
    """Kill one validator after another while somebody pays; in the end nothing is missing and there is one ledger."""
    names = [f"validator-{index}" for index in range(validators)]
    rng = random.Random(seed)
    crashes = []
    for number in range(kills):
        at_ms = KILL_EVERY_MS * (number + 1)
        crashes.append(Crash(names[rng.randrange(validators)], at_ms, at_ms + rng.randrange(100, KILL_EVERY_MS - 100)))
    plan = directory.with_suffix(".json")
    plan.write_text(FaultPlan(crashes=tuple(crashes)).to_text())
    payments = []
    arguments = ("--roles", f"validator={validators}", "--seed", str(seed), "--faults", str(plan))
    with start_network(directory, *arguments) as up:
        up.wait_for_go()
        with run_payer(up) as payer:
            while count_events(up, "", "fault.ended") < kills:
                payments.append(payer.pay(names[len(payments) % validators]))
            payments.append(payer.pay(names[0]))
            height = payments[-1]["height"]
            wait_until(partial(are_at, up, height), "everybody is level", TIMEOUT_S)
        stop(up)
        assert len({payment["nonce"] for payment in payments}) == len(payments)
        assert not sum(count_events(up, name, "validator.accused") for name in names)
        assert_one_ledger(up, payments)


def test_validators_are_killed_twenty_five_times_and_nothing_that_was_paid_is_lost(tmp_path: Path) -> None:
    run_through_kills(tmp_path / "net", 4, 25, seed=61)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("validators", [4, 7])
def test_five_hundred_kills_of_four_and_of_seven_validators(tmp_path: Path, validators: int) -> None:
    for part in range(5):
        run_through_kills(tmp_path / f"net-{part}", validators, 50, seed=70 + part)
