"""What programs import to ask a network for inference: `Client`, for trio.

    async with Client.join(directory) as client:
        answer = await client.infer("digits", rows, max_fee=10_000_000, timeout_s=10)
        print(answer.outputs, answer.is_attested, client.verify(answer.receipt))

The directory is a client's own data directory (`rolemesh node init --role client`, or `testnet.join.open_client` for a
test network that runs). Many tasks may ask one client at once.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from protocol.content import format_cid
from protocol.generation import NO_STOP, Generation
from protocol.generation import make_inputs as make_generation_inputs
from protocol.jobs import Mode
from protocol.ledger.model_records import ModelRecord
from protocol.ledger.state import State
from protocol.proofs.receipt_file import Finding, decode_receipt_file, verify_receipt_file
from protocol.tensor import Tensor
from protocol.topics import topic_name
from protocol.types import NodeState
from roles.attempts import Ask, AskAgain, CallOff, GetModel, ModelBytes, Outcome, Recall, Recalled, Tokens
from roles.client_errors import NotJoined, TimedOut, UnknownModel
from roles.client_stream import LATE_S, Stream, encode_text
from roles.client_waiter import Answer as Answer
from roles.client_waiter import Waiter
from roles.core_effects import Deliver
from roles.node import RunningNode, run_node, unwrap

if TYPE_CHECKING:
    import numpy as np

JOIN_TIMEOUT_S = 15.0
OPEN_TIMEOUT_S = 3.0
LEAVE_S = 8.0
POLL_S = 0.02
LISTENERS_WANTED = 2  # inference nodes known to hear requests
FEE_MAX = 100_000_000  # grains
STREAM_FEE_MAX = 1_000_000_000  # grains
AGAIN_S = 120.0
RECALL_S = 2.0
MODEL_S = 3.0


class Client:
    """A client node that runs in this program. Made by `join`, or over a node that runs already."""

    def __init__(self, node: RunningNode) -> None:
        self.node = node
        self._waiting: dict[str, Waiter] = {}
        self._count = 0
        node.deliver_to(self._take)

    @classmethod
    @asynccontextmanager
    async def join(
        cls, directory: Path | str, *, timeout_s: float = JOIN_TIMEOUT_S, passphrase: str | None = None
    ) -> AsyncIterator["Client"]:
        """Run the client of a data directory while inside. `passphrase` opens its sealed keys.

        Raises NotJoined when no network is found within `timeout_s`, UserError for what is wrong with the directory.
        """
        ended, is_leaving = trio.Event(), False

        async def run(task_status: Any) -> None:
            try:
                await run_node(Path(directory), passphrase=passphrase, task_status=task_status)
            finally:
                ended.set()
            if not is_leaving:
                raise NotJoined("no_network", "the node of this client has stopped")

        try:
            async with trio.open_nursery() as nursery:
                client = cls(await nursery.start(run))
                await client._wait_until_heard(timeout_s)
                try:
                    yield client
                finally:
                    is_leaving = True
                    with trio.move_on_after(LEAVE_S) as leaving:
                        leaving.shield = True
                        await client._wait_until_opened(ended)
                        client.node.stop()
                        await ended.wait()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise unwrap(group) from group.__cause__

    async def infer(
        self,
        model: str | bytes,
        inputs: Any,
        *,
        mode: str = Mode.INDIVIDUAL,
        max_fee: int = FEE_MAX,
        timeout_s: float = 30.0,
        verifiers: int = 2,
        hedge_ms: int = 0,
        is_direct: bool = False,
        max_spend: int = 0,
        nonce: bytes = b"",
    ) -> Answer:
        """Ask for one inference. `model` is a name, a CID or a digest; `inputs` a tensor or array, or one per input.

        `max_fee` in grains. Without an answer after `hedge_ms` a second worker is asked, which may cost as much again;
        0 for never. In mode `individual` the answer is released when `verifiers` nodes have attested it.

        Workers that are asked in place of others have vouchers of their own: with `max_spend`, all that were not
        refused are worth no more together. `nonce`, 16 bytes never used before, lets `recall` tell what it has cost.

        Cancelled, it tells the workers: what has not begun is dropped and costs nothing, what was computed counts.
        Raises ClientError: UnknownModel, BadInput, NoWorker, TooDear, Unpaid, Busy, Refused, Unattested, TimedOut.
        """
        record = self.find_model(model)
        ask = Ask(
            self._make_token(),
            record.digest,
            make_tensors(inputs),
            max_fee,
            round(timeout_s * 1_000),
            verifiers,
            is_direct,
            Mode(mode),
            hedge_ms,
            spend_max=max_spend,
            nonce=nonce,
        )
        return await self._wait(ask.token, ask, timeout_s)

    def stream(
        self,
        model: str | bytes,
        text: str,
        *,
        max_tokens: int = 100,
        temperature: float = 0.0,
        seed: int = 0,
        stop: str = "",
        mode: str = Mode.INDIVIDUAL,
        max_fee: int = STREAM_FEE_MAX,
        timeout_s: float = 30.0,
        verifiers: int = 2,
        ends_when_cut: bool = False,
        max_spend: int = 0,
        nonce: bytes = b"",
    ) -> Stream:
        """Have a model go on with a text, piece by piece while it is made: `async for piece in client.stream(…)`.

        Of `temperature` 0 each step gives the likeliest token; above, what `seed` draws: the same seed, the same text.
        It ends after `max_tokens` or with `stop`, one token. All are paid for, and those of `text`. Pieces are one
        worker's word; what `answer` holds at the end has been released as `infer` does it, in the mode asked for. If a
        worker breaks off, the next one goes on, unless the request is to end then: `ends_when_cut`.

        Iterating raises ClientError as `infer` does, and StreamBroken, whose `good` says how many tokens stand. Whoever
        leaves early should close it (`async with client.stream(…) as stream`): then its worker stops too, for no pay.
        """
        record = self.find_model(model)
        wanted = Generation(
            encode_text(record, text),
            max_tokens,
            round(temperature * 1_000),
            seed,
            encode_text(record, stop)[0] if stop else NO_STOP,
        )
        ask = Ask(
            self._make_token(),
            record.digest,
            make_generation_inputs(wanted),
            max_fee,
            round(timeout_s * 1_000),
            verifiers,
            mode=Mode(mode),
            streams=True,
            ends_when_cut=ends_when_cut,
            spend_max=max_spend,
            nonce=nonce,
        )
        return Stream(self, record, ask, timeout_s)

    async def ask_again(self, request_id: bytes) -> Answer:
        """What a request of this client came to, or comes to, by its id: never another request, never paid twice.

        For a program that was ended before its answer came. Raises ClientError: as the request ended, or
        UnknownRequest.
        """
        receipt = await self.find_receipt(request_id)
        if receipt is not None:
            return read_answer(receipt)
        token = self._make_token()
        return await self._wait(token, AskAgain(token, request_id), AGAIN_S)

    async def recall(self, nonce: bytes) -> Recalled:
        """What the request with a nonce costs at most, whether or not it was answered, in an earlier process too.

        Raises TimedOut when the client does not say.
        """
        token = self._make_token()
        reply = await self._exchange(token, Recall(token, nonce), RECALL_S)
        assert isinstance(reply, Recalled)
        return reply

    async def get_model(self, digest: bytes) -> bytes:
        """The bytes of a model, from disk or from storage nodes, checked by its digest.

        Raises TimedOut when they do not come, UnknownModel when nobody has them.
        """
        token = self._make_token()
        reply = await self._exchange(token, GetModel(token, digest), MODEL_S)
        assert isinstance(reply, ModelBytes)
        if reply.error:
            raise UnknownModel("unknown_model", f"{format_cid(digest)}: {reply.error}")
        return reply.data

    async def find_receipt(self, request_id: bytes) -> bytes | None:
        """The receipt file of a request this client has had answered, in an earlier process too; None without one."""
        return await self.node.find_receipt(request_id)

    def verify(self, receipt: bytes, ledger: State | None = None) -> tuple[Finding, ...]:
        """What a receipt file shows, level by level, by this client's own ledger unless another is given.

        Raises protocol.errors.ProtocolError, with the reason, when anything in it does not fit.
        """
        return verify_receipt_file(decode_receipt_file(receipt), self.node.core.ledger if ledger is None else ledger)

    def begin(self, token: str, command: Any) -> Waiter:
        """Ask, and wait under this token from now on."""
        waiter = self._waiting[token] = Waiter()
        self.node.command("client", command)
        return waiter

    def end(self, token: str) -> None:
        """Wait no more. What has not ended is called off."""
        waiter = self._waiting.pop(token, None)
        if waiter is not None and waiter.outcome is None:
            self.node.command("client", CallOff(token))

    async def _exchange(self, token: str, command: Any, timeout_s: float) -> Recalled | ModelBytes:
        waiter = self.begin(token, command)
        try:
            with trio.move_on_after(timeout_s):
                await waiter.done.wait()
        finally:
            self._waiting.pop(token)
        if waiter.reply is None:
            raise TimedOut("timeout", f"the client said nothing for {timeout_s:g} s")
        return waiter.reply

    def find_model(self, wanted: str | bytes) -> ModelRecord:
        """A model that is served now, by name (its newest version), CID or digest. Raises UnknownModel."""
        served = [record for record in self.node.core.ledger.models.values() if not record.retired_ms]
        for record in sorted(served, key=lambda record: -record.version):
            if wanted in (record.name, record.digest):
                return record
        for record in served:
            if wanted in (record.digest.hex(), format_cid(record.digest)):
                return record
        names = ", ".join(sorted({record.name for record in served})) or "none"
        asked = wanted.hex() if isinstance(wanted, bytes) else wanted
        raise UnknownModel("unknown_model", f"the ledger has no model {asked!r}; it has: {names}")

    def _take(self, delivered: Deliver) -> None:
        """Hand an outcome to whoever waits for it."""
        outcome = delivered.outcome
        is_ours = isinstance(outcome, Outcome | Tokens | Recalled | ModelBytes)
        waiter = self._waiting.get(outcome.token) if is_ours else None
        if waiter is None:
            return
        if isinstance(outcome, Tokens):
            waiter.told.append(outcome)
        elif isinstance(outcome, Recalled | ModelBytes):
            waiter.reply = outcome
            waiter.done.set()
        else:
            waiter.outcome = outcome
            waiter.done.set()
        waiter.news.set()

    async def _wait(self, token: str, command: Any, timeout_s: float) -> Answer:
        waiter = self.begin(token, command)
        try:
            with trio.move_on_after(timeout_s + LATE_S):
                await waiter.done.wait()
        finally:
            self.end(token)
        return waiter.take_answer(timeout_s + LATE_S)

    async def _wait_until_heard(self, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s) as joining:
            while not is_heard(self.node, LISTENERS_WANTED):
                await trio.sleep(POLL_S)
        if joining.cancelled_caught and not is_heard(self.node, 1):
            peers = len(self.node.net.peers())
            reason = f"not caught up with the network after {timeout_s:.0f} s ({peers} peers connected)"
            raise NotJoined("no_network", reason)

    async def _wait_until_opened(self, ended: trio.Event) -> None:
        """A channel that is only being opened would be lost, and its worker passed over the next time too."""
        with trio.move_on_after(OPEN_TIMEOUT_S):
            while self.node.core.pending_transactions and not ended.is_set():
                await trio.sleep(POLL_S)

    def _make_token(self) -> str:
        self._count += 1
        return f"client-{self._count}"


def is_heard(node: RunningNode, listeners_wanted: int) -> bool:
    """The ledger is followed and a request would find ears: what nobody hears is only repeated seconds later."""
    listeners = node.net.subscribers(topic_name(node.plan.chain, "infer/0"))
    workers = len(node.core.ledger.get_nodes("inference"))
    return node.core.state is NodeState.SERVING and len(listeners) >= min(listeners_wanted, workers)


def read_answer(receipt: bytes) -> Answer:
    """The answer in a receipt file. Raises MalformedMessage."""
    file = decode_receipt_file(receipt)
    claim = file.receipt.claim
    verifiers = tuple(item.verifier for item in file.attestations)
    return Answer(
        request_id=claim.request_id,
        outputs=file.outputs,
        receipt=receipt,
        worker=claim.worker,
        verifiers=verifiers,
        fee=claim.fee,
        is_attested=bool(verifiers),
        attempts=claim.attempt,
    )


def make_tensors(inputs: Any) -> tuple[Tensor, ...]:
    """Tensors as they are, arrays as tensors; one of them, or a list or tuple with one for each input of a model."""
    items = inputs if isinstance(inputs, list | tuple) else (inputs,)
    return tuple(item if isinstance(item, Tensor) else to_tensor(item) for item in items)


def to_tensor(array: "np.ndarray[Any, Any]") -> Tensor:
    """An array, whatever its byte order."""
    little = array.astype(array.dtype.newbyteorder("<"))
    return Tensor(array.dtype.name, tuple(int(size) for size in little.shape), little.tobytes())
