"""Fetch a file or folder from a running network into a store: for commands, by a node that runs or one of their own."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from protocol.cid import Cid
from protocol.keys import parse_node
from roles.gather_orders import Peers
from roles.node import RunningNode, run_node, unwrap
from testnet.ask import LOG_NAME, logging_to
from testnet.network_file import NetworkFile

POLL_S = 0.05
SYNC_S = 10.0  # given to a new node to learn from the ledger who stores
FETCHING, HELD = "fetching", "held"

Told = Mapping[str, Any]  # what `GatherOrders.describe` says
Tell = Callable[[Told], None]


def list_storers(network: NetworkFile) -> Peers:
    """The storage nodes of a network file."""
    return tuple((parse_node(node.node), node.addresses) for node in network.nodes if node.role == "storage")


def fetch_with_node(
    ask: Callable[[dict[str, Any]], Told], request: dict[str, Any], timeout_s: float, tell: Tell
) -> Told:
    """Have a node that runs fetch it; `ask` speaks to its control socket. What it came to, still `fetching` if late."""
    deadline_s = time.monotonic() + timeout_s
    told = ask({**request, "command": "store.gather", "begin": True})
    while told["state"] == FETCHING and time.monotonic() < deadline_s:
        tell(told)
        time.sleep(POLL_S)
        told = ask({"command": "store.gather", "cid": request["cid"]})
    return told


def fetch_with_client(
    directory: Path, cid: Cid, sources: Peers, storers: Peers, expires_ms: int, timeout_s: float, tell: Tell
) -> Told:
    """Run the client of a data directory until it has it. As `fetch_with_node`; raises UserError too.

    `sources` alone are asked if there are any. Else `storers` are at once, and as soon as this client has the ledger
    those whom that names: who keeps it under a lease, then all storage nodes.
    """
    told: list[Told] = []

    async def drive(node: RunningNode) -> None:
        orders = node.gathers

        async def wait(is_over: Callable[[str], bool]) -> None:
            while not is_over(orders.describe(cid)["state"]):
                tell(orders.describe(cid))
                await trio.sleep(POLL_S)

        with trio.move_on_after(timeout_s):
            orders.begin(cid, sources or storers, "", expires_ms)
            if not sources:
                with trio.move_on_after(SYNC_S):
                    await wait(lambda state: state == HELD or node.core.is_synced)
                if orders.describe(cid)["state"] != HELD:
                    orders.widen(cid, "", expires_ms)
            await wait(lambda state: state != FETCHING)
        told.append(orders.describe(cid))

    async def run() -> None:
        try:
            await run_node(directory, driver=drive)
        except BaseExceptionGroup as group:
            raise unwrap(group) from group

    with logging_to(directory / LOG_NAME):
        trio.run(run)
    return told[0]
