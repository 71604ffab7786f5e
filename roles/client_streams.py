"""What a client makes of streamed answers: pieces on their way to whoever asked, and streams that break off."""

from protocol.errors import RemoteError
from protocol.generation import read_outputs
from protocol.messages import Accepted, Piece, Refused
from protocol.tensor import Tensor
from roles.attempts import Attempt, Job, Tokens
from roles.client_jobs import Jobs
from roles.role import Deliver, Effect, Penalise, Record, Reply
from roles.streams_in import SILENCE_MS_MAX

LOST_MS = 1_000  # a worker whose connection is gone may be back within this time


class ClientStreams:
    """Of the answers that are under way."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def on_piece(self, found: tuple[Job, Attempt] | None, piece: Piece, reply: str, now_ms: int) -> list[Effect]:
        if found is None or found[1].stream is None or found[1].is_over or found[1].receipt is not None:
            return [Reply(reply, Refused("no piece of such an answer is wanted here"))]
        job, attempt = found
        assert attempt.stream is not None
        try:
            taken = attempt.stream.take(piece, reply, now_ms)
        except RemoteError as error:
            blamed: list[Effect] = [Penalise(attempt.worker, str(error)), Reply(reply, Refused(str(error)[:500]))]
            return [*blamed, *self._cut(job, attempt, str(error), now_ms)]
        attempt.sent_ms = now_ms  # it is at work: nothing has to be said again
        replies = [Reply(each, Accepted()) for each in taken]
        return [*replies, *self.tell(job, attempt, attempt.stream.tokens, now_ms)]

    def tell(self, job: Job, attempt: Attempt, tokens: list[int], now_ms: int) -> list[Effect]:
        """Deliver what is new. Another worker's answer must be the one whose beginning was delivered already."""
        known = min(len(job.told), len(tokens))
        if tokens[:known] != job.told[:known]:
            good = next(at for at in range(known) if tokens[at] != job.told[at])
            reason = f"two workers give other answers: {good} tokens are the same in both"
            job.good = good
            return self._jobs.fail(job, "diverged", reason, now_ms)
        fresh = tuple(tokens[known:])
        job.told += fresh
        tokens_told = (Tokens(token, job.request_id, known, fresh) for token in job.tokens if fresh)
        return [Deliver(each) for each in tokens_told]

    def verify_result(self, attempt: Attempt, outputs: tuple[Tensor, ...]) -> None:
        """RemoteError when a result is not what was streamed."""
        if attempt.stream is not None:
            tokens, steps = read_outputs(outputs, attempt.stream.wanted, attempt.stream.form)
            attempt.stream.verify_begins(tokens, steps)

    def on_result(self, job: Job, attempt: Attempt, now_ms: int) -> list[Effect]:
        """The rest of an answer comes with its result."""
        if attempt.stream is None:
            return []
        tokens, _ = read_outputs(attempt.outputs, attempt.stream.wanted, attempt.stream.form)
        return self.tell(job, attempt, list(tokens), now_ms)

    def find_silent(self, job: Job, attempt: Attempt, now_ms: int) -> list[Effect]:
        """A stream that has begun and does not go on is cut."""
        stream = attempt.stream
        if stream is None or not stream.tokens or attempt.is_over or attempt.receipt is not None:
            return []
        if now_ms < stream.heard_ms + SILENCE_MS_MAX:
            return []
        silence_ms = now_ms - stream.heard_ms
        return self._cut(job, attempt, f"{len(stream.tokens)} tokens came, then none for {silence_ms} ms", now_ms)

    def on_peer_down(self, peer: bytes, now_ms: int) -> None:
        """The connection its pieces came by is gone: they are waited for no longer than it takes to dial anew."""
        for job in self._jobs.under_way.values():
            for attempt in job.attempts:
                if attempt.worker == peer and attempt.stream is not None:
                    attempt.stream.heard_ms = min(attempt.stream.heard_ms, now_ms - SILENCE_MS_MAX + LOST_MS)

    def _cut(self, job: Job, attempt: Attempt, reason: str, now_ms: int) -> list[Effect]:
        """Nothing more of this stream is taken. The worker may claim its pay all the same: it gets no other voucher."""
        assert attempt.stream is not None
        good = len(attempt.stream.tokens)
        fields = {"request_id": job.request_id, "worker": attempt.worker, "tokens": good, "reason": reason}
        record = Record("stream.broken", fields)
        if job.ask.ends_when_cut:
            attempt.note, job.good = f"cut: {reason}", good
            return [record, *self._jobs.fail(job, "cut", f"the stream was cut: {reason}", now_ms)]
        attempt.is_silent = True
        return [record, *self._jobs.fall_back(job, attempt, "no_answer", f"the stream was cut: {reason}", now_ms)]
