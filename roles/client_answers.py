"""What workers and verifiers tell a client, and what it makes of it: results, attestations, refusals."""

from protocol.codec import encode
from protocol.committee import draw_committee
from protocol.errors import ProtocolError, RemoteError
from protocol.jobs import Attestation, Mode, Receipt, compute_claim_id
from protocol.messages import Accepted, Attestations, GetOpening, Opening, Piece, Refusal, Refused, Result
from protocol.proofs.bounds import may_be_shown
from protocol.proofs.receipt_file import VERSION, ReceiptFile
from protocol.signing import verify_signed
from roles.admission import FALLBACK_CODES, RefusalCode
from roles.attempts import Attempt, Job, verify_result
from roles.client_jobs import Jobs
from roles.client_streams import ClientStreams
from roles.disputes import Disagreement
from roles.purse import Purse
from roles.role import Effect, Penalise, Record, Reply, Request, Requested, Store

NEAR = "near|"  # begins the tokens of questions for a verifier's outputs


class Answers:
    """Hears what is said about a client's requests."""

    def __init__(self, jobs: Jobs, purse: Purse) -> None:
        self._jobs = jobs
        self._purse = purse
        self.streams = ClientStreams(jobs)

    def on_told(self, event: Requested, now_ms: int) -> list[Effect]:
        accepted = Reply(event.token, Accepted())
        match event.message:
            case Result() | Refusal() as answer:
                return [accepted, *self.on_answer(event.sender, answer, now_ms)]
            case Attestations(items):
                return [accepted, *self.on_attestations(items, now_ms)]
            case Piece() as piece:
                found = self._find(event.sender, piece.request_id, piece.attempt)
                return self.streams.on_piece(found, piece, event.token, now_ms)
        return [Reply(event.token, Refused("a client takes results and pieces of them, attestations and refusals"))]

    def on_answer(self, worker: bytes, answer: Result | Refusal, now_ms: int) -> list[Effect]:
        """What a worker says of a job: to the question that ordered it, or later."""
        if isinstance(answer, Result):
            return self._on_result(worker, answer, now_ms)
        return self._on_refusal(worker, answer, now_ms)

    def _find(self, sender: bytes, request_id: bytes, number: int) -> tuple[Job, Attempt] | None:
        job = self._jobs.under_way.get(request_id)
        if job is None or not 1 <= number <= len(job.attempts) or job.attempts[number - 1].worker != sender:
            return None
        return job, job.attempts[number - 1]

    def _on_result(self, sender: bytes, result: Result, now_ms: int) -> list[Effect]:
        claim = result.receipt.claim
        owed = self._jobs.debts.find(sender, claim.request_id, claim.attempt)
        if owed is not None:
            return self._settle_debt(owed, result, now_ms)
        found = self._find(sender, claim.request_id, claim.attempt)
        if found is None or found[1].receipt is not None:
            return []
        job, attempt = found
        try:
            verify_result(attempt, result, self._jobs.ledger.models[job.request.model])
            self.streams.verify_result(attempt, result.outputs)
            if job.request.mode == Mode.INDIVIDUAL:
                attempt.committee = self._draw(result.receipt)
        except ProtocolError as error:
            if attempt.is_over:
                return _blame(sender, error)
            # It may claim its pay all the same: no other voucher for it, as if it had not answered.
            attempt.is_silent = True
            reason = f"the worker's result does not fit its request: {error}"
            return [*_blame(sender, error), *self._jobs.fall_back(job, attempt, "no_answer", reason, now_ms)]
        attempt.receipt, attempt.outputs = result.receipt, result.outputs
        attempt.answered_ms = attempt.pulled_ms = now_ms
        attempt.is_late = False
        self._jobs.promptness.note(job.request.model, now_ms - attempt.began_ms)
        self._purse.note_answered(attempt.item.voucher)
        attempt.claim_id = compute_claim_id(claim)
        self._jobs.claims[attempt.claim_id] = job, attempt
        fields = {"request_id": job.request_id, "worker": sender, "attempt": claim.attempt}
        received = Record("result.received", fields)
        told = self.streams.on_result(job, attempt, now_ms)
        if job.request.mode == Mode.INDIVIDUAL or job.request_id not in self._jobs.under_way:
            return [received, *told]
        return [received, *told, *self._jobs.release(job, attempt, now_ms)]

    def _settle_debt(self, owed: Attempt, result: Result, now_ms: int) -> list[Effect]:
        """An answer to a request that is over: too late to be used, but the worker has done what it was paid for."""
        try:
            verify_result(owed, result, self._jobs.ledger.models[owed.item.request.model])
        except ProtocolError as error:
            return _blame(owed.worker, error)
        self._purse.note_answered(owed.item.voucher)
        self._jobs.debts.end(owed)
        request_id = owed.item.voucher.request_id
        kept = self._jobs.log.add_late(request_id, owed.number, (result.receipt,), ())
        fields = {"request_id": request_id, "worker": owed.worker, "attempt": owed.number}
        kept += self._keep_late(owed, result)
        return [*kept, Record("result.late", fields), *self._jobs.run(now_ms)]

    def _keep_late(self, owed: Attempt, result: Result) -> list[Effect]:
        """What nobody attests is there for whoever asks by the request's id, if nobody else has answered it."""
        request = owed.item.request
        record = self._jobs.log.find(owed.item.voucher.request_id)
        if request.mode == Mode.INDIVIDUAL or record is None or record.winner:
            return []
        file = ReceiptFile(VERSION, request, owed.item.voucher, result.receipt, result.outputs, ())
        return [Store("receipt", owed.item.voucher.request_id, encode(file))]

    def _draw(self, receipt: Receipt) -> tuple[bytes, ...]:
        claim = receipt.claim
        epoch = self._jobs.ledger.get_epoch(claim.epoch)
        if epoch is None:
            raise RemoteError(f"epoch {claim.epoch} is no longer known")
        return draw_committee(epoch, claim.request_id, claim.worker, claim.verifiers)

    def on_attestations(self, items: tuple[Attestation, ...], now_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        for item in items:
            found = self._jobs.claims.get(item.claim_id)
            if found is None:
                continue
            job, attempt = found
            known = attempt.attestations.get(item.verifier)
            if item.verifier not in attempt.committee or (known is not None and not _shows(item, known)):
                continue
            try:
                verify_signed(item, item.verifier)
            except ProtocolError:
                continue  # not the verifier's word; whoever passed it on may be no more than careless
            effects += self._take(job, attempt, item, now_ms)
        return effects

    def _take(self, job: Job, attempt: Attempt, item: Attestation, now_ms: int) -> list[Effect]:
        """A drawn verifier's word. One that found another digest of a float model is asked what it found."""
        model = self._jobs.ledger.models[job.request.model]
        self._jobs.attesters.hear(item.verifier, now_ms)
        if not attempt.hear(item, model):
            if item.shown or not may_be_shown(model, attempt.outputs):
                return self._dissent(job, attempt, now_ms)
            assert attempt.receipt is not None
            question = GetOpening(attempt.receipt, attempt.item.request.inputs)
            return [Request(item.verifier, "proof", question, NEAR + attempt.claim_id.hex())]
        if attempt.is_attested and (attempt.is_silent or not attempt.is_over):
            self._jobs.attesters.note_attested(attempt, now_ms)
            return self._jobs.release(job, attempt, now_ms)
        return []

    def on_opening(self, verifier: bytes, token: str, message: object, now_ms: int) -> list[Effect]:
        """What a verifier shows that found another digest. To say nothing of use is to stay in dissent."""
        effects = self.on_attestations(message.attestation if isinstance(message, Opening) else (), now_ms)
        found = self._jobs.claims.get(bytes.fromhex(token.removeprefix(NEAR)))
        dissent = self._dissent(*found, now_ms) if found is not None and verifier in found[1].unlike else []
        return [*effects, *dissent]

    def _dissent(self, job: Job, attempt: Attempt, now_ms: int) -> list[Effect]:
        """One drawn verifier found something else: whatever the others say, another worker is asked."""
        assert attempt.receipt is not None
        if attempt.is_disputed:
            return []
        attempt.is_disputed = True
        case = Disagreement(attempt.receipt, attempt.item.request.inputs, attempt.committee)
        dispute = self._jobs.disputes.begin(case, now_ms)
        if attempt.is_over and not attempt.is_silent:
            return dispute
        if attempt.is_silent:
            return [*dispute, *self._jobs.forget_silent(attempt, now_ms)]
        reason = "the verifiers found another output"
        return [*dispute, *self._jobs.fall_back(job, attempt, "dissent", reason, now_ms)]

    def _on_refusal(self, sender: bytes, refusal: Refusal, now_ms: int) -> list[Effect]:
        try:
            verify_signed(refusal, sender)
        except ProtocolError as error:
            return _blame(sender, error)
        owed = self._jobs.debts.find(sender, refusal.request_id, refusal.attempt)
        if owed is not None:
            self._jobs.debts.end(owed)
            kept = self._jobs.log.add_late(refusal.request_id, refusal.attempt, (), (refusal,))
            fields = {"request_id": refusal.request_id, "worker": sender, "code": refusal.code}
            return [*kept, Record("request.left", fields), *self._jobs.run(now_ms)]
        found = self._find(sender, refusal.request_id, refusal.attempt)
        if found is None or found[1].receipt is not None:
            return []
        job, attempt = found
        attempt.note_refusal(refusal)
        if refusal.code == RefusalCode.BUSY:
            self._jobs.dispatch.note_busy(attempt, now_ms)
        elif refusal.code == RefusalCode.BEHIND:
            self._jobs.dispatch.note_behind(attempt, now_ms)
        fields = {"request_id": job.request_id, "worker": sender, "code": refusal.code, "reason": refusal.reason}
        record = Record("request.refused", fields)
        if attempt.is_silent:
            return [record, *self._jobs.forget_silent(attempt, now_ms)]
        if refusal.code in FALLBACK_CODES:
            return [record, *self._jobs.fall_back(job, attempt, refusal.code, refusal.reason, now_ms)]
        attempt.is_over = True
        return [record, *self._jobs.fail(job, refusal.code, refusal.reason, now_ms), *self._jobs.run(now_ms)]


def _shows(item: Attestation, blind: Attestation) -> bool:
    """Whether this is what the verifier has said before, with its outputs this time."""
    return bool(item.shown) and not blind.shown and item.value == blind.value


def _blame(sender: bytes, error: ProtocolError) -> list[Effect]:
    reason = f"a result that does not fit its request: {error}"
    return [Penalise(sender, reason), Record("result.malformed", {"worker": sender, "reason": reason})]
