"""Gives a client's jobs to workers: who is asked next, under which voucher, when there is room and money."""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain

from protocol.committee import compute_order, draw_working_set
from protocol.jobs import PaidRequest
from protocol.ledger.records import Candidate
from protocol.ledger.state import State
from protocol.messages import Cancel, DirectRequest, StreamRequest
from roles.admission import SETTLE_GRACE_MS, RefusalCode
from roles.attempts import Attempt, Job, publish_requests
from roles.attesters import Attesters
from roles.congestion import Room, Turns
from roles.debts import Debts
from roles.limits import Limits
from roles.purse import Purse
from roles.role import Effect, Record, Request, Send, Submit
from roles.streams_in import begin_stream
from roles.throttle import Throttle

OPENED_MS = 3_000  # after which all who are not cut off have the block that opened a channel

Missing = dict[tuple[bytes, str], int]  # account and mode without a channel that has room -> fee
Kind = tuple[bytes, int, str, int, int]  # jobs of one kind may be given to the same workers


class Dispatch:
    """Jobs that wait for a worker, and the vouchers in flight. `step` is how many one worker may hold.

    Jobs that nobody has been asked for yet wait for room as well, which streams do not.

    `on_sending` says what has to be done before an attempt of a job is sent.
    """

    def __init__(
        self,
        purse: Purse,
        debts: Debts,
        attesters: Attesters,
        step: int,
        on_sending: Callable[[Job, int], list[Effect]],
    ) -> None:
        self._purse = purse
        self._debts = debts
        self._attesters = attesters
        self._step = step
        self._on_sending = on_sending
        self._new: dict[bytes, Job] = {}  # request id -> job, in the order in which they came
        self._waiting: dict[bytes, Job] = {}  # the same of those that want another worker, and of streams
        self._under_way: set[bytes] = set()  # request ids of those that somebody is at, streams apart
        self._room = Room()
        self._turns = Turns()
        self._in_flight: dict[bytes, set[tuple[bytes, int]]] = {}  # worker -> (request id, attempt)
        self._is_opening = False
        self._opened_ms = -OPENED_MS
        self._limits = Limits()
        self.throttle = Throttle()

    def add(self, job: Job) -> None:
        """It wants another worker; a job that waits for one already gets no second one."""
        if all(attempt.is_over for attempt in job.attempts):  # else a hedge is to be at it as well
            self._under_way.discard(job.request_id)
        (self._waiting if job.attempts or job.ask.streams else self._new).setdefault(job.request_id, job)

    def is_full(self, timeout_ms: int, now_ms: int) -> bool:
        """Whether a job that may take so long would wait too long for its turn."""
        return self._turns.is_too_long(len(self._new), timeout_ms, now_ms)

    def restore(self, attempt: Attempt) -> None:
        """A voucher that an earlier process sent is in flight still."""
        self._in_flight.setdefault(attempt.worker, set()).add(_get_key(attempt))

    def remove(self, job: Job, is_answered: bool, now_ms: int) -> None:
        """The job is over: it waits no more, and what its workers still owe is a debt."""
        self._new.pop(job.request_id, None)
        self._waiting.pop(job.request_id, None)
        for attempt in job.attempts:
            self.free(attempt)
        if job.request_id not in self._under_way:
            return
        if is_answered and not job.attempts[0].is_resumed:
            took_ms = now_ms - job.attempts[0].began_ms
            self._room.note_answer(job.request.model, took_ms, job.ask.timeout_ms, now_ms)
        self._under_way.discard(job.request_id)
        self._turns.note_end(now_ms, len(self._new))

    def note_busy(self, attempt: Attempt, now_ms: int) -> None:
        """Its worker has turned it away for want of room."""
        self.throttle.note_busy(attempt.worker, now_ms)
        self._limits.note_busy(attempt.worker, len(self._in_flight.get(attempt.worker, ())), attempt.began_ms, now_ms)

    def note_behind(self, attempt: Attempt, now_ms: int) -> None:
        """Its worker has turned it away because the ledger is late: asked too often, not for too much at once."""
        self.throttle.note_busy(attempt.worker, now_ms)

    def free(self, attempt: Attempt) -> None:
        """The attempt's voucher is no longer in flight."""
        self._in_flight.get(attempt.worker, set()).discard(_get_key(attempt))

    def run(self, state: State, now_ms: int) -> tuple[list[Effect], list[Job]]:
        """Send what can be sent, open the channels that are missing; and the jobs no worker is left for."""
        effects: list[Effect] = []
        sent: list[Attempt] = []
        left_over: list[Job] = []
        missing: Missing = {}
        full: set[Kind] = set()
        for job in chain(list(self._waiting.values()), self._list_new()):
            if full and not job.attempts and _get_kind(job) in full:
                continue
            attempt, pressed = self._pay(job, state, now_ms, missing)
            effects += [call_off(owed) if owed.is_called_off else go_direct(owed) for owed in pressed]
            if attempt is not None:
                effects += [self._purse.keep(attempt.item.voucher), *self._on_sending(job, now_ms)]
                sent.append(attempt)
            elif not job.order:
                left_over.append(job)
            elif not job.attempts and self._are_full(job.order, now_ms):
                full.add(_get_kind(job))
            if attempt is not None or not job.order:
                self._new.pop(job.request_id, None)
                self._waiting.pop(job.request_id, None)
        effects += _send(sent)
        self._room.look(len(self._under_way) >= self._room.size and bool(self._new), now_ms)
        if missing and not self._is_opening:
            self._is_opening = True
            effects.append(Submit(self._purse.plan_channels(missing, max(missing.values())), "open"))
        return effects, left_over

    def choose(self, job: Job, workers: tuple[bytes, ...], state: State, now_ms: int) -> tuple[bytes, ...]:
        """Those of the workers from whom there is something to expect, and from the verifiers they would need."""
        heard = tuple(worker for worker in workers if not self._debts.is_silent(worker))
        return self._attesters.choose(job, heard, state, now_ms)

    def on_opened(self, error: str, now_ms: int) -> list[Job]:
        """Channels are open, or cannot be opened: then the jobs that waited for them are given back."""
        self._is_opening, self._opened_ms = False, now_ms
        if not error:
            return []
        stuck = [*self._waiting.values(), *self._new.values()]
        self._waiting, self._new = {}, {}
        return stuck

    def _list_new(self) -> Iterator[Job]:
        """Jobs whose turn it is, while there is room for one more."""
        for job in list(self._new.values()):
            if len(self._under_way) >= self._room.size:
                return
            yield job

    def _may_be_new(self, now_ms: int) -> bool:
        """Whether the block with a channel may not have come to everybody yet."""
        return self._is_opening or now_ms < self._opened_ms + OPENED_MS

    def _is_full(self, worker: bytes, now_ms: int) -> bool:
        return len(self._in_flight.get(worker, ())) >= self._limits.get(worker, now_ms)

    def _are_full(self, workers: tuple[bytes, ...], now_ms: int) -> bool:
        return all(self._is_full(worker, now_ms) for worker in workers)

    def _pay(self, job: Job, state: State, now_ms: int, missing: Missing) -> tuple[Attempt | None, list[Attempt]]:
        """The job's next attempt, with its voucher; None while no worker has room or no channel is open.

        And what its workers are to be asked for once more. Workers that cost more than its limit leave a job's order.
        """
        pressed: list[Attempt] = []
        is_first = not job.attempts
        candidates = _get_candidates(state, job.request.epoch)
        for worker in job.order:
            if self._debts.is_silent(worker) and self._debts.count(worker, state):
                pressed += self._debts.press(worker, now_ms)
                job.last_reason = "the workers left hold vouchers they have not answered"
        heard = tuple(worker for worker in job.order if not self._debts.is_silent(worker))
        # The others wait for as long as there is one whose verifiers are heard as well.
        for worker in self._attesters.choose(job, heard, state, now_ms) or heard:
            candidate = candidates.get(worker)
            fee = candidate.price * job.rows if candidate is not None else 0
            if candidate is not None and fee <= job.ask.fee_max and fee > _get_room(job):
                job.order = tuple(other for other in job.order if other != worker)  # as it ended stands already
                continue
            if candidate is None or fee > job.ask.fee_max:
                epoch_over = ("expired", f"epoch {job.request.epoch} is no longer known")
                too_dear = ("price", f"costs {fee} grains, the limit is {job.ask.fee_max}")
                job.last_code, job.last_reason = epoch_over if candidate is None else too_dear
                job.order = tuple(other for other in job.order if other != worker)
                continue
            if self._is_full(worker, now_ms):
                job.last_code, job.last_reason = RefusalCode.BUSY, "the workers left have as much as they have room for"
                continue
            if self.throttle.holds_back(worker, job.request_id, now_ms, is_first):
                is_first = False
                job.last_code, job.last_reason = RefusalCode.BUSY, "the worker turns away most of what it is asked now"
                job.order = tuple(other for other in job.order if other != worker)
                continue
            owed = self._debts.count(worker, state)
            if len(self._in_flight.get(worker, ())) + owed >= self._step:
                if owed:
                    pressed += self._debts.press(worker, now_ms)
                    job.last_reason = "the workers left hold vouchers they have not answered"
                continue
            payee = candidate.account, job.request.mode
            channel = self._purse.find_channel(state, candidate.account, fee, job.request.mode)
            if channel is None:
                missing[payee] = max(fee, missing.get(payee, 0))
                continue
            return self._begin(job, worker, channel, fee, now_ms), pressed
        return None, pressed

    def _begin(self, job: Job, worker: bytes, channel: bytes, fee: int, now_ms: int) -> Attempt:
        expiry_ms = job.request.deadline_ms + 2 * SETTLE_GRACE_MS
        voucher = self._purse.sign_voucher(channel, fee, job.request_id, len(job.attempts) + 1, expiry_ms)
        # What is urgent goes straight to its worker, and so does what a channel pays whose block may not be there yet:
        # the worker waits for that, while gossip would drop it.
        is_direct = is_urgent(job) or self._may_be_new(now_ms)
        self.throttle.note_asked(worker, now_ms)
        attempt = Attempt(PaidRequest(job.request, voucher), worker, now_ms, is_direct=is_direct, began_ms=now_ms)
        if job.generation is not None and job.ask.streams:
            attempt.stream = begin_stream(*job.generation, job.request_id, attempt.number)
        job.order = tuple(other for other in job.order if other != worker)
        job.attempts.append(attempt)
        if not job.ask.streams:
            self._under_way.add(job.request_id)
        self._in_flight.setdefault(worker, set()).add(_get_key(attempt))
        return attempt


def order_workers(job: Job, state: State) -> tuple[bytes, ...]:
    """The job's working set in the order of its request: anyone can recompute it. Empty when its epoch is not known."""
    epoch = state.get_epoch(job.request.epoch)
    if epoch is None:
        return ()
    request = job.request
    size = state.params.working_set
    workers = draw_working_set(epoch, request.account, request.model, size)
    return compute_order(job.request_id, workers)


def is_urgent(job: Job) -> bool:
    """Whether what it asks goes straight to workers, and to the next one if that fails."""
    return job.ask.is_direct or job.is_hedged or job.ask.streams


def go_direct(attempt: Attempt) -> Effect:
    """The attempt's request straight down a stream to its worker."""
    attempt.is_asking = True
    token = f"direct|{attempt.item.voucher.request_id.hex()}|{attempt.number}"
    message = DirectRequest(attempt.item) if attempt.stream is None else StreamRequest(attempt.item)
    return Request(attempt.worker, "infer", message, token)


def call_off(attempt: Attempt) -> Effect:
    """Its worker is told that nobody wants it any more."""
    voucher = attempt.item.voucher
    return Send(attempt.worker, "infer", Cancel(voucher.request_id, voucher.attempt, voucher.channel, voucher.seq))


def _send(attempts: list[Attempt]) -> list[Effect]:
    effects = publish_requests([attempt.item for attempt in attempts if not attempt.is_direct])
    for attempt in attempts:
        request_id = attempt.item.voucher.request_id
        fields = {"request_id": request_id, "attempt": attempt.number, "worker": attempt.worker}
        effects.append(Record("request.sent", fields))
        if attempt.is_direct:
            effects.append(go_direct(attempt))
    return effects


def _get_candidates(state: State, epoch: int) -> Mapping[bytes, Candidate]:
    snapshot = state.get_epoch(epoch)
    return {} if snapshot is None else snapshot.by_node


def _get_room(job: Job) -> int:
    """Grains that the job's next voucher may be worth."""
    if not job.ask.spend_max:
        return job.ask.fee_max
    return job.ask.spend_max - sum(attempt.owed for attempt in job.attempts)


def _get_kind(job: Job) -> Kind:
    request = job.request
    return request.model, request.epoch, request.mode, job.rows, min(job.ask.fee_max, _get_room(job))


def _get_key(attempt: Attempt) -> tuple[bytes, int]:
    return attempt.item.voucher.request_id, attempt.number
