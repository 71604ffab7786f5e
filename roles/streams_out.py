"""A worker's side of streamed answers: pieces of a generation go to whoever asked, as fast as it takes them.

A piece goes out when there is something to say and fewer than PIECES_IN_FLIGHT of the same stream are unanswered: what
a slow client has not taken yet gathers here, bounded by what the request may make, and leaves as one larger piece. A
client that takes nothing any more costs no more than one that never asked for a stream: the work goes on, and its
result is sent as any other.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from protocol.generation import begin_chain, extend_chain
from protocol.jobs import PaidRequest
from protocol.messages import PIECE_TOKENS_MAX, Accepted, Piece, Refused
from protocol.tensor import DIGEST_BYTES
from roles.role import Effect, Progressed, Record, Send

PIECE = "piece|"  # begins the tokens of what is sent
PIECES_IN_FLIGHT = 4
PIECE_MS = 5_000  # for a client to take one
WANTED_MAX = 1_024  # requests for a stream that have not begun
CALLED_OFF_MAX = 3  # streams an account may call off in CALLED_OFF_MS and still be streamed to
CALLED_OFF_MS = 600_000
ACCOUNTS_MAX = 1_024


@dataclass
class _Stream:
    """One answer on its way. What waits to be sent is bounded by what its request may make."""

    client: bytes
    account: bytes
    request_id: bytes
    attempt: int
    prompt: int
    chain: bytes
    index: int = 0
    sent: int = 0  # tokens
    tokens: list[int] = field(default_factory=list)
    steps: bytearray = field(default_factory=bytearray)
    in_flight: int = 0
    is_cut: bool = False  # the client takes no more


class StreamsOut:
    """The streams of one worker's jobs, by the tokens of their computations."""

    def __init__(self) -> None:
        self._wanted: OrderedDict[tuple[bytes, int], None] = OrderedDict()  # channel and seq
        self._open: dict[str, _Stream] = {}
        self._called_off: OrderedDict[bytes, list[int]] = OrderedDict()  # account -> when

    def want(self, item: PaidRequest) -> None:
        """Whoever asks for this wants to hear of it as it goes on."""
        self._wanted[item.voucher.channel, item.voucher.seq] = None
        while len(self._wanted) > WANTED_MAX:
            self._wanted.popitem(last=False)

    def begin(self, token: str, item: PaidRequest, now_ms: int) -> bool:
        """Whether this job, about to be computed, is to be streamed."""
        voucher, request = item.voucher, item.request
        if self._wanted.pop((voucher.channel, voucher.seq), False) is False:
            return False
        # What is streamed and called off has been read for nothing: a few times is bad luck.
        if len(self._list_called_off(request.account, now_ms)) >= CALLED_OFF_MAX:
            return False
        chain = begin_chain(voucher.request_id, voucher.attempt)
        self._open[token] = _Stream(
            request.client, request.account, voucher.request_id, voucher.attempt, request.inputs[0].shape[0], chain
        )
        return True

    def on_progress(self, event: Progressed) -> list[Effect]:
        stream = self._open.get(event.token)
        if stream is None or stream.is_cut:
            return []
        stream.tokens += event.tokens
        stream.steps += event.steps
        return self._send(event.token, stream)

    def on_answer(self, token: str, message: object) -> list[Effect]:
        """The client has a piece, so that there is room for another; anything but that ends its stream."""
        if not isinstance(message, Accepted):
            return self.on_not_taken(token, message.reason if isinstance(message, Refused) else "no answer to a piece")
        name = token.removeprefix(PIECE)
        stream = self._open.get(name)
        if stream is None:
            return []
        stream.in_flight -= 1
        return self._send(name, stream)

    def on_not_taken(self, token: str, reason: str) -> list[Effect]:
        """The client is away, or wants no more pieces. The result is another matter."""
        stream = self._open.get(token.removeprefix(PIECE))
        if stream is None or stream.is_cut:
            return []
        stream.is_cut = True
        stream.tokens.clear()
        stream.steps.clear()
        return [Record("stream.cut", {"request_id": stream.request_id, "tokens": stream.sent, "reason": reason})]

    def end(self, token: str) -> None:
        """The job is over: its result holds all that has not been sent."""
        self._open.pop(token, None)

    def note_called_off(self, token: str, now_ms: int) -> None:
        """The client calls off what it has read a part of."""
        stream = self._open.get(token)
        if stream is None or not stream.sent:
            return
        times = [*self._list_called_off(stream.account, now_ms), now_ms]
        self._called_off[stream.account] = times[-CALLED_OFF_MAX:]
        self._called_off.move_to_end(stream.account)
        while len(self._called_off) > ACCOUNTS_MAX:
            self._called_off.popitem(last=False)

    def _list_called_off(self, account: bytes, now_ms: int) -> list[int]:
        return [when for when in self._called_off.get(account, ()) if now_ms < when + CALLED_OFF_MS]

    def _send(self, token: str, stream: _Stream) -> list[Effect]:
        effects: list[Effect] = []
        while stream.tokens and stream.in_flight < PIECES_IN_FLIGHT and not stream.is_cut:
            tokens = tuple(stream.tokens[:PIECE_TOKENS_MAX])
            # The steps that read the prompt come with the first token.
            size = DIGEST_BYTES * (len(tokens) + (stream.prompt - 1 if not stream.sent else 0))
            steps = bytes(stream.steps[:size])
            stream.chain = extend_chain(stream.chain, stream.prompt, stream.sent, tokens, steps)
            piece = Piece(stream.request_id, stream.attempt, stream.index, tokens, steps, stream.chain)
            effects.append(Send(stream.client, "infer", piece, PIECE + token, PIECE_MS))
            del stream.tokens[: len(tokens)], stream.steps[:size]
            stream.index += 1
            stream.sent += len(tokens)
            stream.in_flight += 1
        return effects
