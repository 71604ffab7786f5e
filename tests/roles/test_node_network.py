"""A small network of whole nodes in one trio loop: real roles, real sockets, real models, real disks."""

import time
from contextlib import asynccontextmanager

import pytest
import trio

from protocol.check import AHEAD_MS_MAX
from protocol.tensor import Tensor
from protocol.types import Verdict
from roles.attempts import Ask
from roles.chain import RECEIPT_BUCKET, read_kept
from roles.core import NodeCore
from roles.eventlog import read_events
from roles.node import run_node
from testnet.found import NetworkPlan, found_network, load_model_files

WAIT_S_MAX = 100.0
ROLES = {"validator": 1, "inference": 2, "verifier": 2, "storage": 1, "client": 1}
FEE_MAX = 10**9
ROWS = 6
PULLED = {"claims", "proofs", "txs", "heads"}
NEVER = 10**9


@asynccontextmanager
async def network(folder):
    """All nodes of a founded network, by name, with a way to start one again."""
    models = load_model_files()
    entries = found_network(NetworkPlan(folder, 11, ROLES, models), time.time_ns() // 1_000_000).nodes
    running = {}
    with trio.fail_after(WAIT_S_MAX):
        async with trio.open_nursery() as nursery:

            async def start(name):
                ended = trio.Event()

                async def run(task_status):
                    try:
                        await run_node(folder / "nodes" / name, task_status=task_status)
                    finally:
                        ended.set()

                running[name] = await nursery.start(run)
                return ended

            ends = {entry.name: await start(entry.name) for entry in entries}

            async def restart(name):
                running[name].stop()
                await ends[name].wait()
                ends[name] = await start(name)

            await until(lambda: all(node.is_serving for node in running.values()))
            yield running, restart, models[0].record
            for node in running.values():
                node.stop()


async def until(condition):
    while not condition():
        await trio.sleep(0.02)


async def infer(client, record, count, timeout_ms=30_000):
    """Ask for `count` different rows and wait for all outcomes."""
    width, outcomes = record.inputs[0].shape[1], []
    client.deliver_to(lambda delivered: outcomes.append(delivered.outcome))
    for number in range(count):
        row = Tensor(record.inputs[0].dtype, (1, width), bytes([number % 16] * width))
        client.command("client", Ask(f"row-{number}", record.digest, (row,), FEE_MAX, timeout_ms))
    await until(lambda: len(outcomes) == count)
    return outcomes


@pytest.mark.full  # in `make test` nodes in processes of their own: tests/testnet/test_network.py, test_nothing_lost.py
def test_rows_are_inferred_attested_and_settled_and_a_restarted_node_catches_up(tmp_path):
    async def main():
        async with network(tmp_path) as (nodes, restart, record):
            outcomes = await infer(nodes["client-0"], record, ROWS)
            await until(lambda: count_settled(tmp_path) == ROWS)

            await restart("verifier-0")
            height = nodes["verifier-0"].core.ledger.height
            assert height > 0  # it had kept the ledger
            await until(lambda: nodes["verifier-0"].is_serving)
            again = await infer(nodes["client-0"], record, ROWS)
            await until(lambda: count_settled(tmp_path) == 2 * ROWS)
            validator, verifier = nodes["validator-0"], nodes["verifier-0"]
            await until(lambda: verifier.core.ledger == validator.core.ledger)
            assert verifier.core.ledger.height > height
            assert verifier.describe()["state_root"] == validator.describe()["state_root"]
            shed = [node.describe()["shed"] for node in nodes.values()]
        return outcomes + again, shed

    outcomes, shed = trio.run(main)
    assert all(outcome.is_attested and len(outcome.verifiers) == 2 for outcome in outcomes)
    assert len(read_kept(tmp_path / "nodes" / "client-0" / "node.db", RECEIPT_BUCKET)) == 2 * ROWS
    assert not any(shed)


@pytest.mark.full  # in `make test` the simulator shows it
def test_on_real_sockets_too_what_must_arrive_is_pulled_when_gossip_brings_none_of_it(tmp_path, monkeypatch):
    """Claims, attestations, transactions and heads at once: each is needed for what is waited for here."""
    check = NodeCore.check
    lost = set()

    def check_or_lose(self, topic, data, forwarder, now_ms):
        kind = topic.split("/")[3]
        if kind not in PULLED:
            return check(self, topic, data, forwarder, now_ms)
        lost.add(kind)
        return Verdict.IGNORE

    monkeypatch.setattr(NodeCore, "check", check_or_lose)
    # Other ways by which a sender may reach whom its message is for.
    monkeypatch.setattr("roles.claimant.ASK_MS", NEVER)
    monkeypatch.setattr("roles.claimant.ASK_MS_MAX", NEVER)
    monkeypatch.setattr("roles.submitter.GOSSIP_TRIES", NEVER)

    async def main():
        async with network(tmp_path) as (nodes, _, record):
            outcomes = await infer(nodes["client-0"], record, 2, timeout_ms=AHEAD_MS_MAX)
            await until(lambda: count_settled(tmp_path) == 2)
            validator = nodes["validator-0"]
            await until(lambda: all(node.core.ledger == validator.core.ledger for node in nodes.values()))
            return outcomes, validator.core.ledger.height

    outcomes, height = trio.run(main)
    assert all(outcome.is_attested for outcome in outcomes)
    assert height > 0
    assert lost == PULLED
    logs = [tmp_path / "nodes" / name for name in ("validator-0", "verifier-0", "verifier-1")]
    assert all(any(event["name"] == "gossip.pulled" for event in read_events(log)) for log in logs)


def count_settled(folder):
    """Leaves the workers saw paid, from their event logs."""
    logs = [folder / "nodes" / f"inference-{index}" for index in range(ROLES["inference"])]
    return sum(event["name"] == "leaf.settled" for log in logs for event in read_events(log))
