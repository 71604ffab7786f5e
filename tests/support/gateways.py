"""A gateway on a real socket over a client that answers as a test says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import trio

from protocol.ledger.genesis import build_state
from protocol.tensor import Tensor
from roles.attempts import Ask, Outcome, Recalled, Tokens
from roles.client_errors import UnknownModel
from roles.client_stream import Stream, encode_text
from roles.client_waiter import Answer, Waiter
from roles.gateway.app import Gateway
from roles.gateway.counts import Counts
from roles.gateway.desk import Desk
from roles.gateway.door import Door
from roles.gateway.key_book import KeyBook
from roles.gateway.names import NameBook
from roles.gateway.oip_api import OipApi
from roles.gateway.openai_api import OpenAiApi
from roles.gateway.passes import Passes
from roles.gateway.server import GatewayServer, open_listener
from roles.gateway.spending import Spending
from roles.health import Page
from testnet.genesis import build_genesis, load_models

(DIGITS,), (PYDOC,) = load_models(("digits",)), load_models(("pydoc",))
STATE = build_state(build_genesis(3, {"validator": 1}, now_ms=1_700_000_000_000, models=(DIGITS, PYDOC)).genesis)
DIGITS_RECORD = next(record for record in STATE.models.values() if record.name == "digits")
INFER = "/v2/models/digits/infer"
ASKED = {"inputs": [{"name": "input-0", "datatype": "UINT8", "shape": [1, 64], "data": [1] * 64}]}


@dataclass
class FakeAsker:
    """Answers with ten numbers, or as `error` says; `hold` is waited for. `asked` holds the options of each request."""

    error: Exception | None = None
    hold: trio.Event | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    left: int = 0  # how often nobody waited for the answer any more
    pieces: tuple[str, ...] = ()  # of every text
    ends_with: str = ""  # the code of how every text fails after its pieces
    hangs: bool = False  # every text after its pieces
    file: bytes | None = None  # of every model
    costs: int = 7  # each request, as it is recalled
    recalled: dict[bytes, Recalled] = field(default_factory=dict)  # those that are recalled otherwise, by nonce
    receipts: dict[bytes, bytes] = field(default_factory=dict)  # by request

    async def find_receipt(self, request_id: bytes) -> bytes | None:
        return self.receipts.get(request_id)

    async def infer(self, model: bytes, inputs: tuple[Tensor, ...], **options: Any) -> Answer:
        self.asked.append({"model": model, "inputs": inputs, **options})
        try:
            if self.hold is not None:
                await self.hold.wait()
        except trio.Cancelled:
            self.left += 1
            raise
        if self.error is not None:
            raise self.error
        rows = inputs[0].shape[0]
        outputs = (Tensor("int32", (rows, 10), bytes(rows * 40)),)
        return Answer(bytes([len(self.asked)]) * 32, outputs, b"a receipt", b"\1" * 32, (b"\2" * 32,) * 2, 7, True)

    def stream(self, model: bytes, text: str, *, mode: str, timeout_s: float, **options: Any) -> Stream:
        encode_text(PYDOC, text + options["stop"])
        self.asked.append({"model": model, "text": text, "mode": mode, **options})
        return Stream(self, PYDOC, Ask(str(len(self.asked)), model, (), 0), timeout_s)

    def begin(self, token: str, command: Any) -> Waiter:
        waiter, start = Waiter(), 0
        for piece in self.pieces:
            waiter.told.append(Tokens(token, b"\4" * 32, start, encode_text(PYDOC, piece)))
            start += len(piece)
        if not self.hangs:
            answered = {"receipt_file": b"a receipt", "worker": b"\1" * 32, "verifiers": (b"\2" * 32,) * 2, "fee": 7}
            failed = {"code": self.ends_with, "reason": "the other one differs", "good": 2}
            waiter.outcome = Outcome(token, True, b"\4" * 32, **(failed if self.ends_with else answered))
        return waiter

    def end(self, token: str) -> None:
        self.left += 1

    async def get_model(self, digest: bytes) -> bytes:
        if self.file is None:
            raise UnknownModel("unknown_model", "no storage node has it")
        return self.file

    async def recall(self, nonce: bytes) -> Recalled:
        return self.recalled.get(nonce, Recalled("", owed=self.costs, is_known=True))


@dataclass
class Served:
    """What a test wants of it. `errors` are what its connections have failed of."""

    url: str
    port: int
    http: httpx.AsyncClient
    desk: Desk
    counts: Counts
    server: GatewayServer
    stop: trio.Event
    errors: list[Exception]

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


async def run_server(server: GatewayServer, stop: trio.Event, nursery: trio.Nursery) -> None:
    await server.run(stop)
    nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(
    asker: Any, folder: Path, book: KeyBook | None = None, needs_key: bool = False, passes: Passes | None = None
) -> AsyncIterator[Served]:
    """The gateway until the way out, when it must end by itself; of an app with `passes` to it."""
    errors: list[Exception] = []
    spending = Spending(book or KeyBook(folder, is_synced=False), asker, errors.append)
    desk = Desk(asker, spending, lambda: (STATE, True), 5.0, passes)
    apis = (OipApi(desk, NameBook(asker.get_model), "1.0").list_routes(), OpenAiApi(desk).list_routes())
    door, counts = Door(spending.find, needs_key, passes), Counts()
    gateway = Gateway(desk, apis, door, lambda target: Page(200, f"{target}\n"), counts)
    server = GatewayServer(await open_listener("127.0.0.1", 0), gateway, counts, errors.append)
    stop = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_server, server, stop, nursery)
            nursery.start_soon(spending.run)
            async with httpx.AsyncClient(base_url=server.url, timeout=10) as http:
                yield Served(server.url, server.port, http, desk, counts, server, stop, errors)
            stop.set()
