"""Runs models for pay: admits, computes, signs a receipt, claims, gathers attestations, settles.

The result goes to the client at once and only to it; the claim goes to the verifiers, blinded. What is claimed is on
disk first, so a killed worker still settles what it has promised.
"""

from collections.abc import Iterable

from protocol.codec import decode
from protocol.ledger.state import State
from protocol.messages import (
    Accepted,
    Attestations,
    Cancel,
    DirectRequest,
    GetExhibit,
    GetTrace,
    Refused,
    Requests,
    StreamRequest,
)
from protocol.topics import proofs_topic
from roles.admission import Worker
from roles.batcher import BATCH_MS, Batcher
from roles.claimant import Claimant
from roles.committees import Committees
from roles.defender import DEFENCE, Defender
from roles.delivery import Delivery, keep_job
from roles.dissent import NEAR
from roles.intake import Intake
from roles.models import ModelShelf
from roles.publisher import PUBLISH, Publisher
from roles.role import (
    Computed,
    Context,
    Effect,
    Event,
    Fetched,
    Inspected,
    LedgerAdvanced,
    Progressed,
    Received,
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
from roles.runner import BUCKET, RUN, Runner
from roles.settler import FORGET, Settler
from roles.streams_out import PIECE
from roles.workbook import Job, JournalEntry, Workbook, compute_job_key

TICK_MS = 500
PRICE_PER_ROW = 1_000_000  # grains


class Inference(Role):
    name = "inference"
    protocols = ("infer", "trace")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._price = int(context.config.get("price", PRICE_PER_ROW))
        self._shelf = ModelShelf(context.config.get("models"))
        self._book = Workbook()
        account, node = context.account.public, context.signer.public
        self.topics = ("infer/0", proofs_topic(node))
        self._committees = Committees(node)
        self._delivery = Delivery(self._book, context.signer)
        self._intake = Intake(
            Worker(account, node), self._price, self._shelf, self._book, self._committees, self._delivery
        )
        self._streams = self._intake.streams
        self._computing = self._intake.computing
        self._claimant = Claimant(context.signer, context.random, self._book, self._committees, self._delivery)
        self._batcher = Batcher(self._book, account, int(context.config.get("batch_ms", BATCH_MS)))
        self._settler = Settler(self._book, self._batcher)
        self._runner = Runner(account, context.signer, context.random, self._committees)
        self._defender = Defender(account, self._find_job)
        self._publisher = Publisher(self._book, self._find_job, self._batcher, account)

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
        return self._intake.load + self._runner.load

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        take = self._intake.take
        match event:
            case Started(state, stored):
                answered = stored.get("answered", {}).values()
                self._book.restore_answered(decode(JournalEntry, data) for data in answered)
                self._runner.restore(stored.get(BUCKET, {}), state)
                return self._start(state, stored.get("jobs", {}).values(), now_ms)
            case LedgerAdvanced(state):
                return self._advance(state, now_ms)
            case Received(sender, Requests(items), "infer/0"):
                return [effect for item in items for effect in take(sender, item, self._ledger, now_ms)]
            case Requested(sender, DirectRequest(item), _, token):
                before = self._delivery.expect(sender, item, token, now_ms)
                return [*before, *take(sender, item, self._ledger, now_ms, is_direct=True)]
            case Requested(sender, StreamRequest(item), _, token):
                self._streams.want(item)
                return [Reply(token, Accepted()), *take(sender, item, self._ledger, now_ms, is_direct=True)]
            case Progressed():
                return self._streams.on_progress(event)
            case Received(message=message, token=token) if token.startswith(PIECE):
                return self._streams.on_answer(token, message)
            case RequestFailed(_, token, reason) if token.startswith(PIECE):
                return self._streams.on_not_taken(token, reason)
            case Requested(message=GetTrace() | GetExhibit() as question, token=token):
                return self._defender.on_requested(question, token, self._ledger, now_ms)
            case Inspected(token, answer, error):
                return self._defender.on_inspected(token, answer, error, now_ms)
            case Requested(sender, Cancel() as wish, _, token):
                return [Reply(token, Accepted()), *self._intake.cancel(sender, wish, self._ledger, now_ms)]
            case Requested(token=token):
                return [Reply(token, Refused("a worker takes direct requests and cancellations"))]
            case Fetched(source, data, error):
                return self._fetched(source, data, error, now_ms)
            case Computed(token) if token.startswith(RUN):
                return self._runner.on_computed(event, self._ledger, now_ms)
            case Computed():
                return self._computed(event, now_ms)
            case Received(message=Attestations(items)):
                heard = self._claimant.on_attestations(items, self._ledger, now_ms)
                return [*heard, *self._runner.on_attestations(items, self._ledger)]
            case Received(sender, message, token=token) if token.startswith(NEAR):
                return self._hear_shown(sender, token, message, now_ms)
            case RequestFailed(peer, token) if token.startswith(NEAR):
                return self._hear_shown(peer, token, None, now_ms)
            case RequestFailed(_, token, reason):
                return self._delivery.on_undelivered(token, reason, now_ms)
            case Submitted(token, _, error) if token.startswith(DEFENCE):
                return self._defender.on_submitted(token, error, now_ms)
            case Submitted(token, height, error) if token.startswith(RUN):
                return self._runner.on_submitted(token, height, error)
            case Submitted(token, _, error) if token.startswith(PUBLISH):
                return self._publisher.on_submitted(token, error)
            case Submitted(token, _, error):
                return self._settler.on_submitted(token, error, self._ledger, now_ms)
            case TimerFired("claims"):
                return self._claimant.publish_claims()
            case TimerFired("tick"):
                return self._tick(now_ms)
            case TimerFired(name) if name == FORGET:
                return self._settler.forget_settled(self._ledger, now_ms)
            case TimerFired(name) if name == DEFENCE:
                return self._defender.look(self._ledger, now_ms)
            case TimerFired(name) if name.startswith("result|"):
                return self._delivery.answer_late(name)
            case TimerFired(name):
                return self._shelf.on_timer(name)
            case _:
                return []

    def _start(self, state: State, journal: Iterable[bytes], now_ms: int) -> list[Effect]:
        self._state = state
        entries = (decode(JournalEntry, data) for data in journal)
        self._book.restore(entries, lambda receipt: self._committees.draw(receipt, state), now_ms)
        settled, defence = self._settler.forget_settled(state, now_ms), self._defender.look(state, now_ms)
        return [*self._shelf.start(state), *settled, *defence, SetTimer("tick", now_ms + TICK_MS)]

    def _advance(self, state: State, now_ms: int) -> list[Effect]:
        self._state = state
        asked = [*self._shelf.advance(state), *self._batcher.answer(state)]
        defence = [*self._defender.look(state, now_ms), *self._publisher.look(state)]
        early = self._intake.take_early(state, now_ms)
        drawn = self._runner.look(state, self._shelf.held, now_ms)
        return [*self._settler.forget_settled(state, now_ms), *asked, *defence, *early, *drawn]

    def _tick(self, now_ms: int) -> list[Effect]:
        effects: list[Effect] = [SetTimer("tick", now_ms + TICK_MS)]
        effects += [Store("answered", compute_job_key(*key), None) for key in self._forget_answered()]
        effects += self._intake.look(self._ledger, now_ms)
        effects += self._delivery.accept_slow(now_ms)
        for job in self._book.expire(now_ms):
            self._computing.pop(compute_job_key(*job.key).hex(), None)
            effects.append(keep_job(job))
        effects += self._publisher.look(self._ledger)
        effects += self._runner.look(self._ledger, self._shelf.held, now_ms)
        effects += self._runner.chase(self._ledger, now_ms)
        effects += [keep_job(job) for job in self._publisher.list_lost(self._ledger)]
        return [*effects, *self._claimant.chase(now_ms), *self._settler.on_tick(self._ledger, now_ms)]

    def _find_job(self, channel: bytes, seq: int) -> Job | None:
        """A job somebody may still ask about: of a client's voucher, or a run of the ledger's."""
        return self._book.find(channel, seq) or self._runner.find(channel, seq)

    def _hear_shown(self, verifier: bytes, token: str, message: object, now_ms: int) -> list[Effect]:
        heard = self._claimant.on_opening(verifier, token, message, self._ledger, now_ms)
        return [*heard, *self._runner.on_opening(verifier, token, message, self._ledger)]

    def _forget_answered(self) -> list[tuple[bytes, int]]:
        """Settled jobs nobody may ask about any more: their results, or in a dispute how they came about."""
        ledger = self._ledger
        asked = [item.claim for item in ledger.disputes.values()] + [item.claim for item in ledger.demands.values()]
        kept = {(claim.channel, claim.seq) for claim in asked}
        # By the ledger's time, as it takes disputes: an outage of it, or our own clock, must not cost us the answer.
        return self._book.forget_answered(ledger.time_ms - ledger.params.challenge_ms, kept)

    def _fetched(self, source: str, data: bytes | None, error: str, now_ms: int) -> list[Effect]:
        defence = self._defender.on_fetched(source, data, error, now_ms)
        shelved = self._shelf.on_fetched(source, data, error, now_ms)
        return [*defence, *shelved, *self._intake.on_fetched(source, data, error, self._ledger)]

    def _computed(self, computed: Computed, now_ms: int) -> list[Effect]:
        self._streams.end(computed.token)
        job = self._computing.pop(computed.token, None)
        return [] if job is None else self._claimant.on_computed(job, computed, self._ledger, now_ms)
