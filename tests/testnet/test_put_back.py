"""Validators that were pruned, killed, damaged and put back, in a network that goes on: each of them votes again."""

import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from roles.chain import DATABASE_NAME, open_stored
from roles.config import EXIT_CONFIG, read_config, write_config
from roles.eventlog import read_events
from testnet.cli.output import ExitCode
from tests.testnet.networks import CLI, COMMAND_TIMEOUT_S, kill_hard, run_cli, run_node_process, wait_until
from tests.testnet.test_catch_up import found_behind, get_height

HEIGHTS = 1_300
KEPT = 1_000


class Validators:
    """Those of a network, each as a process that can be killed and started again."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.network = found_behind(directory, HEIGHTS)
        self.homes = [directory / node.directory for node in self.network.nodes]
        self._stack = stack
        self._pids: dict[int, int] = {}

    def start(self, *numbers: int) -> None:
        """Start some, and wait until they are as far as the others."""
        height = max((get_height(self.homes[number]) for number in self._pids), default=HEIGHTS)
        for number in numbers:
            (self.homes[number] / "status.json").unlink(missing_ok=True)
            self._pids[number] = self._stack.enter_context(run_node_process(self.homes[number])).pid
        wait_until(lambda: all(get_height(self.homes[number]) >= height for number in numbers), f"{numbers} are level")

    def kill(self, number: int) -> None:
        kill_hard(self._pids.pop(number))

    def pay(self, number: int) -> None:
        """A transfer that must become final."""
        command = ("ledger", "transfer", self.network.nodes[0].account, "1", "--from", str(self.homes[number]))
        code, told = run_cli(*command, "--timeout", "50s")
        assert code == ExitCode.OK, told
        assert told["height"] > HEIGHTS


def find_first(home: Path) -> int:
    """The lowest height a database still holds."""
    with open_stored(home / DATABASE_NAME) as (blocks, _):
        return next(blocks).height


def damage(home: Path) -> None:
    """Other bytes in the middle of a database, where its pages are."""
    path = home / DATABASE_NAME
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xa5" * 20_000)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_pruned_damaged_and_restored_validators_vote_again(tmp_path: Path) -> None:
    with ExitStack() as stack:
        validators = Validators(tmp_path, stack)
        homes = validators.homes
        write_config(homes[0], replace(read_config(homes[0]), keep_blocks=KEPT))
        validators.start(0, 1, 2)
        validators.start(3)  # from nothing, though one of the others cannot give it all
        validators.pay(1)
        wait_until(lambda: find_first(homes[0]) > HEIGHTS - KEPT, "the first has pruned")

        validators.kill(0)
        validators.start(0)
        validators.kill(1)
        validators.pay(2)  # of four three are left: the pruned one votes
        validators.start(1)

        validators.kill(2)
        damage(homes[2])
        command = [*CLI, "node", "run", "--data", str(homes[2])]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
        assert refused.returncode == EXIT_CONFIG
        assert "is damaged" in refused.stderr
        assert "rolemesh ledger restore" in refused.stderr

        code, told = run_cli("ledger", "snapshot", str(tmp_path / "snapshot"), "--data", str(homes[0]))
        assert code == ExitCode.OK, told
        for suffix in ("", "-wal", "-shm"):
            (homes[2] / f"{DATABASE_NAME}{suffix}").unlink(missing_ok=True)
        # It is of a pruned node: it cannot be recomputed, and whoever takes it says so.
        code, told = run_cli("ledger", "restore", str(tmp_path / "snapshot"), "--data", str(homes[2]), "--trust")
        assert code == ExitCode.OK, told
        validators.start(2)
        validators.kill(3)
        validators.pay(1)  # and now the restored one does

        names = [event["name"] for home in homes for event in read_events(home)]
        assert "block.decided" in names
        assert not {"validator.accused", "votes.muted", "block.refused"} & set(names)
