"""A generation that is handed over while it is made: what `Client.stream` gives."""

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import trio

from protocol.ledger.model_records import ModelRecord
from roles.attempts import Ask
from roles.client_errors import BadInput
from roles.client_waiter import Answer, Waiter

LATE_S = 3.0  # the role itself ends a request at its deadline; this is for one that does not


@dataclass(frozen=True)
class StreamedPiece:
    """More of a text, from its token number `start` on. Nobody but its worker vouches for it yet."""

    start: int
    tokens: tuple[int, ...]
    text: str


class Asker(Protocol):
    """What a stream needs of `Client`."""

    def begin(self, token: str, command: Any) -> Waiter: ...

    def end(self, token: str) -> None: ...


class Stream:
    """Iterate over it for `StreamedPiece`s; when they have ended, `answer` holds the whole with its receipt.

    Nothing is asked before the first piece is. Ends its request when it is closed early.
    """

    def __init__(self, client: Asker, record: ModelRecord, ask: Ask, timeout_s: float) -> None:
        self._client = client
        self._record = record
        self._ask = ask
        self._timeout_s = timeout_s
        self._waiter: Waiter | None = None
        self._deadline_s = 0.0
        self._answer: Answer | None = None

    @property
    def answer(self) -> Answer:
        """ValueError before the last piece."""
        if self._answer is None:
            raise ValueError("the stream has not ended yet: there is an answer after its last piece")
        return self._answer

    async def __aenter__(self) -> "Stream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Want no more of it. Its worker is told to stop."""
        self._client.end(self._ask.token)
        await trio.lowlevel.checkpoint()

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> StreamedPiece:
        """Raises ClientError."""
        if self._waiter is None:
            self._waiter = self._client.begin(self._ask.token, self._ask)
            self._deadline_s = trio.current_time() + self._timeout_s + LATE_S
        waiter = self._waiter
        with trio.move_on_at(self._deadline_s):
            while not waiter.told and waiter.outcome is None:
                waiter.news = trio.Event()
                await waiter.news.wait()
        if waiter.told:
            told = waiter.told.popleft()
            return StreamedPiece(told.start, told.tokens, decode_tokens(self._record, told.tokens))
        self._client.end(self._ask.token)
        self._answer = waiter.take_answer(self._timeout_s + LATE_S)
        raise StopAsyncIteration


def encode_text(record: ModelRecord, text: str) -> tuple[int, ...]:
    """The tokens of a text: the model's labels are its characters. Raises BadInput that names one it does not have."""
    places = {label: place for place, label in enumerate(record.labels)}
    strange = next((character for character in text if character not in places), None)
    if strange is not None:
        reason = f"{record.name} knows {len(places)} characters, {strange!r} is none of them"
        raise BadInput("bad_input", reason)
    return tuple(places[character] for character in text)


def decode_tokens(record: ModelRecord, tokens: tuple[int, ...]) -> str:
    """Tokens as text."""
    return "".join(record.labels[token] for token in tokens)
