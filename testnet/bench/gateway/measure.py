"""The figures of `rolemesh bench gateway`: how much longer a request takes over HTTP than by the Python client.

One node asks in both ways: by `roles.client.Client` in its own loop, and by a gateway in the same loop that another
process calls over one connection. The ways take turns, a request each, so that what the network does meanwhile is
the same for all. Mode `batch`.
"""

import secrets
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from protocol.jobs import Mode
from protocol.types import GRAINS_PER_ROLE
from roles.client import FEE_MAX, Client
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
NAMES = tuple(FIGURES.values())
BAR, ADDED_MS = "bar", 2.0
TURNS, TURNS_FULL, WARM_TURNS = 300, 3_000, 50
NOTE_TURNS = 100
TIMEOUT_S = 10.0
KEY_GRAINS = 2_000 * GRAINS_PER_ROLE


def measure(note: Note, full: bool, only: frozenset[str]) -> list[Figure]:
    """The figures of `NAMES`, or of `only`. Raises NotReady."""
    ways = [way for way, name in FIGURES.items() if not only or name in only]
    with TemporaryDirectory(prefix="rolemesh-models-") as folder:
        model = Path(folder) / "chain.onnx"
        model.write_bytes(build_chain(1))
        with run_network([model]) as network, logging_to(network.client / LOG_NAME):
            try:
                return trio.run(_measure, network.client, model.stem, note, TURNS_FULL if full else TURNS, ways)
            except BaseExceptionGroup as group:
                raise unwrap(group) from group


async def _measure(directory: Path, model: str, note: Note, turns: int, ways: list[str]) -> list[Figure]:
    row, taken_s = make_row(), dict[str, list[float]]()
    async with Client.join(directory) as client, _serving(client) as (url, key), run_caller(url, model, key) as caller:
        for turn in range(WARM_TURNS + turns):
            if turn == WARM_TURNS:
                taken_s.clear()
            if turn % NOTE_TURNS == 0:
                note(f"turn {turn} of {WARM_TURNS + turns}: one request by each of {1 + len(ways)} ways")
            began_s = time.perf_counter()
            await client.infer(model, row, mode=Mode.BATCH, max_fee=FEE_MAX, timeout_s=TIMEOUT_S)
            taken_s.setdefault("client", []).append(time.perf_counter() - began_s)
            for way in ways:
                taken_s.setdefault(way, []).append(await caller.call(way))
    told = ", ".join(f"{way} {1_000 * statistics.median(each):.2f} ms" for way, each in taken_s.items())
    note(f"medians of {turns} requests: {told}")
    ours_s = statistics.median(taken_s["client"])
    return [
        compare(FIGURES[way], 1_000 * (statistics.median(taken_s[way]) - ours_s), "ms", BAR, ADDED_MS) for way in ways
    ]


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
            server = make_server(listener, client, spending, TIMEOUT_S, False, failed.append)
            nursery.start_soon(spending.run)
            nursery.start_soon(server.run, trio.Event())
            yield server.url, key.text
            nursery.cancel_scope.cancel()
    if failed:
        raise NotReady(f"the gateway failed: {failed[0]!r}")
