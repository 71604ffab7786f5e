"""How requests reach a worker: they are admitted and computed, refused, called off, or early."""

from protocol.content import format_cid
from protocol.errors import ProtocolError
from protocol.generation import read_form
from protocol.jobs import PaidRequest
from protocol.ledger.state import State
from protocol.messages import Cancel
from protocol.tensor import compute_tensors_digest, decode_tensors
from roles.admission import NotAdmitted, RefusalCode, Worker, admit, check_inputs, is_promised
from roles.committees import Committees
from roles.delivery import Delivery
from roles.lateness import Lateness
from roles.models import ModelShelf
from roles.role import Compute, Effect, Fetch, Record, Withdraw
from roles.streams_out import StreamsOut
from roles.unwanted import Unwanted
from roles.workbook import Job, Workbook, compute_job_key

JOBS_MAX = 48  # running or waiting: as many as the engine lets wait of one model; whoever is turned away hears at once
EARLY_MAX = 64  # requests whose channel or epoch this node does not know yet
EARLY_MS = 3_000  # how long the ledger may take to bring it
CANCELLED = "called off by the client before it had begun"


class Intake:
    """Requests up to the engine. `price` is in grains per row."""

    def __init__(
        self,
        worker: Worker,
        price: int,
        shelf: ModelShelf,
        book: Workbook,
        committees: Committees,
        delivery: Delivery,
    ) -> None:
        self._worker = worker
        self._price = price
        self._shelf = shelf
        self._book = book
        self._delivery = delivery
        self._committees = committees
        self._lateness = Lateness(book)
        self.computing: dict[str, Job] = {}
        self._early: list[tuple[int, bytes, PaidRequest]] = []  # when, from whom, what
        self._inputs: dict[str, list[Job]] = {}  # cid of inputs -> jobs that wait for them
        self._unwanted = Unwanted()
        self.streams = StreamsOut()

    @property
    def load(self) -> int:
        return len(self.computing) + sum(map(len, self._inputs.values()))

    def take(
        self, client: bytes, item: PaidRequest, state: State, now_ms: int, is_direct: bool = False
    ) -> list[Effect]:
        channel = state.channels.get(item.voucher.channel)
        is_ours = channel is not None and channel.payee == self._worker.account
        if client != item.request.client or (not is_ours and not is_direct):
            return []  # the topic is shared: the voucher's channel says whose job it is
        if _is_early(item, state) and len(self._early) < EARLY_MAX:
            self._early.append((now_ms, client, item))
            return []
        known = self._book.find(item.voucher.channel, item.voucher.seq)
        if known is not None:
            return self._again(known, item)
        try:
            if self.load >= JOBS_MAX:
                raise NotAdmitted(RefusalCode.BUSY, f"{self.load} jobs are in hand")
            self._lateness.check(item)
            rows = admit(item, state, self._worker, self._price, self._shelf.held, now_ms)
            self._book.check_order(item.voucher, state, now_ms)
            self._committees.check(item.request, state, now_ms)
        except NotAdmitted as refusal:
            if channel is not None and is_ours and is_promised(item, channel):
                self._book.turn_away(item.voucher)
            return self._delivery.refuse(item, refusal.code, str(refusal))
        job = Job(item, rows)
        self._book.add(job)
        taken = Record("request.taken", {"request_id": item.voucher.request_id, "attempt": item.voucher.attempt})
        if self._unwanted.take(item):
            job.is_cancelled = True
            return [taken, *self._delivery.fail(job, RefusalCode.CANCELLED, CANCELLED)]
        if item.request.inputs_blob:
            cid = format_cid(item.request.inputs_blob[0])
            self._inputs.setdefault(cid, []).append(job)
            return [taken, Fetch(cid)]
        return [taken, self._compute(job, item, state, now_ms)]

    def _again(self, known: Job, item: PaidRequest) -> list[Effect]:
        """A repeated request costs nothing: the answer is sent once more if it is there."""
        if known.item.voucher.request_id != item.voucher.request_id:
            reason = f"voucher {item.voucher.seq} pays another request"
            return self._delivery.refuse(item, RefusalCode.VOUCHER_REUSED, reason)
        if known.receipt is not None:
            return self._delivery.answer(known)
        if known.zero_reason:
            code = RefusalCode.CANCELLED if known.is_cancelled else RefusalCode.FAILED
            return self._delivery.refuse(item, code, "this job has ended already and earns nothing")
        return []

    def cancel(self, client: bytes, wish: Cancel, state: State, now_ms: int) -> list[Effect]:
        """The client wants it no more. What has not begun earns nothing, nor does a generation that has not ended.

        What is done counts, and is sent once more.
        """
        job = self._book.find(wish.channel, wish.seq)
        channel = state.channels.get(wish.channel)
        if job is None and channel is not None and wish.seq <= channel.settled_seq:
            reason = f"voucher {wish.seq} is behind the settled {channel.settled_seq}"
            return self._delivery.say_no(client, wish.request_id, wish.attempt, RefusalCode.VOUCHER_REUSED, reason)
        if job is None:
            self._unwanted.add(client, wish)
            return self._delivery.say_no(client, wish.request_id, wish.attempt, RefusalCode.CANCELLED, CANCELLED)
        if (client, wish.request_id) != (job.item.request.client, job.item.voucher.request_id):
            return []
        if job.receipt is not None:
            return self._delivery.answer(job)
        if job.zero_reason:
            return self._again(job, job.item)
        job.is_cancelled = True
        for waiting in self._inputs.values():
            if job in waiting:
                waiting.remove(job)
                return self._delivery.fail(job, RefusalCode.CANCELLED, CANCELLED)
        token = compute_job_key(*job.key).hex()
        self.streams.note_called_off(token, now_ms)
        return [Withdraw(token)]

    def look(self, state: State, now_ms: int) -> list[Effect]:
        """What waited for the ledger, and how late that is. To be told now and then."""
        self._lateness.look(state, now_ms)
        return self.take_early(state, now_ms)

    def take_early(self, state: State, now_ms: int) -> list[Effect]:
        """Requests that came before the block with their channel or epoch; those it never came for are refused."""
        early, self._early = self._early, []
        effects: list[Effect] = []
        for arrived_ms, client, item in early:
            if not _is_early(item, state):
                effects += self.take(client, item, state, now_ms, is_direct=True)
            elif now_ms < arrived_ms + EARLY_MS:
                self._early.append((arrived_ms, client, item))
            elif item.voucher.channel in state.channels:
                reason = f"epoch {item.request.epoch} has not begun here, the ledger is in {state.epoch}"
                effects += self._delivery.refuse(item, RefusalCode.OTHER_EPOCH, reason)
            else:
                reason = f"channel {item.voucher.channel.hex()} is not on the ledger"
                effects += self._delivery.refuse(item, RefusalCode.UNPAID, reason)
        return effects

    def _compute(self, job: Job, item: PaidRequest, state: State, now_ms: int) -> Effect:
        token, request = compute_job_key(*job.key).hex(), item.request
        self.computing[token] = job
        model = state.models[request.model]
        makes_text = read_form(model.inputs, model.outputs) is not None
        streams = makes_text and self.streams.begin(token, item, now_ms)
        return Compute(token, request.model, request.inputs, request.deadline_ms, streams)

    def on_fetched(self, source: str, data: bytes | None, error: str, state: State) -> list[Effect]:
        jobs = self._inputs.pop(source, [])
        return [effect for job in jobs for effect in self._run_blob(job, data, error, state)]

    def _run_blob(self, job: Job, data: bytes | None, error: str, state: State) -> list[Effect]:
        item = job.item
        if data is None:
            return self._delivery.fail(job, RefusalCode.BAD_INPUT, f"inputs: {error}")
        try:
            inputs = decode_tensors(data)
            job.rows = check_inputs(inputs, state.models[item.request.model])
            if item.voucher.amount < self._price * job.rows:
                price = self._price * job.rows
                raise NotAdmitted(RefusalCode.PRICE, f"{job.rows} rows cost {price} grains, paid {item.voucher.amount}")
        except ProtocolError as malformed:
            return self._delivery.fail(job, RefusalCode.BAD_INPUT, str(malformed))
        except NotAdmitted as refusal:
            return self._delivery.fail(job, refusal.code, str(refusal))
        token = compute_job_key(*job.key).hex()
        self.computing[token] = job
        job.input_digest = compute_tensors_digest(inputs)
        return [Compute(token, item.request.model, inputs, item.request.deadline_ms)]


def _is_early(item: PaidRequest, state: State) -> bool:
    """Whether a block that its client knows may not have come here yet."""
    return item.voucher.channel not in state.channels or item.request.epoch > state.epoch
