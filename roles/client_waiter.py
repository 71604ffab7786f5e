"""What a program waits for: the answer of a request, and what is streamed of it before."""

from collections import deque
from dataclasses import dataclass, field

import trio

from protocol.tensor import Tensor
from roles.attempts import ModelBytes, Outcome, Recalled, Tokens
from roles.client_errors import make_error


@dataclass(frozen=True)
class Answer:
    """A result with what stands for it. `fee` in grains; `worker` and `verifiers` are node keys.

    `is_attested` says that every drawn verifier has vouched for it: always so in mode `individual`, never yet in the
    others. `receipt` is a receipt file, as `rolemesh verify` takes it; it is in the client's `receipts/` too.
    """

    request_id: bytes
    outputs: tuple[Tensor, ...]
    receipt: bytes
    worker: bytes
    verifiers: tuple[bytes, ...]
    fee: int
    is_attested: bool
    attempts: int = 1
    was_direct: bool = False


@dataclass
class Waiter:
    """Somebody who waits for an outcome."""

    done: trio.Event = field(default_factory=trio.Event)
    outcome: Outcome | None = None
    reply: Recalled | ModelBytes | None = None
    told: deque[Tokens] = field(default_factory=deque)  # of a stream; bounded by what was asked for
    news: trio.Event = field(default_factory=trio.Event)

    def take_answer(self, waited_s: float) -> Answer:
        """The answer that has come. ClientError when none has, after so long, or when it is none."""
        outcome = self.outcome
        if outcome is None:
            reason = f"the client said nothing for {waited_s:.0f} s"
            raise make_error(Outcome("", False, b"", code="timeout", reason=reason))
        if not outcome.is_answered:
            raise make_error(outcome)
        return make_answer(outcome)


def make_answer(outcome: Outcome) -> Answer:
    return Answer(
        request_id=outcome.request_id,
        outputs=outcome.outputs,
        receipt=outcome.receipt_file,
        worker=outcome.worker,
        verifiers=outcome.verifiers,
        fee=outcome.fee,
        is_attested=outcome.is_attested,
        attempts=outcome.attempts,
        was_direct=outcome.was_direct,
    )
