"""A gateway from its first connection to its last, over a client that runs in the same loop."""

import importlib.metadata
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import trio

from protocol.ledger.state import State
from protocol.types import NodeState
from roles.client import Client
from roles.config import ConfigError
from roles.gateway.app import Gateway
from roles.gateway.app_service import serving_app
from roles.gateway.counts import Counts
from roles.gateway.desk import Desk
from roles.gateway.door import Door
from roles.gateway.key_book import KeyBook
from roles.gateway.keys import is_usable
from roles.gateway.names import NameBook
from roles.gateway.oip_api import OipApi
from roles.gateway.openai_api import OpenAiApi
from roles.gateway.passes import Passes
from roles.gateway.server import GatewayServer, open_listener
from roles.gateway.spending import Spending, get_now_ms
from roles.node import TaskStatus, unwrap


@dataclass(frozen=True)
class Plan:
    """What a gateway is to do. `listen` is host and port, of which 0 takes any; a request may take `timeout_s`.

    With `needs_key` it does nothing for whoever has none, with `app` nothing for whoever shows no pass to that: it is
    one or both where others than this machine can reach it.
    """

    directory: Path
    listen: tuple[str, int]
    timeout_s: float
    passphrase: str | None = None
    needs_key: bool = False
    app: str = ""


async def run_gateway(plan: Plan, announce: Callable[[str, Client], None], stop: trio.Event) -> None:
    """Join the network as the client of a data directory and serve until `stop` is set.

    `announce` is given the URL once it answers. Raises ConfigError if the address cannot be had, or is for others too
    and there is no key, or the app is not for this client to serve; else as `Client.join`.
    """
    needs_key = plan.needs_key or not (plan.app or ip_address(plan.listen[0]).is_loopback)
    with closing(KeyBook(plan.directory, is_synced=False)) as book:
        if needs_key and not any(is_usable(key, get_now_ms()) for key in book.list_all(get_now_ms())):
            hint = f"make one first: `rolemesh gateway key add NAME --limit 10 --data {plan.directory}`"
            raise ConfigError("nobody holds a key that counts, and this gateway is to ask for one", hint)
        await _serve(plan, needs_key, book, announce, stop)


async def _serve(
    plan: Plan, needs_key: bool, book: KeyBook, announce: Callable[[str, Client], None], stop: trio.Event
) -> None:
    try:
        listener = await open_listener(*plan.listen)
    except OSError as error:
        host, port = plan.listen
        hint = "end whatever listens there, or choose another port with --listen"
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}", hint) from error
    async with listener, Client.join(plan.directory, passphrase=plan.passphrase) as client:
        node = client.node

        def report(error: Exception) -> None:
            node.tell("gateway.failed", {"error": f"{type(error).__name__}: {error}"[:400]})

        spending = Spending(book, client, report)
        async with serving_app(plan.app, node, report) as passes:
            door = Door(spending.find, needs_key, passes)
            server = make_server(listener, client, spending, plan.timeout_s, door, passes, report)
            announce(server.url, client)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(spending.run)
                await server.run(stop)
                nursery.cancel_scope.cancel()


def make_server(
    listener: trio.SocketListener,
    client: Client,
    spending: Spending,
    timeout_s: float,
    door: Door,
    passes: Passes | None,
    report: Callable[[Exception], None],
) -> GatewayServer:
    """The gateway of a client, to be run on a listener; of an app with `passes` to it."""
    node = client.node

    def look() -> tuple[State, bool]:
        return node.core.ledger, node.core.state is NodeState.SERVING

    desk = Desk(client, spending, look, timeout_s, passes)
    version = importlib.metadata.version("rolemesh")
    apis = (OipApi(desk, NameBook(client.get_model), version).list_routes(), OpenAiApi(desk).list_routes())
    counts = Counts()
    return GatewayServer(listener, Gateway(desk, apis, door, node.get_page, counts), counts, report)


async def run_until_signal(plan: Plan, announce: Callable[[str, Client], None]) -> None:
    """As `run_gateway`, until SIGTERM or SIGINT; a second one does not wait for what is under way."""
    stop = trio.Event()

    async def obey(scope: trio.CancelScope, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started(None)
            await anext(signals)
            stop.set()
            if not running:
                scope.cancel()
            await anext(signals)
            scope.cancel()

    running: list[str] = []

    def announce_and_note(url: str, client: Client) -> None:
        running.append(url)
        announce(url, client)

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(obey, nursery.cancel_scope)
            await run_gateway(plan, announce_and_note, stop)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise unwrap(group) from group.__cause__
