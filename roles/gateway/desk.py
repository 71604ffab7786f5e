"""Where HTTP meets the client: bodies are read, requests put to the network, receipts found again. All with bounds."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import trio
from starlette.requests import ClientDisconnect, Request

from protocol.content import compute_digest, format_cid
from protocol.keys import format_node
from protocol.ledger.model_records import ModelRecord
from protocol.ledger.state import State
from protocol.tensor import Tensor
from roles.client import FEE_MAX, STREAM_FEE_MAX
from roles.client_errors import ClientError
from roles.client_stream import Stream
from roles.client_waiter import Answer
from roles.gateway.faults import Fault, translate
from roles.gateway.keys import KeyState, allows
from roles.gateway.openai import TextWanted
from roles.gateway.passes import RIGHT, Passes, Use
from roles.gateway.settings import Settings
from roles.gateway.spending import Spending

BODY_BYTES_MAX = 512 * 1024  # ten times the largest request a network takes, as numbers need more room written out
LEFT_BYTES_MAX = 16 * BODY_BYTES_MAX  # read and left, since who is hung up on while it writes never reads why
BODY_S_MAX = 10.0
UNDER_WAY_MAX = 64  # requests with a body at once; the next is told to come back

KEY = "rolemesh.key"  # in the scope of a request: the KeyState it is paid with, or None

T = TypeVar("T")


class Asker(Protocol):
    """What a desk needs of `roles.client.Client`."""

    async def find_receipt(self, request_id: bytes) -> bytes | None: ...

    async def infer(
        self,
        model: str | bytes,
        inputs: Any,
        *,
        mode: str,
        max_fee: int,
        timeout_s: float,
        max_spend: int,
        nonce: bytes,
    ) -> Answer: ...

    def stream(
        self,
        model: str | bytes,
        text: str,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: str,
        mode: str,
        max_fee: int,
        timeout_s: float,
        max_spend: int,
        nonce: bytes,
    ) -> Stream: ...


@dataclass(frozen=True)
class Told:
    """What an answer's reader is told of its receipt: in the parameters of the body, and in headers."""

    parameters: dict[str, Any]
    headers: dict[str, str]


class Desk:
    """`look` gives the ledger and whether the node serves; `receipts` is where the client keeps its receipt files.

    A request may take `timeout_s`. What callers with a key spend is seen to by `spending`, and what is asked for under
    a pass to an app is counted by `passes`.
    """

    def __init__(
        self,
        client: Asker,
        spending: Spending,
        look: Callable[[], tuple[State, bool]],
        timeout_s: float,
        passes: Passes | None = None,
    ) -> None:
        self._client = client
        self._spending = spending
        self._look = look
        self._timeout_s = timeout_s
        self._passes = passes
        self.under_way = 0

    @property
    def ledger(self) -> State:
        return self._look()[0]

    @property
    def is_ready(self) -> bool:
        return self._look()[1]

    async def read_body(self, request: Request) -> bytes:
        """The whole body. Fault 408 when it does not come, 413 when it is too long, 415 when it is packed."""
        if request.headers.get("content-encoding", "identity") != "identity":
            # Unpacking would let a small request grow past any bound.
            raise Fault(415, "packed", "the request is packed: send it as it is")
        body, size = bytearray(), 0
        with trio.move_on_after(BODY_S_MAX) as reading:
            async for chunk in request.stream():
                size += len(chunk)
                if size <= BODY_BYTES_MAX:
                    body += chunk
                elif size > LEFT_BYTES_MAX:
                    break
        if reading.cancelled_caught:
            raise Fault(408, "timeout", f"the request did not come within {BODY_S_MAX:g} s")
        if size > BODY_BYTES_MAX:
            raise Fault(413, "too_large", f"a request has at most {BODY_BYTES_MAX} bytes")
        return bytes(body)

    async def infer(
        self, record: ModelRecord, inputs: tuple[Tensor, ...], settings: Settings, key: KeyState | None
    ) -> Answer:
        """Raises ClientError, and Fault for what the key does not allow."""
        wanted = FEE_MAX if settings.max_fee is None else settings.max_fee
        verify_allowed(key, record)
        async with self._spending.hold(key, wanted) as hold:
            return await self._client.infer(
                record.digest,
                inputs,
                mode=settings.mode,
                max_fee=hold.amount,
                timeout_s=self._timeout_s,
                max_spend=hold.spend_max,
                nonce=hold.id,
            )

    @asynccontextmanager
    async def stream(
        self, record: ModelRecord, wanted: TextWanted, seed: int, settings: Settings, key: KeyState | None
    ) -> AsyncIterator[Stream]:
        """What gives the pieces of a text. Raises ClientError, and Fault for what the key does not allow."""
        verify_allowed(key, record)
        async with (
            self._spending.hold(key, STREAM_FEE_MAX if settings.max_fee is None else settings.max_fee) as hold,
            self._client.stream(
                record.digest,
                wanted.prompt,
                max_tokens=wanted.max_tokens,
                temperature=wanted.temperature,
                seed=seed,
                stop=wanted.stop,
                mode=settings.mode,
                max_fee=hold.amount,
                timeout_s=self._timeout_s,
                max_spend=hold.spend_max,
                nonce=hold.id,
            ) as stream,
        ):
            yield stream

    def counting(self, request: Request, record: ModelRecord) -> AbstractAsyncContextManager[Use]:
        """Count the request on its pass, if it needs one, while inside. Raises Fault 429 or 503 (`Passes.use`)."""
        if self._passes is None:
            return nullcontext(Use())
        return self._passes.use(request.scope[RIGHT], record.digest)

    async def wait(self, request: Request, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` comes to, as long as somebody is there to take it: who hangs up has its request called off.

        Raises Fault, also for what the client says, and ClientDisconnect when there is nobody.
        """
        found: list[T | Fault] = []

        async def run() -> None:
            try:
                found.append(await work())
            except ClientError as error:
                found.append(explain(error))
            except Fault as fault:
                found.append(fault)
            nursery.cancel_scope.cancel()

        with self.taking_part():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                nursery.cancel_scope.cancel()
        if not found:
            raise ClientDisconnect
        if isinstance(found[0], Fault):
            raise found[0]
        return found[0]

    def taking_part(self) -> "_Place":
        """A place among those under way, while inside. Fault 429 when there is none."""
        return _Place(self)

    def describe_receipt(self, answer: Answer) -> Told:
        """Where an answer's receipt is, and what matters most in it."""
        cid, name = format_cid(compute_digest(answer.receipt)), answer.request_id.hex()
        place = f"/receipts/{name}/{cid}"
        parameters = {
            "receipt_cid": cid,
            "receipt": place,
            "request_id": name,
            "worker": format_node(answer.worker),
            "is_attested": answer.is_attested,
            "verifiers": len(answer.verifiers),
            "fee_grains": answer.fee,
        }
        return Told(parameters, {"X-Receipt-Cid": cid, "X-Receipt": place, "X-Request-Id": name})

    async def get_receipt(self, request_id: str, cid: str) -> bytes:
        """A receipt file. Both must be known: the id of a request is public, what its receipt holds is not. Fault 404.

        It is that of an answer whose CID was told: what was added to the file since makes it another one.
        """
        missing = Fault(404, "no_receipt", "there is no such receipt here")
        if len(request_id) != 64 or not all(letter in "0123456789abcdef" for letter in request_id):
            raise missing
        data = await self._client.find_receipt(bytes.fromhex(request_id))
        if data is None or format_cid(compute_digest(data)) != cid:
            raise missing
        return data


class _Place:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def __enter__(self) -> None:
        if self._desk.under_way >= UNDER_WAY_MAX:
            raise Fault(429, "capacity", f"{UNDER_WAY_MAX} requests are under way here already")
        self._desk.under_way += 1

    def __exit__(self, *error: object) -> None:
        self._desk.under_way -= 1


def verify_allowed(key: KeyState | None, record: ModelRecord) -> None:
    """Fault 403 unless the key, if there is one, may be used for the model."""
    if key is not None and not allows(key.terms, record):
        names = ", ".join(key.terms.models)
        raise Fault(403, "model_not_allowed", f"the key {key.terms.label!r} is for {names}, not for {record.name}")


def explain(error: ClientError) -> Fault:
    """What a client's error is over HTTP."""
    return translate(error.code, error.reason, error.request_id)
