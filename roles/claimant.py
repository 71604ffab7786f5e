"""What a worker claims: receipts signed and kept, claims published, attestations gathered for them.

A verifier that found another digest of a float model is asked what it found, by the receipt: near is as good as equal.
"""

import random

from protocol.errors import ProtocolError
from protocol.jobs import Attestation, ClaimedWork, Mode, Receipt
from protocol.keys import Signer
from protocol.ledger.state import State
from protocol.ledger.transactions import ZeroReason
from protocol.messages import GOSSIP_LIST_MAX, Attestations, Claims
from protocol.proofs.bounds import may_be_shown
from protocol.signing import verify_signed
from roles.admission import RefusalCode
from roles.attestations import ask_for
from roles.committees import Committees
from roles.delivery import Delivery, keep_job
from roles.dissent import ask_dissenters, get_asked, hear_shown
from roles.packing import compute_leave_ms, pack
from roles.patience import Patience
from roles.receipts import make_receipt
from roles.role import Computed, Effect, Publish, Record, Send, SetTimer
from roles.workbook import Job, Workbook

ASK_MS = 1_000  # at least, without an attestation, until its verifier is asked for it: it may have been lost
ASK_MS_MAX = 2_000


class Claimant:
    """Claims of one worker. `rng` salts them."""

    def __init__(
        self, signer: Signer, rng: random.Random, book: Workbook, committees: Committees, delivery: Delivery
    ) -> None:
        self._signer = signer
        self._random = rng
        self._book = book
        self._committees = committees
        self._delivery = delivery
        self._unclaimed: list[Job] = []  # on disk, not yet published
        self._patience = Patience(ASK_MS, ASK_MS_MAX)

    def on_computed(self, job: Job, computed: Computed, state: State, now_ms: int) -> list[Effect]:
        if computed.outputs is None:
            return self._delivery.fail(job, RefusalCode.FAILED, computed.error)
        try:
            receipt = make_receipt(job, computed, self._random.randbytes(32), self._signer)
            if job.mode == Mode.BATCH:
                self._committees.verify_enough(receipt, state)
            committee = self._committees.draw(receipt, state) if job.mode == Mode.INDIVIDUAL else ()
        except ProtocolError as error:  # too few verifiers of other accounts
            return self._delivery.fail(job, RefusalCode.POLICY, str(error))
        job.outputs = computed.outputs
        if job.mode != Mode.INDIVIDUAL:  # checked by who is drawn later, if at all
            self._book.claim(job, receipt, committee, now_ms)
            return [keep_job(job), self._record_claim(job, receipt), *self._delivery.answer(job)]
        self._book.claim(job, receipt, committee, now_ms)
        self._unclaimed.append(job)
        batch = [SetTimer("claims", compute_leave_ms(now_ms))] if len(self._unclaimed) == 1 else []
        return [keep_job(job), self._record_claim(job, receipt), *self._delivery.answer(job), *batch]

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

    def publish_claims(self) -> list[Effect]:
        jobs, self._unclaimed = self._unclaimed, []
        return _publish(jobs)

    def on_attestations(self, items: tuple[Attestation, ...], state: State, now_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        for item in items:
            job = self._book.find_claim(item.claim_id)
            if job is None or item.verifier not in job.committee or item.verifier in job.attestations:
                continue
            try:
                verify_signed(item, item.verifier)
            except ProtocolError:
                continue  # pulled from a peer that is not its author: nobody to blame by name
            job.hear(item)
            if job.claimed_ms and not job.asked_ms:
                self._patience.note(now_ms - job.claimed_ms)
            if item.verifier not in job.unlike:
                self._committees.shunned.forgive(item.verifier)
            if len(job.attestations) == len(job.committee):
                effects += self._complete(job, state, now_ms)
        return effects

    def on_opening(self, verifier: bytes, token: str, message: object, state: State, now_ms: int) -> list[Effect]:
        """What a verifier in dissent shows: outputs near to ours, or it stays in dissent, as by saying nothing."""
        job = self._book.find_claim(get_asked(token))
        if job is None or verifier not in job.unlike:
            return []
        if not hear_shown(job, verifier, message, state):
            self._dissent(job, verifier, now_ms)
            return [keep_job(job)]
        self._committees.shunned.forgive(verifier)
        return [keep_job(job), *([] if job.unlike else [_forward(job)])]

    def _complete(self, job: Job, state: State, now_ms: int) -> list[Effect]:
        """All drawn verifiers have spoken: forward them, and settle if they all found what we found, or near it."""
        assert job.receipt is not None
        if may_be_shown(state.models.get(job.model), job.outputs):
            return [keep_job(job), _forward(job), *ask_dissenters(job)]
        for verifier in job.unlike:
            self._dissent(job, verifier, now_ms)
        return [keep_job(job), _forward(job)]

    def _dissent(self, job: Job, verifier: bytes, now_ms: int) -> None:
        self._committees.shunned.add(verifier, now_ms)
        job.zero_reason = job.zero_reason or ZeroReason.DISSENT

    def chase(self, now_ms: int) -> list[Effect]:
        """Ask drawn verifiers for attestations that are late. When that has brought nothing, their claims are published
        again as well, and those verifiers shunned."""
        wait_ms = self._patience.wait_ms
        overdue: list[Job] = []
        missing: dict[bytes, list[bytes]] = {}
        unlike: list[Effect] = []
        for job in self._book.list_open(now_ms):
            if job.mode != Mode.INDIVIDUAL or job.receipt is None:
                continue
            if now_ms < max(job.claimed_ms, job.asked_ms) + wait_ms:
                continue
            is_asked, job.asked_ms = bool(job.asked_ms), now_ms
            if len(job.attestations) == len(job.committee):
                unlike += ask_dissenters(job)
                continue
            unheard = [verifier for verifier in job.committee if verifier not in job.attestations]
            for verifier in unheard:
                missing.setdefault(verifier, []).append(job.claim_id)
            if is_asked or not job.claimed_ms:  # of an earlier process perhaps nobody has heard it
                overdue.append(job)
            if is_asked:
                for verifier in unheard:
                    self._committees.shunned.add(verifier, now_ms)
        if missing:
            self._patience.lengthen(now_ms)
        asks = (ask_for(verifier, part) for verifier, ids in missing.items() for part in pack(ids, GOSSIP_LIST_MAX))
        return [*_publish(overdue), *asks, *unlike]


def _forward(job: Job) -> Effect:
    return Send(job.item.request.client, "infer", Attestations(tuple(job.attestations.values())))


def _publish(jobs: list[Job]) -> list[Effect]:
    works = [ClaimedWork(job.receipt.claim, job.item.request) for job in jobs if job.receipt is not None]
    return [Publish("claims", Claims(items)) for items in pack(works, GOSSIP_LIST_MAX)]
