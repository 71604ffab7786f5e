"""Re-runs claimed work and says, blind, what it got: claims by gossip, and drawn leaves on the ledger (`leaf_checks`).

A verifier sees the worker's commitment, never its digest, so it has nothing to copy. It opens its own digest only to
who shows it the worker's signed receipt.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Annotated

from protocol.check import ACCEPTED, WINDOW_MS, check_claim
from protocol.codec import decode, encode
from protocol.committee import draw_committee
from protocol.content import format_cid, parse_cid
from protocol.errors import MissingBlob, ProtocolError
from protocol.jobs import Attestation, Claim, ClaimedWork, Receipt, compute_attestation, compute_claim_id
from protocol.ledger.state import State
from protocol.messages import GOSSIP_LIST_MAX, Attestations, Claims, GetOpening, Opening, Refused
from protocol.proofs.bounds import may_be_shown
from protocol.proofs.kinds import verify_receipt
from protocol.signing import sign
from protocol.tensor import TENSORS_MAX, Tensor, compute_tensors_digest, decode_tensors, encode_tensors
from protocol.topics import proofs_topic
from protocol.types import AtMost, Digest, PublicKey, TimeMs
from roles.challenge import CHALLENGE, Challenge
from roles.challenger import Challenger
from roles.demander import DEMAND, Demander
from roles.leaf_checks import LEAF_TOKEN, LeafChecks
from roles.models import ModelShelf
from roles.packing import compute_leave_ms
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
    Requested,
    RequestFailed,
    Role,
    SetTimer,
    Started,
    Store,
    Submitted,
    TimerFired,
)

RUNNING_MAX = 256
KEPT_MAX = 4_096
RUNS_MAX = 512  # whose inputs are at hand, in memory: at most 48 KiB each
REPEAT_MS = 1_000  # the same claim again within this time is not answered again


@dataclass(frozen=True)
class Attested:
    """What this verifier has said about a claim, and the digest that opens it; of a float model the outputs too."""

    attestation: Attestation
    worker: PublicKey
    output_digest: Digest
    job: Annotated[bytes, AtMost(64)]
    deadline_ms: TimeMs
    outputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)] = ()


@dataclass
class _Run:
    """What a claim was run again on, and how."""

    inputs: tuple[Tensor, ...]
    profile: str = ""


class Verifier(Role):
    name = "verifier"
    topics = ("claims",)
    protocols = ("proof",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._shelf = ModelShelf(context.config.get("models"))
        self._running: dict[bytes, ClaimedWork] = {}  # claim id -> work
        self._inputs: dict[str, list[bytes]] = {}  # cid of inputs -> claims that wait for them
        self._attested: dict[bytes, Attested] = {}
        self._jobs: dict[bytes, bytes] = {}  # channel and seq -> the one claim this verifier answers for them
        self._sent_ms: dict[bytes, int] = {}
        self._batches: dict[str, list[Attestation]] = {}  # by topic
        self._challenger = Challenger(context.account.public)
        self._demander = Demander(context.account.public)
        self._leaves = LeafChecks(context.account.public, self._shelf, self._challenger)
        self._runs: OrderedDict[bytes, _Run] = OrderedDict()  # claim id -> what a dispute would need

    @property
    def is_ready(self) -> bool:
        return self._shelf.is_complete

    @property
    def models(self) -> tuple[bytes, ...]:
        return self._shelf.held

    @property
    def load(self) -> int:
        return len(self._running) + self._leaves.load

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Started(state, stored):
                self._state = state
                for claim_id, data in stored.get("attested", {}).items():
                    self._remember(claim_id, decode(Attested, data))
                self._leaves.restore(stored.get("leaves", {}))
                begun = self._challenger.restore(stored, now_ms)
                return [*self._shelf.start(state), *self._recall(now_ms), *begun, *self._leaves.look(state, now_ms)]
            case LedgerAdvanced(state):
                self._state = state
                known = [*self._shelf.advance(state), *self._forget(now_ms)]
                demanded = self._demander.look(state, now_ms)
                for receipt, inputs in self._list_shown(state):
                    is_ours = compute_claim_id(receipt.claim) in self._attested
                    demanded += self._challenge(receipt, inputs, now_ms) if is_ours else []
                looked = [*self._leaves.look(state, now_ms), *self._challenger.look(state, now_ms)]
                return [*known, *looked, *demanded]
            case Received(sender, Claims(items), topic="claims"):
                return [effect for work in items for effect in self._take(sender, work, now_ms)]
            case Fetched(source, data, error):
                return self._fetched(source, data, error, now_ms)
            case Computed(token) if token.startswith(LEAF_TOKEN):
                return self._leaves.on_computed(event, self._ledger, now_ms)
            case Computed(token, outputs, profile, error):
                return self._computed(bytes.fromhex(token), outputs, profile, error, now_ms)
            case Inspected(token, answer, error):
                return self._challenger.on_inspected(token, answer, error, self._ledger, now_ms)
            case Received(message=message, token=token) if token.startswith(CHALLENGE):
                return self._challenger.on_answer(token, message, self._ledger, now_ms)
            case RequestFailed(_, token, reason) if token.startswith(CHALLENGE):
                return self._challenger.on_answer(token, reason, self._ledger, now_ms)
            case Requested(message=GetOpening(receipt, inputs), token=token):
                opened = self._open(receipt)
                challenge = self._challenge(receipt, inputs, now_ms) if isinstance(opened, Opening) else []
                return [Reply(token, opened), *challenge]
            case Requested(token=token):
                return [Reply(token, Refused("a verifier opens attestations only"))]
            case TimerFired("batch"):
                return self._publish()
            case Submitted(token, _, error) if token.startswith(CHALLENGE):
                return self._challenger.on_submitted(token, error, self._ledger, now_ms)
            case TimerFired(name) if name == CHALLENGE:
                return self._challenger.on_timer(self._ledger, now_ms)
            case Submitted(token, _, error) if token.startswith(DEMAND):
                return self._demander.on_submitted(token, error)
            case TimerFired("demands"):
                return self._demander.on_timer(self._ledger, now_ms)
            case Submitted(token, _, error):
                return self._leaves.on_submitted(token, error, now_ms)
            case TimerFired("leaves"):
                return self._leaves.look(self._ledger, now_ms)
            case TimerFired(name):
                return self._shelf.on_timer(name)
            case _:
                return []

    def _list_shown(self, state: State) -> list[tuple[Receipt, tuple[Tensor, ...]]]:
        """Receipts that workers have put on the ledger: opened for us, or of contested runs, with what those took."""
        contests = [(item, run.request.inputs) for run in state.runs.values() for item in run.contest]
        opened = [(receipt, ()) for receipt in self._demander.take_opened(state)]
        return [*opened, *((contest.receipt, inputs) for contest, inputs in contests)]

    def _recall(self, now_ms: int) -> list[Effect]:
        """Say again, after a restart, what clients may still wait for: a settled worker repeats its claim to nobody."""
        live = [held for held in self._attested.values() if now_ms <= held.deadline_ms]
        return [*(effect for held in live for effect in self._gather(held, now_ms)), *self._publish()]

    def _take(self, sender: bytes, work: ClaimedWork, now_ms: int) -> list[Effect]:
        claim, claim_id = work.claim, compute_claim_id(work.claim)
        if claim.worker != sender or now_ms > claim.deadline_ms + WINDOW_MS:
            return []
        if claim_id in self._attested:
            return self._repeat(claim_id, now_ms)
        job = _compute_job(work)
        is_known = claim_id in self._running or job in self._jobs
        is_late = now_ms > claim.deadline_ms
        if is_known or is_late or len(self._running) >= RUNNING_MAX or claim.model not in self._shelf.held:
            return []
        if not self._is_drawn(claim):
            return []
        # One good claim is enough for gossip to pass a list on.
        if check_claim("claims", sender, work, self._ledger, now_ms) != ACCEPTED:
            return []
        self._jobs[job] = claim_id
        self._running[claim_id] = work
        if work.request.inputs_blob:
            cid = format_cid(work.request.inputs_blob[0])
            self._inputs.setdefault(cid, []).append(claim_id)
            return [Fetch(cid)]
        return self._run(claim_id, work.request.inputs)

    def _is_drawn(self, claim: Claim) -> bool:
        return self.context.signer.public in self._draw(claim)

    def _draw(self, claim: Claim) -> tuple[bytes, ...]:
        """The verifiers drawn for a claim; none where that cannot be known."""
        epoch = self._ledger.get_epoch(claim.epoch)
        if epoch is None:
            return ()
        try:
            return draw_committee(epoch, claim.request_id, claim.worker, claim.verifiers)
        except ProtocolError:
            return ()

    def _run(self, claim_id: bytes, inputs: tuple[Tensor, ...]) -> list[Effect]:
        work = self._running[claim_id]
        if compute_tensors_digest(inputs) != work.claim.input_digest:
            return self._drop(claim_id, "the claim names other inputs than the request")
        self._runs[claim_id] = _Run(inputs)
        if len(self._runs) > RUNS_MAX:
            self._runs.popitem(last=False)
        return [Compute(claim_id.hex(), work.claim.model, inputs, work.claim.deadline_ms)]

    def _fetched(self, source: str, data: bytes | None, error: str, now_ms: int) -> list[Effect]:
        claim_ids = self._inputs.pop(source, [])
        if not claim_ids:
            return self._shelf.on_fetched(source, data, error, now_ms)
        effects: list[Effect] = []
        for claim_id in claim_ids:
            try:
                if data is None:
                    raise MissingBlob(parse_cid(source))
                effects += self._run(claim_id, decode_tensors(data))
            except ProtocolError as problem:
                effects += self._drop(claim_id, f"inputs: {problem}")
        return effects

    def _computed(
        self, claim_id: bytes, outputs: tuple[Tensor, ...] | None, profile: str, error: str, now_ms: int
    ) -> list[Effect]:
        work, run = self._running.get(claim_id), self._runs.get(claim_id)
        if run is not None:
            run.profile = profile
        if work is None:
            return []
        if outputs is None:
            return self._drop(claim_id, error)
        del self._running[claim_id]
        digest = compute_tensors_digest(outputs)
        own = self.context.signer.public
        value = compute_attestation(claim_id, own, digest)
        attestation = sign(Attestation(claim_id, own, value, b"", bytes(64)), self.context.signer)
        kept_outputs = outputs if may_be_shown(self._ledger.models.get(work.claim.model), outputs) else ()
        worker, until_ms = work.claim.worker, work.claim.deadline_ms
        attested = Attested(attestation, worker, digest, _compute_job(work), until_ms, kept_outputs)
        self._remember(claim_id, attested)
        fields = {"claim_id": claim_id, "request_id": work.claim.request_id, "worker": worker}
        # Kept before it is published: a restarted verifier must still be able to open what it has signed.
        kept = Store("attested", claim_id, encode(attested))
        watched = self._demander.add(claim_id, work.claim)
        return [kept, Record("attestation.made", fields), *self._gather(attested, now_ms), *watched]

    def _gather(self, attested: Attested, now_ms: int) -> list[Effect]:
        self._sent_ms[attested.attestation.claim_id] = now_ms
        is_first = not self._batches
        batch = self._batches.setdefault(proofs_topic(attested.worker), [])
        batch.append(attested.attestation)
        if len(batch) >= GOSSIP_LIST_MAX:
            return self._publish()
        return [SetTimer("batch", compute_leave_ms(now_ms))] if is_first else []

    def _publish(self) -> list[Effect]:
        batches, self._batches = self._batches, {}
        return [Publish(topic, Attestations(tuple(batch))) for topic, batch in batches.items()]

    def _repeat(self, claim_id: bytes, now_ms: int) -> list[Effect]:
        if now_ms < self._sent_ms.get(claim_id, 0) + REPEAT_MS:
            return []
        return self._gather(self._attested[claim_id], now_ms)

    def _open(self, receipt: Receipt) -> Opening | Refused:
        claim_id = compute_claim_id(receipt.claim)
        attested = self._attested.get(claim_id)
        if attested is None:
            return Refused("this node has not attested that claim")
        try:
            verify_receipt(receipt)
        except ProtocolError as error:
            return Refused(f"the receipt does not bind its worker: {error}"[:500])
        if not attested.outputs or attested.output_digest == receipt.output_digest:
            return Opening(claim_id, attested.output_digest)
        shown = replace(attested.attestation, shown=encode_tensors(attested.outputs))
        return Opening(claim_id, attested.output_digest, (sign(shown, self.context.signer),))

    def _challenge(self, receipt: Receipt, inputs: tuple[Tensor, ...], now_ms: int) -> list[Effect]:
        """Its worker has signed another digest than ours: unless one drawn before us does, we dispute it.

        With the inputs as they were run, or shown to us now. After a restart the profile of our run is not known.
        """
        claim, claim_id = receipt.claim, compute_claim_id(receipt.claim)
        found, run = self._attested[claim_id].output_digest, self._runs.get(claim_id)
        committee, own = self._draw(claim), self.context.signer.public
        if run is None and compute_tensors_digest(inputs) == claim.input_digest:
            run = _Run(inputs)
        if run is None or found == receipt.output_digest or own not in committee:
            return []
        challenge = Challenge(claim, (receipt,), (), receipt.output_digest, run.inputs, found, run.profile)
        return self._challenger.begin(challenge, self._ledger, now_ms, committee.index(own))

    def _drop(self, claim_id: bytes, reason: str) -> list[Effect]:
        """Give up on a claim: there is nothing to sign."""
        work = self._running.pop(claim_id)
        self._jobs.pop(_compute_job(work), None)
        return [Record("claim.dropped", {"claim_id": claim_id, "reason": reason})]

    def _remember(self, claim_id: bytes, attested: Attested) -> None:
        self._attested[claim_id] = attested
        self._jobs[attested.job] = claim_id

    def _forget(self, now_ms: int) -> list[Effect]:
        """Drop what nobody can ask for any more, oldest first."""
        kept_ms = self._ledger.params.epochs_kept * self._ledger.params.epoch_ms
        old: list[bytes] = []
        for claim_id, held in self._attested.items():
            if held.deadline_ms + kept_ms >= now_ms and len(self._attested) - len(old) <= KEPT_MAX:
                break
            old.append(claim_id)
        effects: list[Effect] = []
        for claim_id in old:
            attested = self._attested.pop(claim_id)
            self._jobs.pop(attested.job, None)
            self._sent_ms.pop(claim_id, None)
            effects.append(Store("attested", claim_id, None))
        return effects


def _compute_job(work: ClaimedWork) -> bytes:
    """A channel's voucher pays one job: the verifier answers one claim for it."""
    return work.claim.channel + work.claim.seq.to_bytes(8, "big")
