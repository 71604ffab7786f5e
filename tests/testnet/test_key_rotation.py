"""Keys are rotated in networks of real processes that are at work: nothing is lost, and former keys count no more."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from protocol.keys import parse_node
from protocol.ledger.block import get_validators
from roles.keystore import get_key_path, read_public
from roles.lock import is_locked
from roles.rotation import get_next_path
from testnet.cli.output import ExitCode
from tests.testnet.networks import Up, run_cli, start_network, wait_until
from tests.testnet.test_kills import TIMEOUT_S, is_attested
from tests.testnet.test_validators import (
    are_at,
    assert_one_ledger,
    count_events,
    count_votes,
    fault,
    get_heights,
    read_states,
    run_payer,
    stop,
)

NAMES = tuple(f"validator-{index}" for index in range(4))
LOADED = ("--roles", "validator=4,inference=3,verifier=2,storage=1,client=1", "--load", "digits", "--rows", "500")


@dataclass(frozen=True)
class Home:
    """A node of a network, as its operator has it."""

    up: Up
    name: str

    @property
    def directory(self) -> Path:
        return self.up.directory / "nodes" / self.name

    def rotate(self, purpose: str, *words: str) -> tuple[int, dict[str, Any]]:
        code, told = run_cli("keys", "rotate", purpose, "--data", str(self.directory), *words)
        return code, told.get("error", told)

    def read_key(self, purpose: str) -> bytes:
        return read_public(get_key_path(self.directory, purpose))

    def get(self, name: str) -> Any:
        return self.up.get_status(self.name).get(name)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, f"{self.name}: {what}", TIMEOUT_S)

    def wait_for_key(self, purpose: str, public: bytes) -> None:
        self.wait_for(lambda: self.read_key(purpose) == public, f"its new {purpose} key")
        self.wait_for(lambda: self.get("state") == "serving" and self.get("keys") == {}, "it serves with it")

    def go_back_to(self, former: bytes) -> None:
        """Put a former vote key and its log in the place of those in use, as from a backup; once more undoes it."""
        mark, keys = former.hex()[:16], self.directory / "keys"
        for one, other in (
            (keys / "vote.key", keys / f"vote.former-{mark}.key"),
            (self.directory / "votes.log", self.directory / f"votes.former-{mark}.log"),
        ):
            aside = other.with_suffix(".aside")
            os.replace(one, aside)
            os.replace(other, one)
            os.replace(aside, other)


@pytest.mark.full
@pytest.mark.timeout(300)
def test_a_vote_key_and_node_keys_are_rotated_under_load_and_nothing_is_lost(tmp_path: Path) -> None:
    # At ten a second the load is still under way when the epoch ends, on however fast a machine.
    with start_network(tmp_path / "net", *LOADED, "--rate", "10", "--seed", "31") as up:
        up.wait_for_go()
        wait_until(partial(is_attested, up.follow(), 30), "some are attested", TIMEOUT_S)
        voter, worker, other = (Home(up, name) for name in ("validator-1", "inference-0", "validator-2"))
        orders = {}
        for home, purpose in ((worker, "node"), (other, "node"), (voter, "vote")):
            code, orders[home.name] = home.rotate(purpose)
            assert (code, orders[home.name]["state"]) == (ExitCode.OK, "final"), orders[home.name]
        if worker.read_key("node") == parse_node(orders[worker.name]["former"]):  # the epoch may just have ended
            code, told = worker.rotate("node")
            assert (code, told["public"]) == (ExitCode.OK, orders[worker.name]["public"])
            assert told["state"] in ("pending", "in_force")
        worker.wait_for_key("node", parse_node(orders[worker.name]["public"]))
        other.wait_for_key("node", parse_node(orders[other.name]["public"]))
        voter.wait_for_key("vote", bytes.fromhex(orders[voter.name]["public"]))
        for home in (worker, other):
            for name in [node.name for node in up.network.nodes if node.name != home.name]:
                peers = partial(Home(up, name).get, "peers")
                wait_until(lambda: orders[home.name]["public"] in peers(), f"{name} has found {home.name}")  # noqa: B023
                assert orders[home.name]["former"] not in peers()
        stdout, stderr = up.process.communicate(timeout=TIMEOUT_S)
        assert up.process.returncode == ExitCode.OK, (stdout, stderr)
        report = json.loads(stdout)
        assert all(report["bars"].values()), report["bars"]
        requests = report["requests"]
        assert requests["answered"] == requests["attested"] == requests["settled"] == 500
        assert not any(count_events(up, node.name, "validator.accused") for node in up.network.nodes)
        assert not any(count_events(up, name, "votes.muted") for name in NAMES)
        assert run_cli("testnet", "check", str(up.directory))[0] == ExitCode.OK
        client = up.directory / "nodes/client-0"
        code, verified = run_cli("verify", str(client), "--ledger", str(up.directory))
        assert (code, verified["verified"]) == (ExitCode.OK, 500)


@pytest.mark.full
@pytest.mark.timeout(400)
def test_a_rotation_goes_on_after_a_kill_at_any_time_and_a_former_key_that_is_put_back_counts_for_nothing(
    tmp_path: Path,
) -> None:
    with start_network(tmp_path / "net", "--roles", "validator=4", "--seed", "54") as up:
        up.wait_for_go()
        home = Home(up, NAMES[1])
        first = home.read_key("vote")
        with run_payer(up) as payer:
            payments = [payer.pay(NAMES[0])]

            # Killed when the key is there and its transaction on no ledger.
            for name in NAMES[2:]:
                fault(up, "kill", name)
            code, told = home.rotate("vote", "--timeout", "2s")
            assert (code, told["code"]) == (ExitCode.TIMEOUT, "timeout")
            assert "the same command goes on with the key in" in told["hint"]
            second = read_public(get_next_path(home.directory, "vote"))
            killed = home.get("pid")
            fault(up, "kill", home.name)
            wait_until(lambda: not is_locked(home.directory), "it is dead")
            code, told = home.rotate("vote")
            assert (code, told["code"]) == (ExitCode.UNREACHABLE, "not_running")
            fault(up, "heal")
            home.wait_for(lambda: home.get("pid") != killed and home.get("state") == "serving", "it is back")
            code, told = home.rotate("vote")
            assert (code, told["public"]) == (ExitCode.OK, second.hex()), told

            # Killed between the transaction and the end of the epoch.
            fault(up, "kill", home.name)
            fault(up, "heal")
            home.wait_for_key("vote", second)

            # Killed, and away when the epoch ends.
            code, told = home.rotate("vote")
            assert (code, told["state"]) == (ExitCode.OK, "final"), told
            third = bytes.fromhex(told["public"])
            assert len({first, second, third}) == 3
            fault(up, "kill", home.name)
            voters = lambda: {item.vote for item in get_validators(read_states(up)[0])}  # noqa: E731
            wait_until(lambda: third in voters(), "the epoch has ended", TIMEOUT_S)
            fault(up, "heal")
            home.wait_for_key("vote", third)

            # A former key that is put back says so, and is no part of a quorum.
            payments.append(payer.pay(NAMES[0]))
            wait_until(partial(are_at, up, payments[-1]["height"]), "everybody is level")
            fault(up, "kill", home.name)
            wait_until(lambda: not is_locked(home.directory), "it is dead")
            home.go_back_to(second)
            fault(up, "heal")
            home.wait_for(lambda: (home.get("keys") or {}).get("state") == "replaced", "it says so")
            assert third.hex() in home.get("keys")["advice"]
            fault(up, "kill", NAMES[3])
            height, before = max(get_heights(up)), count_events(up, NAMES[0], "view.timed_out")
            payer.order(NAMES[0], 1)
            wait_until(lambda: count_events(up, NAMES[0], "view.timed_out") >= before + 3, "tries without a quorum")
            assert max(get_heights(up)) == height
            fault(up, "kill", home.name)
            wait_until(lambda: not is_locked(home.directory), "it is dead")
            home.go_back_to(second)
            fault(up, "heal")
            payments.append(payer.read(TIMEOUT_S))
            wait_until(partial(are_at, up, payments[-1]["height"]), "everybody is level")
        stop(up)
        assert not any(count_events(up, name, "validator.accused") for name in NAMES)
        assert_one_ledger(up, payments)
        for former in (first, second):
            assert count_votes(home.directory / f"votes.former-{former.hex()[:16]}.log", former) >= 0
        assert count_votes(home.directory / "votes.log", third) > 0
