"""A validator that was away for ten thousand blocks, as real processes: it catches up and its votes count again."""

import os
import time
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import pytest

from protocol.ledger.genesis import compute_chain_id
from roles.chain import DATABASE_NAME, Chain
from roles.status import read_status
from testnet.cli.output import ExitCode
from testnet.found import NetworkPlan, found_network
from testnet.genesis import build_genesis
from testnet.network_file import NetworkFile
from tests.support.long_chain import STEP_MS, make_commits
from tests.testnet.networks import kill_hard, run_cli, run_node_process, wait_until

ROLES = {"validator": 4}
SEED = 81
BEHIND = 10_000
VOTES_AGAIN_S_MAX = 30.0
CAUGHT_UP_S_MAX = 180.0  # on a machine that does much else
BATCH = 500


def found_behind(directory: Path, heights: int) -> NetworkFile:
    """A network whose validators hold so many blocks, but for the last, which holds none."""
    genesis_ms = time.time_ns() // 1_000_000 - heights * STEP_MS - 10_000
    network = found_network(NetworkPlan(directory, SEED, ROLES, ()), genesis_ms)
    foundation = build_genesis(SEED, ROLES, (), now_ms=genesis_ms)
    chain_id = compute_chain_id(foundation.genesis)
    chains = [Chain(directory / node.directory / DATABASE_NAME, chain_id) for node in network.nodes[:-1]]
    for chain in chains:
        chain.start()
    made = make_commits(foundation, heights)
    while commits := list(islice(made, BATCH)):
        for chain in chains:
            chain.write(commits)
    for chain in chains:
        chain.close()
    return network


def get_height(directory: Path) -> int:
    return int(read_status(directory).fields.get("height", -1))


def get_cpu_s(pid: int) -> float:
    """Processor time a process has had, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.full
@pytest.mark.timeout(400)
def test_a_validator_ten_thousand_blocks_behind_votes_again_within_thirty_seconds(tmp_path: Path) -> None:
    """Seconds of its processor: those of the wall are the same where it has one, and say nothing where it has not."""
    network = found_behind(tmp_path, BEHIND)
    homes = [tmp_path / node.directory for node in network.nodes]
    with ExitStack() as stack:
        others = [stack.enter_context(run_node_process(home)) for home in homes[:3]]
        for home in homes[:3]:
            wait_until(lambda home=home: get_height(home) >= BEHIND, f"{home.name} is up")  # type: ignore[misc]
        behind = stack.enter_context(run_node_process(homes[3]))
        # From now on nothing is decided without the fourth.
        kill_hard(others[0].pid)
        wait_until(lambda: get_height(homes[3]) >= BEHIND, "it has caught up", CAUGHT_UP_S_MAX)
        code, told = run_cli("ledger", "transfer", network.nodes[0].account, "1", "--from", str(homes[1]))
        took_s = get_cpu_s(behind.pid)
        assert code == ExitCode.OK, told
        assert told["height"] > BEHIND
        assert took_s <= VOTES_AGAIN_S_MAX
