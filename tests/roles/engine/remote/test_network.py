"""Workers of a whole network whose models run elsewhere: asked, attested and paid like any other."""

import time
from dataclasses import replace

import numpy as np
import pytest
import trio

from roles.client import Client
from roles.config import read_config, write_config
from roles.engine.remote.settings import BackendConfig
from roles.node import run_node
from testnet.found import NetworkPlan, found_network, load_model_files
from tests.support.models import MODELS
from tests.support.oip_server import OipServer, serving

ROLES = {"validator": 1, "inference": 1, "verifier": 2, "storage": 1, "client": 1}


@pytest.mark.full  # one worker and its server are in `make test`: test_backend.py
def test_what_a_server_answers_is_attested_by_nodes_that_run_the_model_themselves_and_settled(tmp_path):
    entries = found_network(NetworkPlan(tmp_path, 12, ROLES, load_model_files()), time.time_ns() // 1_000_000).nodes
    worker = tmp_path / "nodes" / "inference-0"
    nodes = {}

    async def main():
        with trio.fail_after(100):
            async with (
                serving(OipServer({"digits": MODELS["digits"].read_bytes()})) as server,
                trio.open_nursery() as all,
            ):
                backend = BackendConfig("digits@1", f"{server.url}/digits")
                write_config(worker, replace(read_config(worker), backends=(backend,), http="127.0.0.1:0"))
                for entry in entries:
                    if entry.role != "client":

                        async def run(task_status, name=entry.name):
                            await run_node(tmp_path / "nodes" / name, task_status=task_status)

                        nodes[entry.name] = await all.start(run)
                said = lambda: nodes["inference-0"].describe()["backends"]["digits@1"]  # noqa: E731
                while not (all_serve(nodes) and said()["state"] == "ready"):
                    await trio.sleep(0.02)
                async with Client.join(tmp_path / "nodes" / "client-0") as client:
                    answer = await client.infer("digits", np.full((3, 64), 5, np.uint8))
                    assert b"ort=tester-1.0;ep=oip;isa=" in answer.receipt
                    assert answer.is_attested
                    assert len(answer.verifiers) == 2
                    while not any(channel.settled_seq for channel in client.node.core.ledger.channels.values()):
                        await trio.sleep(0.05)
                assert (server.kinds, said()["answered"]) == (["binary"], 1)
                for node in nodes.values():
                    node.stop()

    trio.run(main)


def all_serve(nodes):
    return all(node.is_serving for node in nodes.values())
