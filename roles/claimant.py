"""What a worker claims: receipts signed and kept, claims published, attestations gathered for them."""

import random

from protocol.errors import ProtocolError
from protocol.jobs import Attestation, ClaimedWork, Mode, Receipt, compute_attestation
from protocol.keys import Signer
from protocol.ledger.state import State
from protocol.ledger.transactions import ZeroReason
from protocol.messages import GOSSIP_LIST_MAX, Attestations, Claims, GetAttestations
from protocol.signing import verify_signed
from roles.admission import RefusalCode
from roles.committees import Committees
from roles.delivery import Delivery, keep_job
from roles.packing import pack
from roles.receipts import sign_receipt
from roles.role import Computed, Effect, Publish, Record, Request, Send, SetTimer
from roles.workbook import Job, Workbook

CLAIMS_MS = 30  # claims gather this long before they are published
CLAIM_AGAIN_MS = 2_000


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

    def on_computed(self, job: Job, computed: Computed, state: State, now_ms: int) -> list[Effect]:
        if computed.outputs is None:
            return self._delivery.fail(job, RefusalCode.FAILED, computed.error)
        try:
            receipt = sign_receipt(job, computed, self._random.randbytes(32), self._signer)
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
        batch = [SetTimer("claims", now_ms + CLAIMS_MS)] if len(self._unclaimed) == 1 else []
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

    def on_attestations(self, items: tuple[Attestation, ...], now_ms: int) -> list[Effect]:
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
                self._committees.shunned.forgive(verifier)
                continue
            self._committees.shunned.add(verifier, now_ms)
            job.zero_reason = job.zero_reason or ZeroReason.DISSENT
        forward = Send(job.item.request.client, "infer", Attestations(tuple(job.attestations.values())))
        return [keep_job(job), forward]

    def chase(self, now_ms: int) -> list[Effect]:
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
                    self._committees.shunned.add(verifier, now_ms)
                    missing.setdefault(verifier, []).append(job.claim_id)
        asks = [Request(peer, "sync", GetAttestations(tuple(ids[:64])), "pull") for peer, ids in missing.items()]
        return [*_publish(overdue), *asks]


def _publish(jobs: list[Job]) -> list[Effect]:
    works = [ClaimedWork(job.receipt.claim, job.item.request) for job in jobs if job.receipt is not None]
    return [Publish("claims", Claims(items)) for items in pack(works, GOSSIP_LIST_MAX)]
