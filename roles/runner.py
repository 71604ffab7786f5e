"""A worker's part in scheduled work: does the runs the ledger has drawn it for, has them attested, settles them.

Nobody asks for a run and nobody waits for its answer: the ledger holds the request, and takes the result with the
attestations of everyone drawn. Where they do not agree the worker stands by its result there (`ledger.contests`). What
is claimed is on disk first, so a worker that was killed goes on where it was; and it is kept while the claim may be
demanded or disputed.
"""

import random
from collections.abc import Callable, Iterable, Mapping

from protocol.codec import decode, encode
from protocol.errors import ProtocolError
from protocol.jobs import Attestation, ClaimedWork, PaidRequest, Voucher, compute_claim_id, compute_request_id
from protocol.keys import Signer
from protocol.ledger.contests import ContestRun
from protocol.ledger.escrow import SettleJob
from protocol.ledger.state import State
from protocol.ledger.transactions import ZeroReason
from protocol.ledger.workflow_records import Run
from protocol.messages import GOSSIP_LIST_MAX, Claims
from protocol.proofs.bounds import may_be_shown
from protocol.signing import verify_signed
from roles.attestations import ask_for
from roles.committees import Committees
from roles.dissent import ask_dissenters, get_asked, hear_shown
from roles.packing import pack
from roles.receipts import make_receipt
from roles.role import Compute, Computed, Effect, Publish, Record, Store, Submit
from roles.workbook import Job, JournalEntry

RUN = "run|"  # begins its tokens
BUCKET = "runs"
CLAIM_AGAIN_MS = 1_000
RUNS_MAX = 64  # in hand
OVER_MAX = 4_096  # kept to answer for


class Runner:
    """Runs by the id of their job on the ledger. `account` is the worker's."""

    def __init__(self, account: bytes, signer: Signer, rng: random.Random, committees: Committees) -> None:
        self._account = account
        self._signer = signer
        self._random = rng
        self._committees = committees
        self._jobs: dict[bytes, Job] = {}
        self._over: dict[bytes, Job] = {}  # claimed, and off the ledger
        self._settling: set[bytes] = set()

    @property
    def load(self) -> int:
        return sum(job.receipt is None for job in self._jobs.values())

    def restore(self, kept: Mapping[bytes, bytes], state: State) -> None:
        """Claims of an earlier process."""
        for key, data in kept.items():
            entry = decode(JournalEntry, data)
            job = Job(entry.item, rows=1)
            self._claim(job, entry, state)
            self._jobs[key] = job

    def find(self, channel: bytes, seq: int) -> Job | None:
        """A run this worker may still be asked about, by what its claim names in the place of a channel."""
        job = self._jobs.get(channel) or self._over.get(channel)
        return job if job is not None and job.key == (channel, seq) else None

    def look(self, state: State, models: Iterable[bytes], now_ms: int) -> list[Effect]:
        """Begin what the ledger has drawn us for, forget what nobody can ask about any more."""
        over = [(key, self._jobs.pop(key)) for key in list(self._jobs) if key not in state.runs]
        self._over.update((key, job) for key, job in over if job.receipt is not None)
        self._settling -= {key for key, _ in over}
        free = _list_free(self._over, state)
        self._over = {key: job for key, job in self._over.items() if key not in free}
        effects: list[Effect] = [Store(BUCKET, key, None) for key in free]
        held = set(models)
        for key, run in sorted(state.runs.items()):
            is_ours = key not in self._jobs and state.jobs[key].payee == self._account and run.request.model in held
            if is_ours and now_ms < run.request.deadline_ms and len(self._jobs) < RUNS_MAX:
                self._jobs[key] = Job(_make_item(key, run), rows=1)
                fields = {"job": key, "request_id": compute_request_id(run.request), "tick": run.tick}
                compute = Compute(_name(key), run.request.model, run.request.inputs, run.request.deadline_ms)
                effects += [Record("run.begun", fields), compute]
        return effects

    def on_computed(self, computed: Computed, state: State, now_ms: int) -> list[Effect]:
        key = _parse(computed.token)
        job = self._jobs.get(key)
        if job is None or job.receipt is not None:
            return []
        if computed.outputs is None:
            return [Record("run.failed", {"job": key, "reason": computed.error})]
        receipt = make_receipt(job, computed, self._random.randbytes(32), self._signer)
        entry = JournalEntry(job.item, (receipt,), computed.outputs, (), 0)
        self._claim(job, entry, state)
        job.asked_ms = now_ms
        return [Store(BUCKET, key, encode(entry)), *_publish([job])]

    def on_attestations(self, items: tuple[Attestation, ...], state: State) -> list[Effect]:
        effects: list[Effect] = []
        for item in items:
            key, job = self._find_claim(item.claim_id)
            if job is None or item.verifier not in job.committee or item.verifier in job.attestations:
                continue
            try:
                verify_signed(item, item.verifier)
            except ProtocolError:
                continue  # pulled from a peer that is not its author: nobody to blame by name
            job.hear(item)
            effects += self._go_on(key, job, state)
        return effects

    def on_opening(self, verifier: bytes, token: str, message: object, state: State) -> list[Effect]:
        """What a verifier in dissent shows: outputs near to ours, or it stays in dissent. None for no answer at all."""
        key, job = self._find_claim(get_asked(token))
        if job is None or verifier not in job.unlike or message is None:
            return []
        if hear_shown(job, verifier, message, state):
            return self._go_on(key, job, state)
        return self._give_up(key, job)

    def chase(self, state: State, now_ms: int) -> list[Effect]:
        """Claims whose attestations are overdue: publish them again, and ask the drawn verifiers for what they hold."""
        overdue: list[Job] = []
        effects: list[Effect] = []
        for key, job in self._jobs.items():
            if job.receipt is None or now_ms < job.asked_ms + CLAIM_AGAIN_MS:
                continue
            job.asked_ms = now_ms
            effects += self._go_on(key, job, state)
            if len(job.attestations) == len(job.committee):
                continue
            overdue.append(job)
            asked = (verifier for verifier in job.committee if verifier not in job.attestations)
            effects += [ask_for(verifier, (job.claim_id,)) for verifier in asked]
        return [*_publish(overdue), *effects]

    def on_submitted(self, token: str, height: int | None, error: str) -> list[Effect]:
        """What is refused is tried again at the next chase, for as long as the ledger waits for it."""
        key = _parse(token)
        self._settling.discard(key)
        job = self._jobs.get(key)
        name = "run.contested" if job is not None and job.unlike else "run.settled"
        return [Record(name, {"job": key, "height": height or 0, "error": error})]

    def _claim(self, job: Job, entry: JournalEntry, state: State) -> None:
        (job.receipt,) = entry.receipts
        job.outputs = entry.outputs
        job.claim_id = compute_claim_id(job.receipt.claim)
        job.committee = self._committees.draw(job.receipt, state)

    def _find_claim(self, claim_id: bytes) -> tuple[bytes, Job | None]:
        claimed = ((key, job) for key, job in self._jobs.items() if job.receipt is not None)
        return next(((key, job) for key, job in claimed if job.claim_id == claim_id), (b"", None))

    def _go_on(self, key: bytes, job: Job, state: State) -> list[Effect]:
        """Settle once everybody drawn has spoken. Who has found something else is asked, or has to dispute it."""
        if not job.committee or len(job.attestations) < len(job.committee) or job.zero_reason:
            return []
        model, run = state.models.get(job.model), state.runs.get(key)
        if not job.unlike:
            return self._submit(key, job, _settle)
        if may_be_shown(model, job.outputs):
            return ask_dissenters(job)
        if model is not None and model.exact and len(job.unlike) < len(job.committee):
            is_contested = run is None or bool(run.contest)
            return [] if is_contested else self._submit(key, job, _contest)
        return self._give_up(key, job)

    def _give_up(self, key: bytes, job: Job) -> list[Effect]:
        job.zero_reason = ZeroReason.DISSENT
        return [Record("run.failed", {"job": key, "reason": "a drawn verifier has found something else"})]

    def _submit(self, key: bytes, job: Job, make: Callable[[bytes, Job], SettleJob | ContestRun]) -> list[Effect]:
        if key in self._settling:
            return []
        self._settling.add(key)
        return [Submit(make(key, job), _name(key))]


def _settle(key: bytes, job: Job) -> SettleJob:
    assert job.receipt is not None
    receipt = job.receipt
    return SettleJob(key, receipt.claim, receipt.salt, receipt.output_digest, _list_words(job), job.outputs)


def _contest(key: bytes, job: Job) -> ContestRun:
    assert job.receipt is not None
    return ContestRun(key, job.receipt, _list_words(job), job.outputs)


def _list_words(job: Job) -> tuple[Attestation, ...]:
    return tuple(job.attestations[verifier] for verifier in job.committee)


def _list_free(over: Mapping[bytes, Job], state: State) -> set[bytes]:
    """Runs nobody can demand or dispute any more, by the ledger's time; the oldest of too many."""
    wanted = {dispute.claim.channel for dispute in state.disputes.values()}
    wanted |= {demand.claim.channel for demand in state.demands.values()}
    before_ms = state.time_ms - state.params.challenge_ms
    past = {key for key, job in over.items() if job.item.request.deadline_ms < before_ms}
    crowd = list(over)[: max(0, len(over) - OVER_MAX)]
    return (past - wanted) | set(crowd)


def _make_item(key: bytes, run: Run) -> PaidRequest:
    """The run as a paid request. Its job on the ledger stands where a voucher's channel would, and pays for it."""
    request = run.request
    voucher = Voucher(
        channel=key,
        seq=0,
        amount=request.fee_max,
        cumulative=request.fee_max,
        request_id=compute_request_id(request),
        attempt=0,
        expiry_ms=request.deadline_ms,
        signature=bytes(64),
    )
    return PaidRequest(request, voucher)


def _publish(jobs: list[Job]) -> list[Effect]:
    works = [ClaimedWork(job.receipt.claim, job.item.request) for job in jobs if job.receipt is not None]
    return [Publish("claims", Claims(items)) for items in pack(works, GOSSIP_LIST_MAX)]


def _name(key: bytes) -> str:
    return RUN + key.hex()


def _parse(token: str) -> bytes:
    return bytes.fromhex(token.removeprefix(RUN))
