"""A client's side of streamed answers: takes pieces in order, and knows how many tokens are good."""

from dataclasses import dataclass, field

from protocol.errors import RemoteError
from protocol.generation import Generation, StepForm, begin_chain, extend_chain, goes_on, is_over
from protocol.messages import Piece

SILENCE_MS_MAX = 5_000  # between two pieces
# One that is early is answered when it is its turn: a worker has no more on the way (`streams_out`).
PIECES_AHEAD_MAX = 4


class BrokenStream(RemoteError):
    """A piece that no honest worker sends. `good` tokens came before it."""

    def __init__(self, reason: str, good: int) -> None:
        super().__init__(f"{reason}; {good} tokens before it are good")
        self.good = good


@dataclass
class StreamIn:
    """What has come of one attempt's answer. The result must begin with it."""

    wanted: Generation
    form: StepForm
    chain: bytes
    pieces: int = 0
    tokens: list[int] = field(default_factory=list)
    steps: bytearray = field(default_factory=bytearray)
    heard_ms: int = 0
    early: dict[int, tuple[Piece, str]] = field(default_factory=dict)  # by index, with whom to answer

    def take(self, piece: Piece, reply: str, now_ms: int) -> list[str]:
        """Add the next piece, and those after it that came early: the replies they wait for.

        BrokenStream when it is none of those that may come now, or not one of this answer.
        """
        if not self.pieces <= piece.index < self.pieces + PIECES_AHEAD_MAX or piece.index in self.early:
            raise BrokenStream(f"piece {piece.index} came where {self.pieces} was due", len(self.tokens))
        self.heard_ms = now_ms
        self.early[piece.index] = piece, reply
        taken: list[str] = []
        while self.pieces in self.early:
            following, waiting = self.early.pop(self.pieces)
            self._add(following)
            taken.append(waiting)
        return taken

    def _add(self, piece: Piece) -> None:
        good = len(self.tokens)
        if is_over(self.tokens, self.wanted):
            raise BrokenStream("a piece came after the last token", good)
        if not piece.tokens or good + len(piece.tokens) > self.wanted.max_tokens:
            total = good + len(piece.tokens)
            raise BrokenStream(f"a piece of {len(piece.tokens)} tokens, {total} of {self.wanted.max_tokens}", good)
        if goes_on((*self.tokens, *piece.tokens), self.wanted):
            raise BrokenStream("a piece goes on after the token that ends the answer", good)
        strange = next((token for token in piece.tokens if token >= self.form.vocabulary), None)
        if strange is not None:
            raise BrokenStream(f"token {strange} is not one of {self.form.vocabulary}", good)
        try:
            chain = extend_chain(self.chain, len(self.wanted.prompt), good, piece.tokens, piece.steps)
        except RemoteError as error:
            raise BrokenStream(str(error), good) from error
        if chain != piece.chain:
            raise BrokenStream(f"the running hash of piece {piece.index} is another", good)
        self.chain, self.pieces = chain, self.pieces + 1
        self.tokens += piece.tokens
        self.steps += piece.steps

    def verify_begins(self, tokens: tuple[int, ...], steps: bytes) -> None:
        """RemoteError unless an answer with these tokens and steps is the one that was streamed."""
        good = len(self.tokens)
        if list(tokens[:good]) != self.tokens or steps[: len(self.steps)] != self.steps:
            raise RemoteError(f"it is not the answer of which {good} tokens were streamed")


def begin_stream(wanted: Generation, form: StepForm, request_id: bytes, attempt: int) -> StreamIn:
    return StreamIn(wanted, form, begin_chain(request_id, attempt))
