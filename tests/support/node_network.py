"""All nodes of a founded network in the test's own process, but for the client's."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from roles.node import run_node
from testnet.found import ModelFile, NetworkPlan, found_network

ROLES = {"validator": 1, "inference": 2, "verifier": 2, "storage": 1, "client": 1}
WAIT_S_MAX = 100.0


@asynccontextmanager
async def run_network(folder: Path, models: tuple[ModelFile, ...]) -> AsyncIterator[Path]:
    """Gives the client's directory once all others serve."""
    entries = found_network(NetworkPlan(folder, 12, ROLES, models), time.time_ns() // 1_000_000).nodes
    with trio.fail_after(WAIT_S_MAX):
        async with trio.open_nursery() as nursery:
            running = []
            for entry in entries:
                if entry.role != "client":

                    async def run(task_status: Any, name: str = entry.name) -> None:
                        await run_node(folder / "nodes" / name, task_status=task_status)

                    running.append(await nursery.start(run))
            while not all(node.is_serving for node in running):
                await trio.sleep(0.02)
            yield folder / "nodes" / "client-0"
            for node in running:
                node.stop()
