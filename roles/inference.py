"""Runs models for pay: admits, computes, signs a receipt, claims, gathers attestations, settles.

The result goes to the client at once and only to it; the claim goes to the verifiers, blinded. What is claimed is on
disk first, so a killed worker still settles what it has promised.
"""

from collections.abc import Iterable

from protocol.codec import decode, encode
from protocol.committee import compute_committee
from protocol.content import format_cid
from protocol.errors import ProtocolError
from protocol.jobs import (
    Attestation,
    ClaimedWork,
    InferenceRequest,
    Mode,
    PaidRequest,
    Receipt,
    compute_attestation,
    compute_request_id,
)
from protocol.keys import format_node
from protocol.ledger.state import State
from protocol.ledger.transactions import ZeroReason
from protocol.messages import (
    GOSSIP_LIST_MAX,
    Accepted,
    Attestations,
    Cancel,
    Claims,
    DirectRequest,
    GetAttestations,
    GetExhibit,
    GetTrace,
    Refusal,
    Refused,
    Requests,
    Result,
)
from protocol.signing import verify_signed
from protocol.tensor import compute_tensors_digest, decode_tensors
from roles.admission import NotAdmitted, RefusalCode, Worker, admit, check_inputs
from roles.batcher import BATCH_MS, Batcher
from roles.defender import DEFENCE, Defender
from roles.models import ModelShelf
from roles.packing import pack
from roles.receipts import sign_receipt
from roles.role import (
    Compute,
    Computed,
    Context,
    Effect,
    Event,
    Fetch,
    Fetched,
    Inspected,
    LedgerAdvanced,
    Publish,
    Received,
    Record,
    Reply,
    Request,
    Requested,
    RequestFailed,
    Role,
    Send,
    SetTimer,
    Started,
    Store,
    Submitted,
    TimerFired,
    Withdraw,
)
from roles.settler import Settler
from roles.shunned import Shunned
from roles.unwanted import Unwanted
from roles.workbook import Job, JournalEntry, Workbook, compute_job_key

JOBS_MAX = 256  # running or waiting for inputs
CLAIMS_MS = 30  # claims gather this long before they are published
TICK_MS = 500
CLAIM_AGAIN_MS = 2_000
EARLY_MAX = 64  # direct requests whose channel this node does not know yet
EARLY_MS = 3_000  # how long the ledger may take to bring it
RESULT_AGAIN_MS = 100  # doubled with every try
RESULT_AGAIN_MS_MAX = 5_000
PRICE_PER_ROW = 1_000_000  # grains
CANCELLED = "called off by the client before it had begun"


class Inference(Role):
    name = "inference"
    topics = ("infer/0", "proofs")
    protocols = ("infer", "trace")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._price = int(context.config.get("price", PRICE_PER_ROW))
        self._shelf = ModelShelf(context.config.get("models"))
        self._book = Workbook()
        self._computing: dict[str, Job] = {}
        self._shunned = Shunned()
        self._early: list[tuple[int, bytes, PaidRequest]] = []  # when, from whom, what
        self._inputs: dict[str, list[Job]] = {}  # cid of inputs -> jobs that wait for them
        self._unwanted = Unwanted()
        self._unclaimed: list[Job] = []  # on disk, not yet published
        account = context.account.public
        self._batcher = Batcher(self._book, account, int(context.config.get("batch_ms", BATCH_MS)))
        self._defender = Defender(account, self._book.find)
        self._settler = Settler(self._book, self._batcher)

    @property
    def is_ready(self) -> bool:
        return self._shelf.is_complete

    @property
    def models(self) -> tuple[bytes, ...]:
        return self._shelf.held

    @property
    def price(self) -> int:
        return self._price

    @property
    def load(self) -> int:
        return len(self._computing) + sum(map(len, self._inputs.values()))

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Started(state, stored):
                answered = stored.get("answered", {}).values()
                self._book.restore_answered(decode(JournalEntry, data) for data in answered)
                return self._start(state, stored.get("jobs", {}).values(), now_ms)
            case LedgerAdvanced(state):
                self._state = state
                asked = [*self._shelf.advance(state), *self._batcher.answer(state)]
                defence = self._defender.look(state, now_ms)
                return [*self._settler.forget_settled(state), *asked, *defence, *self._take_early(now_ms)]
            case Received(sender, Requests(items), "infer/0"):
                return [effect for item in items for effect in self._take(sender, item, now_ms)]
            case Requested(sender, DirectRequest(item), _, token):
                return [Reply(token, Accepted()), *self._take(sender, item, now_ms, is_direct=True)]
            case Requested(message=GetTrace() | GetExhibit() as question, token=token):
                return self._defender.on_requested(question, token, self._ledger, now_ms)
            case Inspected(token, answer, error):
                return self._defender.on_inspected(token, answer, error, now_ms)
            case Requested(sender, Cancel() as wish, _, token):
                return [Reply(token, Accepted()), *self._cancel(sender, wish)]
            case Requested(token=token):
                return [Reply(token, Refused("a worker takes direct requests and cancellations"))]
            case Fetched(source, data, error):
                defence = self._defender.on_fetched(source, data, error, now_ms)
                return [*defence, *self._fetched(source, data, error, now_ms)]
            case Computed():
                return self._computed(event, now_ms)
            case Received(message=Attestations(items)):
                return self._attested(items, now_ms)
            case RequestFailed(_, token, reason):
                return self._undelivered(token, reason, now_ms)
            case Submitted(token, _, error) if token.startswith(DEFENCE):
                return self._defender.on_submitted(token, error, now_ms)
            case Submitted(token, _, error):
                return self._settler.on_submitted(token, error, self._ledger, now_ms)
            case TimerFired("claims"):
                return self._publish_claims()
            case TimerFired("tick"):
                return self._tick(now_ms)
            case TimerFired(name) if name == DEFENCE:
                return self._defender.look(self._ledger, now_ms)
            case TimerFired(name) if name.startswith("result|"):
                return self._answer_late(name)
            case TimerFired(name):
                return self._shelf.on_timer(name)
            case _:
                return []

    def _start(self, state: State, journal: Iterable[bytes], now_ms: int) -> list[Effect]:
        self._state = state
        self._book.restore((decode(JournalEntry, data) for data in journal), self._draw_for)
        settled, defence = self._settler.forget_settled(state), self._defender.look(state, now_ms)
        return [*self._shelf.start(state), *settled, *defence, SetTimer("tick", now_ms + TICK_MS)]

    # A request comes in

    def _take(self, client: bytes, item: PaidRequest, now_ms: int, is_direct: bool = False) -> list[Effect]:
        channel = self._ledger.channels.get(item.voucher.channel)
        is_ours = channel is not None and channel.payee == self.context.account.public
        if client != item.request.client or (not is_ours and not is_direct):
            return []  # the topic is shared: the voucher's channel says whose job it is
        if channel is None and len(self._early) < EARLY_MAX:
            self._early.append((now_ms, client, item))
            return []
        known = self._book.find(item.voucher.channel, item.voucher.seq)
        if known is not None:
            return self._again(known, item)
        try:
            if self.load >= JOBS_MAX:
                raise NotAdmitted(RefusalCode.BUSY, f"{self.load} jobs are in hand")
            worker = Worker(self.context.account.public, self.context.signer.public)
            rows = admit(item, self._ledger, worker, self._price, self._shelf.held, now_ms)
            self._check_committee(item.request, now_ms)
        except NotAdmitted as refusal:
            return [self._refuse(item, refusal.code, str(refusal))]
        job = Job(item, rows)
        self._book.add(job)
        taken = Record("request.taken", {"request_id": item.voucher.request_id, "attempt": item.voucher.attempt})
        if self._unwanted.take(item):
            job.is_cancelled = True
            return [taken, *self._fail(job, RefusalCode.CANCELLED, CANCELLED)]
        if item.request.inputs_blob:
            cid = format_cid(item.request.inputs_blob[0])
            self._inputs.setdefault(cid, []).append(job)
            return [taken, Fetch(cid)]
        return [taken, self._compute(job, item)]

    def _check_committee(self, request: InferenceRequest, now_ms: int) -> None:
        """NotAdmitted when a verifier this claim would need has failed this worker lately."""
        if request.mode != Mode.INDIVIDUAL:
            return
        try:
            committee = self._draw(request.epoch, compute_request_id(request), request.verifiers)
        except ProtocolError as error:  # too few verifiers of other accounts
            raise NotAdmitted(RefusalCode.POLICY, str(error)) from error
        shunned = self._shunned.find(committee, now_ms)
        if shunned is not None:
            reason = f"verifier {format_node(shunned)}, drawn for this request, owes this worker attestations"
            raise NotAdmitted(RefusalCode.COMMITTEE, reason)

    def _again(self, known: Job, item: PaidRequest) -> list[Effect]:
        """A repeated request costs nothing: the answer is sent once more if it is there."""
        if known.item.voucher.request_id != item.voucher.request_id:
            return [self._refuse(item, RefusalCode.VOUCHER_REUSED, f"voucher {item.voucher.seq} pays another request")]
        if known.receipt is not None:
            return self._answer(known)
        if known.zero_reason:
            code = RefusalCode.CANCELLED if known.is_cancelled else RefusalCode.FAILED
            return [self._refuse(item, code, "this job has ended already and earns nothing")]
        return []

    def _cancel(self, client: bytes, wish: Cancel) -> list[Effect]:
        """The client wants it no more. What has not begun earns nothing; what is done counts, and is sent once more."""
        job = self._book.find(wish.channel, wish.seq)
        channel = self._ledger.channels.get(wish.channel)
        if job is None and channel is not None and wish.seq <= channel.settled_seq:
            reason = f"voucher {wish.seq} is behind the settled {channel.settled_seq}"
            refusal = Refusal(wish.request_id, wish.attempt, str(RefusalCode.VOUCHER_REUSED), reason)
            return [Send(client, "infer", refusal)]
        if job is None:
            self._unwanted.add(client, wish)
            refusal = Refusal(wish.request_id, wish.attempt, str(RefusalCode.CANCELLED), CANCELLED)
            return [Send(client, "infer", refusal)]
        if (client, wish.request_id) != (job.item.request.client, job.item.voucher.request_id):
            return []
        if job.receipt is not None:
            return self._answer(job)
        if job.zero_reason:
            return self._again(job, job.item)
        job.is_cancelled = True
        for waiting in self._inputs.values():
            if job in waiting:
                waiting.remove(job)
                return self._fail(job, RefusalCode.CANCELLED, CANCELLED)
        return [Withdraw(compute_job_key(*job.key).hex())]

    def _take_early(self, now_ms: int) -> list[Effect]:
        """Direct requests that came before the block with their channel; those it never came for are refused."""
        early, self._early = self._early, []
        effects: list[Effect] = []
        for arrived_ms, client, item in early:
            if item.voucher.channel in self._ledger.channels:
                effects += self._take(client, item, now_ms, is_direct=True)
            elif now_ms < arrived_ms + EARLY_MS:
                self._early.append((arrived_ms, client, item))
            else:
                reason = f"channel {item.voucher.channel.hex()} is not on the ledger"
                effects.append(self._refuse(item, RefusalCode.UNPAID, reason))
        return effects

    def _compute(self, job: Job, item: PaidRequest) -> Effect:
        token = compute_job_key(*job.key).hex()
        self._computing[token] = job
        return Compute(token, item.request.model, item.request.inputs, item.request.deadline_ms)

    def _fetched(self, source: str, data: bytes | None, error: str, now_ms: int) -> list[Effect]:
        jobs = self._inputs.pop(source, [])
        if not jobs:
            return self._shelf.on_fetched(source, data, error, now_ms)
        return [effect for job in jobs for effect in self._run_blob(job, data, error)]

    def _run_blob(self, job: Job, data: bytes | None, error: str) -> list[Effect]:
        item = job.item
        if data is None:
            return self._fail(job, RefusalCode.BAD_INPUT, f"inputs: {error}")
        try:
            inputs = decode_tensors(data)
            job.rows = check_inputs(inputs, self._ledger.models[item.request.model])
            if item.voucher.amount < self._price * job.rows:
                price = self._price * job.rows
                raise NotAdmitted(RefusalCode.PRICE, f"{job.rows} rows cost {price} grains, paid {item.voucher.amount}")
        except ProtocolError as malformed:
            return self._fail(job, RefusalCode.BAD_INPUT, str(malformed))
        except NotAdmitted as refusal:
            return self._fail(job, refusal.code, str(refusal))
        token = compute_job_key(*job.key).hex()
        self._computing[token] = job
        job.input_digest = compute_tensors_digest(inputs)
        return [Compute(token, item.request.model, inputs, item.request.deadline_ms)]

    # A result comes out

    def _computed(self, computed: Computed, now_ms: int) -> list[Effect]:
        job = self._computing.pop(computed.token, None)
        if job is None:
            return []
        if computed.outputs is None:
            return self._fail(job, RefusalCode.FAILED, computed.error)
        try:
            receipt = sign_receipt(job, computed, self.context.random.randbytes(32), self.context.signer)
            committee = () if job.mode == Mode.PRIVATE else self._draw_for(receipt)
        except ProtocolError as error:  # too few verifiers of other accounts
            return self._fail(job, RefusalCode.POLICY, str(error))
        job.outputs = computed.outputs
        if job.mode != Mode.INDIVIDUAL:  # checked by who is drawn later, if at all
            self._book.claim(job, receipt, (), now_ms)
            return [self._keep(job), self._record_claim(job, receipt), *self._answer(job)]
        self._book.claim(job, receipt, committee, now_ms)
        self._unclaimed.append(job)
        batch = [SetTimer("claims", now_ms + CLAIMS_MS)] if len(self._unclaimed) == 1 else []
        return [self._keep(job), self._record_claim(job, receipt), *self._answer(job), *batch]

    def _record_claim(self, job: Job, receipt: Receipt) -> Effect:
        claim = receipt.claim
        fields = {
            "request_id": claim.request_id,
            "claim_id": job.claim_id,
            "attempt": claim.attempt,
            "channel": claim.channel,
            "seq": claim.seq,
        }
        return Record("claim.made", fields)

    def _draw_for(self, receipt: Receipt) -> tuple[bytes, ...]:
        claim = receipt.claim
        return self._draw(claim.epoch, claim.request_id, claim.verifiers, claim.worker)

    def _draw(self, epoch: int, request_id: bytes, verifiers: int, worker: bytes = b"") -> tuple[bytes, ...]:
        """The verifiers drawn for a claim; none when its epoch is no longer known, so that it can only end void."""
        snapshot = self._ledger.get_epoch(epoch)
        if snapshot is None:
            return ()
        worker = worker or self.context.signer.public
        return compute_committee(snapshot.seed, request_id, worker, snapshot.candidates, verifiers)

    def _answer(self, job: Job) -> list[Effect]:
        assert job.receipt is not None
        client = job.item.request.client
        token = f"result|{compute_job_key(*job.key).hex()}"
        effects: list[Effect] = [Send(client, "infer", Result(job.receipt, job.outputs), token)]
        if job.attestations:
            effects.append(Send(client, "infer", Attestations(tuple(job.attestations.values()))))
        return effects

    def _undelivered(self, token: str, reason: str, now_ms: int) -> list[Effect]:
        """The client did not take its result: try again, ever more rarely, until the request is over."""
        job = self._find_answered(token)
        if job is None or now_ms >= job.item.request.deadline_ms:
            return []
        job.sends += 1
        fields = {"request_id": job.item.voucher.request_id, "tries": job.sends, "reason": reason}
        wait_ms = min(RESULT_AGAIN_MS * 2**job.sends, RESULT_AGAIN_MS_MAX)
        return [Record("result.undelivered", fields), SetTimer(token, now_ms + wait_ms)]

    def _answer_late(self, token: str) -> list[Effect]:
        job = self._find_answered(token)
        return self._answer(job) if job is not None else []

    def _find_answered(self, token: str) -> Job | None:
        kind, _, key = token.partition("|")
        if kind != "result":
            return None
        job = self._book.find(bytes.fromhex(key[:64]), int(key[64:], 16))
        return job if job is not None and job.receipt is not None else None

    def _refuse(self, item: PaidRequest, code: RefusalCode, reason: str) -> Effect:
        refusal = Refusal(item.voucher.request_id, item.voucher.attempt, str(code), reason[:500])
        return Send(item.request.client, "infer", refusal)

    def _fail(self, job: Job, code: RefusalCode, reason: str) -> list[Effect]:
        if job.is_cancelled:
            code = RefusalCode.CANCELLED
        job.zero_reason = ZeroReason.CANCELLED if job.is_cancelled else ZeroReason.FAILED
        fields = {"request_id": job.item.voucher.request_id, "code": str(code), "reason": reason}
        return [self._keep(job), Record("request.refused", fields), self._refuse(job.item, code, reason)]

    # Attestations come in

    def _publish_claims(self) -> list[Effect]:
        jobs, self._unclaimed = self._unclaimed, []
        return _publish(jobs)

    def _attested(self, items: tuple[Attestation, ...], now_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        for item in items:
            job = self._book.find_claim(item.claim_id)
            if job is None or item.verifier not in job.committee or item.verifier in job.attestations:
                continue
            try:
                verify_signed(item, item.verifier)
            except ProtocolError:
                continue  # pulled from a peer that is not its author: nobody to blame by name
            job.attestations[item.verifier] = item
            if job.is_attested:
                effects += self._complete(job, now_ms)
        return effects

    def _complete(self, job: Job, now_ms: int) -> list[Effect]:
        """All drawn verifiers have spoken: forward them, and settle if they all found what we found."""
        assert job.receipt is not None
        digest = job.receipt.output_digest
        for verifier, item in job.attestations.items():
            if item.value == compute_attestation(job.claim_id, verifier, digest):
                self._shunned.forgive(verifier)
                continue
            self._shunned.add(verifier, now_ms)
            job.zero_reason = job.zero_reason or ZeroReason.DISSENT
        forward = Send(job.item.request.client, "infer", Attestations(tuple(job.attestations.values())))
        return [self._keep(job), forward]

    # Settlement

    def _tick(self, now_ms: int) -> list[Effect]:
        effects: list[Effect] = [SetTimer("tick", now_ms + TICK_MS)]
        effects += [Store("answered", compute_job_key(*key), None) for key in self._forget_answered(now_ms)]
        effects += self._take_early(now_ms)
        for job in self._book.expire(now_ms):
            self._computing.pop(compute_job_key(*job.key).hex(), None)
            effects.append(self._keep(job))
        return [*effects, *self._chase(now_ms), *self._settler.on_tick(self._ledger, now_ms)]

    def _forget_answered(self, now_ms: int) -> list[tuple[bytes, int]]:
        """Settled jobs nobody may ask about any more: their results, or in a dispute how they came about."""
        params, disputes = self._ledger.params, self._ledger.disputes.values()
        disputed = {(item.claim.channel, item.claim.seq) for item in disputes}
        # A block may be as much older than the clock as voters allow.
        return self._book.forget_answered(now_ms - params.challenge_ms - params.header_behind_ms, disputed)

    def _chase(self, now_ms: int) -> list[Effect]:
        """Claims whose attestations are overdue: publish them again, and ask the drawn verifiers for what they hold."""
        overdue: list[Job] = []
        missing: dict[bytes, list[bytes]] = {}
        for job in self._book.jobs.values():
            if job.mode != Mode.INDIVIDUAL or job.receipt is None or job.has_ended:
                continue
            if now_ms < max(job.claimed_ms, job.asked_ms) + CLAIM_AGAIN_MS:
                continue
            job.asked_ms = now_ms
            overdue.append(job)
            for verifier in job.committee:
                if verifier not in job.attestations:
                    self._shunned.add(verifier, now_ms)
                    missing.setdefault(verifier, []).append(job.claim_id)
        asks = [Request(peer, "sync", GetAttestations(tuple(ids[:64])), "pull") for peer, ids in missing.items()]
        return [*_publish(overdue), *asks]

    def _keep(self, job: Job) -> Effect:
        return Store("jobs", compute_job_key(*job.key), encode(job.to_entry()))


def _publish(jobs: list[Job]) -> list[Effect]:
    works = [ClaimedWork(job.receipt.claim, job.item.request) for job in jobs if job.receipt is not None]
    return [Publish("claims", Claims(items)) for items in pack(works, GOSSIP_LIST_MAX)]
