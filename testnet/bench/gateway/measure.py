"""The figures of `rolemesh bench gateway`: how much longer a request takes over HTTP than by the Python client.

One node asks in both ways: by `roles.client.Client` in its own loop, and by a gateway in the same loop that another
process calls over one connection. The ways take turns, a request each, so that what the network does meanwhile is
the same for all. Mode `batch`.
"""

import secrets
import statistics
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from protocol.jobs import Mode
from protocol.types import GRAINS_PER_ROLE
from roles.client import FEE_MAX, Client
from roles.gateway.door import Door
from roles.gateway.key_book import KeyBook
from roles.gateway.keys import ID_BYTES, SECRET_BYTES, KeyTerms, make_key
from roles.gateway.run import make_server
from roles.gateway.server import open_listener
from roles.gateway.spending import Spending, get_now_ms
from roles.node import unwrap
from testnet.ask import LOG_NAME, logging_to
from testnet.bench.figures import Figure, Note, compare
from testnet.bench.gateway.caller import JSON, RAW, WITH_KEY, run_caller
from testnet.bench.inference.measure import make_row
from testnet.bench.inference.models import build_chain
from testnet.bench.inference.network import NotReady, run_network

FIGURES = {JSON: "added_p50", RAW: "added_raw_p50", WITH_KEY: "added_with_key_p50"}  # by the way of asking
PROCESSOR = "added_processor"
NAMES = (*FIGURES.values(), PROCESSOR)
CLIENT = "client"
BAR, ADDED_MS = "bar", 2.0
TURNS, TURNS_FULL, WARM_TURNS = 300, 3_000, 50
NOTE_TURNS = 100
TIMEOUT_S = 10.0
KEY_GRAINS = 2_000 * GRAINS_PER_ROLE


@dataclass
class Taken:
    """Of the requests of one way, in milliseconds: by the clock, and of the node's processor time."""

    clock_ms: list[float] = field(default_factory=list)
    processor_ms: list[float] = field(default_factory=list)


def measure(note: Note, full: bool, only: frozenset[str]) -> list[Figure]:
    """The figures of `NAMES`, or of `only`. Raises NotReady."""
    wanted = frozenset(NAMES) & only if only else frozenset(NAMES)
    ways = [way for way, name in FIGURES.items() if name in wanted or (way == JSON and PROCESSOR in wanted)]
    with TemporaryDirectory(prefix="rolemesh-models-") as folder:
        model = Path(folder) / "chain.onnx"
        model.write_bytes(build_chain(1))
        with run_network([model]) as network, logging_to(network.client / LOG_NAME):
            try:
                taken = trio.run(_measure, network.client, model.stem, note, TURNS_FULL if full else TURNS, ways)
            except BaseExceptionGroup as group:
                raise unwrap(group) from group
    return [figure for figure in compare_all(taken) if figure.name in wanted]


def compare_all(taken: Mapping[str, Taken]) -> list[Figure]:
    """How much more each way takes than the client, by the median.

    >>> compare_all({CLIENT: Taken([1, 2, 9], [1, 1, 1]), JSON: Taken([3, 3, 4], [2, 2, 3])})[0].value
    1
    """
    client = taken[CLIENT]
    clock_ms, processor_ms = statistics.median(client.clock_ms), statistics.median(client.processor_ms)
    figures = [
        compare(FIGURES[way], statistics.median(each.clock_ms) - clock_ms, "ms", BAR, ADDED_MS)
        for way, each in taken.items()
        if way != CLIENT
    ]
    if JSON in taken:
        more_ms = statistics.median(taken[JSON].processor_ms) - processor_ms
        figures.append(compare(PROCESSOR, more_ms, "ms", "the client's own", processor_ms))
    return figures


async def _measure(directory: Path, model: str, note: Note, turns: int, ways: list[str]) -> dict[str, Taken]:
    row = make_row()
    taken = {way: Taken() for way in (CLIENT, *ways)}
    async with Client.join(directory) as client, _serving(client) as (url, key), run_caller(url, model, key) as caller:
        for turn in range(WARM_TURNS + turns):
            if turn % NOTE_TURNS == 0:
                note(f"turn {turn} of {WARM_TURNS + turns}: a request by each of {len(taken)} ways")
            for way, each in taken.items():
                spent_s = time.process_time()
                if way == CLIENT:
                    began_s = time.perf_counter()
                    await client.infer(model, row, mode=Mode.BATCH, max_fee=FEE_MAX, timeout_s=TIMEOUT_S)
                    took_s = time.perf_counter() - began_s
                else:
                    took_s = await caller.call(way)
                if turn >= WARM_TURNS:
                    each.clock_ms.append(1_000 * took_s)
                    each.processor_ms.append(1_000 * (time.process_time() - spent_s))
    told = ", ".join(f"{way} {statistics.median(each.clock_ms):.2f} ms" for way, each in taken.items())
    note(f"medians of {turns} requests: {told}")
    return taken


@asynccontextmanager
async def _serving(client: Client) -> AsyncIterator[tuple[str, str]]:
    """A gateway over the client: its URL, and a key that counts."""
    failed: list[Exception] = []
    directory = client.node.plan.directory
    key = make_key(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))
    with closing(KeyBook(directory, is_synced=False)) as book:
        book.add(key, KeyTerms("bench", limit=KEY_GRAINS), get_now_ms())
        spending = Spending(book, client, failed.append)
        async with await open_listener("127.0.0.1", 0) as listener, trio.open_nursery() as nursery:
            server = make_server(
                listener, client, spending, TIMEOUT_S, Door(spending.find, needs_key=False), None, failed.append
            )
            nursery.start_soon(spending.run)
            nursery.start_soon(server.run, trio.Event())
            yield server.url, key.text
            nursery.cancel_scope.cancel()
    if failed:
        raise NotReady(f"the gateway failed: {failed[0]!r}")
