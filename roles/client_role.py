"""The role: asks for inference, pays with vouchers, releases a result only when all drawn verifiers have attested it.

In the modes `batch` and `private` it releases what the worker has signed at once: there is a channel for each mode.
A result that a drawn verifier finds otherwise is not released: the client shows the worker's signed receipt to the
verifiers, who dispute it with bonds of their own (`roles.disputes`). Whoever runs the node commands `Ask`, `AskAgain`,
`Recall`, `GetModel` or `CallOff` and is handed an `Outcome`, `Recalled` or `ModelBytes`; `roles.client` does so for
programs.
"""

from dataclasses import replace

from protocol.content import format_cid
from protocol.messages import (
    Attestations,
    Opening,
    Refusal,
    Refused,
    Requests,
    Result,
)
from roles.asking import NotAsked
from roles.attempts import (
    GOSSIP_TRIES,
    RETRY_MS,
    Ask,
    AskAgain,
    Attempt,
    CallOff,
    GetModel,
    Job,
    ModelBytes,
    Outcome,
    Recall,
    Recalled,
)
from roles.client_answers import NEAR, Answers
from roles.client_jobs import HEDGE, Jobs
from roles.dispatch import go_direct, is_urgent
from roles.lost_results import LOST, LostResults
from roles.purse import Purse
from roles.request_log import RequestRecord, compute_owed, is_open, restore_job
from roles.role import (
    Commanded,
    Context,
    Deliver,
    Effect,
    Event,
    Fetch,
    Fetched,
    LedgerAdvanced,
    PeerDown,
    PeerUp,
    Publish,
    Received,
    Record,
    Requested,
    RequestFailed,
    Role,
    Started,
    Stopping,
    Submitted,
    TimerFired,
)
from roles.service_log import BUCKET as STATEMENTS
from roles.service_log import ServiceLog

ASKS_MAX = 4_096
MODELS_WANTED_MAX = 64
CHANNEL_DEPOSIT = 1_000_000_000  # grains per worker
VOUCHER_STEP = 1  # vouchers in flight with one worker


class ClientRole(Role):
    name = "client"
    protocols = ("infer",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        config = context.config
        self._purse = Purse(context.account, int(config.get("channel_deposit", CHANNEL_DEPOSIT)))
        self._service = ServiceLog(context.account)
        self._jobs = Jobs(context, self._purse, self._service, int(config.get("voucher_step", VOUCHER_STEP)))
        self._answers = Answers(self._jobs, self._purse)
        self._lost = LostResults(self._jobs, self._answers, self._purse, context.account.public)
        self._dispatch = self._jobs.dispatch
        self._models_wanted: dict[str, list[str]] = {}  # CID -> who waits for it
        self._hedge_ms = int(config.get("hedge_ms", 0))  # for asks that do not say

    @property
    def load(self) -> int:
        return len(self._jobs.under_way)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Started(state, stored):
                self._state = self._jobs.ledger = state
                self._purse.restore(stored.get("vouchers", {}))
                self._jobs.disputes.restore(stored.get("disputes", {}))
                self._service.restore(stored.get(STATEMENTS, {}), state.chain, state.epoch)
                unfinished = self._jobs.log.restore(stored.get("requests", {}))
                resumed = [effect for record in unfinished for effect in self._resume(record, now_ms)]
                return [*resumed, *self._jobs.keep_ticking(now_ms)]
            case Commanded(Ask() as ask):
                return self._ask(ask, now_ms)
            case Commanded(AskAgain() as again):
                return self._ask_again(again)
            case Commanded(Recall(token, nonce)):
                return [Deliver(self._recall(token, nonce, now_ms))]
            case Commanded(GetModel(token, digest)):
                return self._get_model(token, format_cid(digest))
            case Fetched(cid, data, error):
                tokens = self._models_wanted.pop(cid, [])
                return [Deliver(ModelBytes(token, data or b"", error)) for token in tokens]
            case Commanded(CallOff(token)):
                return self._call_off(token, now_ms)
            case LedgerAdvanced(state):
                self._state = self._jobs.ledger = state
                disputed = self._jobs.disputes.look(state)
                return [*disputed, *self._lost.look(state, now_ms), *self._jobs.run(now_ms)]
            case Submitted(token, _, error) if token.startswith(LOST):
                return self._lost.on_submitted(token, error)
            case Submitted("open", _, error):
                return self._jobs.on_opened(error, now_ms)
            case Requested():
                return self._answers.on_told(event, now_ms)
            case Received(sender, (Result() | Refusal()) as answer):
                return self._answers.on_answer(sender, answer, now_ms)
            case Received(sender, Attestations(items)):
                return self._answers.on_attestations(items, now_ms)
            case Received(sender, message, token=token) if token.startswith(NEAR):
                return self._answers.on_opening(sender, token, message, now_ms)
            case RequestFailed(peer, token) if token.startswith(NEAR):
                return self._answers.on_opening(peer, token, None, now_ms)
            case Received(sender, Opening() as opening, _, _):
                self._jobs.disputes.learn(sender, opening)
                return []
            case Received(sender, Refused(reason), _, token) | RequestFailed(sender, token, reason):
                return self._unanswered(token, reason, now_ms)
            case PeerUp(peer):
                return self._reach(peer)
            case PeerDown(peer):
                self._answers.streams.on_peer_down(peer, now_ms)
                return []
            case TimerFired("tick"):
                return self._tick(now_ms)
            case TimerFired("statement"):
                return self._service.on_timer()
            case TimerFired(name) if name.startswith(HEDGE):
                return self._hedge(bytes.fromhex(name.removeprefix(HEDGE)), now_ms)
            case Stopping():
                return self._service.keep()
            case _:
                return []

    # From ask to request

    def _ask(self, ask: Ask, now_ms: int) -> list[Effect]:
        if len(self._jobs.under_way) >= ASKS_MAX:
            return [_say_no(ask.token, "busy", f"{ASKS_MAX} requests are under way")]
        if self._dispatch.is_full(ask.timeout_ms, now_ms):
            return [_say_no(ask.token, "busy", "more requests wait than the network answers in time")]
        if ask.streams:
            ask = replace(ask, hedge_ms=0)
        elif ask.hedge_ms == 0 and self._hedge_ms:
            ask = replace(ask, hedge_ms=self._hedge_ms)
        try:
            return self._jobs.begin(ask, now_ms)
        except NotAsked as error:
            return [_say_no(ask.token, error.code, str(error))]

    def _ask_again(self, again: AskAgain) -> list[Effect]:
        """Whoever asks by an id gets what the request came to: it is under way already, or it has ended."""
        job = self._jobs.under_way.get(again.request_id)
        if job is not None:
            job.tokens.append(again.token)
            return []
        record = self._jobs.log.find(again.request_id)
        if record is None:
            reason = f"this client has made no request {again.request_id.hex()}, or has forgotten it"
            return [_say_no(again.token, "unknown_request", reason)]
        if record.winner:
            reason = "it was answered; the receipt it was kept in is no longer there"
            return [_say_no(again.token, "no_receipt", reason, again.request_id)]
        return [_say_no(again.token, record.code, record.reason, again.request_id)]

    def _recall(self, token: str, nonce: bytes, now_ms: int) -> Recalled:
        record = self._jobs.log.find_by_nonce(nonce)
        if record is not None:
            return Recalled(token, compute_owed(record), is_open(record, now_ms), is_known=True)
        # One that waits for a worker has no voucher out yet, and may get one.
        is_waiting = any(job.request.nonce == nonce for job in self._jobs.under_way.values())
        return Recalled(token, is_open=is_waiting, is_known=is_waiting)

    def _get_model(self, token: str, cid: str) -> list[Effect]:
        if sum(map(len, self._models_wanted.values())) >= MODELS_WANTED_MAX:
            return [Deliver(ModelBytes(token, b"", f"{MODELS_WANTED_MAX} models are being fetched"))]
        tokens = self._models_wanted.setdefault(cid, [])
        tokens.append(token)
        return [Fetch(cid)] if len(tokens) == 1 else []

    def _call_off(self, token: str, now_ms: int) -> list[Effect]:
        job = next((job for job in self._jobs.under_way.values() if token in job.tokens), None)
        if job is None:
            return []
        job.tokens.remove(token)
        if job.tokens:
            return []
        return [*self._jobs.fail(job, "cancelled", "called off by whoever asked", now_ms), *self._jobs.run(now_ms)]

    def _resume(self, record: RequestRecord, now_ms: int) -> list[Effect]:
        """Go on with what an earlier process began: its vouchers may be out there, and pay for one answer each."""
        job = restore_job(record, self._ledger.models, now_ms)
        if now_ms >= job.request.deadline_ms:
            reason = "this client was not running when its deadline passed"
            ended = replace(record, ended_ms=now_ms, code="expired", reason=reason)
            return self._jobs.log.keep(job.request_id, ended)
        self._jobs.under_way[job.request_id] = job
        for attempt in job.attempts:
            if not attempt.is_over:
                self._dispatch.restore(attempt)
        if all(attempt.is_over for attempt in job.attempts):
            self._dispatch.add(job)
        return [Record("request.resumed", {"request_id": job.request_id, "attempts": len(job.attempts)})]

    def _reach(self, peer: bytes) -> list[Effect]:
        """A worker that could not be asked, or not since this process began, is asked at the next tick."""
        for job in self._jobs.under_way.values():
            for attempt in job.attempts:
                if attempt.worker == peer and (attempt.is_silent or attempt.is_resumed):
                    attempt.sent_ms = 0
        return []

    def _hedge(self, request_id: bytes, now_ms: int) -> list[Effect]:
        """No answer yet: the next worker is asked too."""
        job = self._jobs.under_way.get(request_id)
        if job is None or len(job.attempts) != 1 or job.attempts[0].is_over:
            return []
        return self._jobs.hedge(job, job.attempts[0], job.ask.hedge_ms, now_ms)

    # Time

    def _tick(self, now_ms: int) -> list[Effect]:
        self._jobs.is_ticking = False
        effects: list[Effect] = []
        for job in list(self._jobs.under_way.values()):
            if now_ms >= job.request.deadline_ms:
                effects += self._jobs.fail(
                    job, job.last_code, f"not attested by the deadline: {job.last_reason}", now_ms
                )
                continue
            for attempt in list(job.attempts):
                effects += self._nudge(job, attempt, now_ms)
        effects += self._jobs.disputes.press(self._ledger, now_ms)
        return [*effects, *self._jobs.run(now_ms), *self._jobs.keep_ticking(now_ms)]

    def _nudge(self, job: Job, attempt: Attempt, now_ms: int) -> list[Effect]:
        if attempt.is_over and not attempt.is_silent:
            return []
        if attempt.receipt is not None:
            return self._jobs.chase(job, attempt, now_ms)
        if cut := self._answers.streams.find_silent(job, attempt, now_ms):
            return cut
        hedged = self._jobs.hedge_unanswered(job, attempt, now_ms)
        if attempt.is_asking or now_ms < attempt.sent_ms + RETRY_MS:
            return hedged
        return [*hedged, *self._ask_once_more(job, attempt, now_ms)]

    def _ask_once_more(self, job: Job, attempt: Attempt, now_ms: int) -> list[Effect]:
        attempt.sent_ms = now_ms
        if attempt.is_silent:
            return [go_direct(attempt)]
        fields = {"request_id": job.request_id, "attempt": attempt.item.voucher.attempt, "tries": attempt.tries}
        if attempt.tries < GOSSIP_TRIES:
            attempt.tries += 1
            # The same request and voucher in a new envelope: whoever has it already answers once more.
            return [Publish("infer/0", Requests((attempt.item,))), Record("request.retried", fields)]
        attempt.is_direct = True
        by_gossip = f"no answer to {attempt.tries} messages by gossip"
        fields["reason"] = "asked again after a restart" if attempt.is_resumed else by_gossip
        return [Record("request.direct", fields), go_direct(attempt)]

    def _unanswered(self, token: str, reason: str, now_ms: int) -> list[Effect]:
        kind, _, rest = token.partition("|")
        if kind != "direct":
            return []
        request_id, number = rest.split("|")
        job = self._jobs.under_way.get(bytes.fromhex(request_id))
        if job is None:
            return []
        attempt = job.attempts[int(number) - 1]
        attempt.is_asking, attempt.sent_ms = False, now_ms
        if attempt.receipt is not None or attempt.is_over:
            return []
        if attempt.tries < GOSSIP_TRIES and not is_urgent(job):
            return self._ask_once_more(job, attempt, now_ms)  # by gossip, which finds other ways
        # It holds a voucher, and may be back in a moment: until then it blocks what else it could be asked.
        attempt.is_silent = True
        return self._jobs.fall_back(job, attempt, "no_answer", f"the worker cannot be reached: {reason}", now_ms)


def _say_no(token: str, code: str, reason: str, request_id: bytes = b"") -> Effect:
    return Deliver(Outcome(token, False, request_id, code=code, reason=reason))
