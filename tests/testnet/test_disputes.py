"""A dispute among real processes: a lie, a bond, a trace, an operator, and the word of validators that ran it."""

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from protocol.keys import PrivateKey
from protocol.tensor import Tensor
from roles.attempts import Ask
from roles.config import read_config, write_config
from roles.eventlog import read_events
from roles.node import run_node
from roles.status import read_status
from testnet.found import NetworkPlan, found_network, load_model_files
from testnet.genesis import build_genesis
from tests.testnet.networks import run_node_process

SEED = 12
ROLES = {"validator": 4, "inference": 1, "verifier": 2, "storage": 1, "client": 1}
WAIT_S_MAX = 150.0
WORDS = ["dispute.opened", "trace.posted", "operator.named", "exhibit.posted"]


def found(folder: Path) -> list[Path]:
    """A network whose only worker lies about everything, and whose second verifier attests that; all but its client."""
    lying = {"inference": {"lie_bp": 10_000}}
    plan = NetworkPlan(folder, SEED, ROLES, load_model_files(), liars=1, options=lying)
    nodes = {entry.name: folder / entry.directory for entry in found_network(plan, time.time_ns() // 1_000_000).nodes}
    worker = PrivateKey.from_seed(build_genesis(SEED, ROLES, now_ms=0).nodes["inference-0"].node).public
    config = read_config(nodes["verifier-1"])
    bribed = {"verifier": {**config.options.get("verifier", {}), "friends": [worker.hex()]}}
    write_config(nodes["verifier-1"], replace(config, roles=("testnet.cheats:Colluding",), options=bribed))
    return [directory for name, directory in nodes.items() if name != "client-0"]


def is_serving(directory: Path) -> bool:
    """A worker that has not fetched its model yet refuses what asks for it, and there is no other to ask."""
    return read_status(directory).fields.get("state") == "serving"


async def until(condition) -> None:
    while not condition():
        await trio.sleep(0.05)


@pytest.mark.full  # in `make test` the simulator shows it
def test_validators_in_processes_of_their_own_find_a_lying_worker_wrong_by_one_operator(tmp_path: Path) -> None:
    directories = found(tmp_path)

    async def main():
        with trio.fail_after(WAIT_S_MAX):
            async with trio.open_nursery() as nursery:
                client = await nursery.start(run_client, tmp_path / "nodes" / "client-0")
                await until(lambda: client.is_serving and all(map(is_serving, directories)))
                before = client.core.ledger
                model = next(record for record in before.models.values() if record.name == "digits")
                row = Tensor("uint8", (1, 64), bytes([9]) * 64)
                client.command("client", Ask("row", model.digest, (row,), 10**9, 30_000))
                await until(lambda: bool(client.core.ledger.wrong))
                await until(lambda: not client.core.ledger.disputes)
                after = client.core.ledger
                client.stop()
                return before, after

    with ExitStack() as stack:
        for directory in directories:
            stack.enter_context(run_node_process(directory))
        before, after = trio.run(main)

    slashed = {key for key, node in after.nodes.items() if node.bond < before.nodes[key].bond}
    assert len(slashed) == 1
    assert {proven.worker for proven in after.wrong.values()} == slashed
    events = sorted((event for path in directories for event in read_events(path)), key=lambda event: event["time_ms"])
    assert [event["name"] for event in events if event["name"] in WORDS] == WORDS
    judged = [event for event in events if event["name"] == "operator.judged"]
    assert len(judged) >= 3
    assert {event["judgement"] for event in judged} == {"WRONG"}


async def run_client(directory: Path, task_status) -> None:
    await run_node(directory, task_status=task_status)
