"""Orders the ledger with the other validators: gathers valid transactions and agrees on blocks of them, on demand.

The agreement itself is `protocol.consensus.core`; this role carries what it wants to the other validators, the disk and
the ledger. A network of one validator runs the same code with a quorum of one.
"""

from collections import deque
from collections.abc import Iterable

from protocol.codec import encode
from protocol.consensus import events as ev
from protocol.consensus.core import Core
from protocol.consensus.evidence import make_evidence
from protocol.consensus.leaders import draw_leader
from protocol.consensus.log import Kept, decode_record, encode_record, get_height
from protocol.consensus.messages import Message, Proposal, Signatures, Vote
from protocol.consensus.signatures import KeySignatures
from protocol.errors import InvalidBlock
from protocol.ledger.apply import build_block
from protocol.ledger.block import Block, Certificate, VoteKind, compute_block_id, get_validators, is_quorum
from protocol.ledger.evidence import SubmitEvidence
from protocol.ledger.randomness import find_reveal, plan_onion
from protocol.ledger.restart import get_restart
from protocol.ledger.state import State
from protocol.ledger.transactions import Transaction
from protocol.messages import Accepted, DraftParts, GetDraft, Head, Proposed, Refused, Said, Transactions
from roles import heads
from roles.draft_fetcher import DraftFetcher
from roles.drafts import Drafts
from roles.heads import Heads
from roles.mempool import Mempool, is_due
from roles.pace import BLOCK_INTERVAL_MS, Pace
from roles.referee import REFEREE, Referee
from roles.role import (
    CatchUp,
    Computed,
    Context,
    Decided,
    Effect,
    Event,
    Fetched,
    Halt,
    Inspected,
    LedgerAdvanced,
    LogVote,
    Received,
    Record,
    Reply,
    Requested,
    RequestFailed,
    Role,
    SetTimer,
    Started,
    Submit,
    Submitted,
    TimerFired,
    VoteHistory,
)
from roles.speech import SAID, Speech

VIEW_TIMER_MS = 500  # of the first view of a height; more while heights take long
VIEW_TIMER_MS_MAX = 2_000
PATIENCE = 3  # heights as long as the last one fit into a view
ONION_TOKEN = "onion"
ONION_AGAIN_MS = 30_000  # after a refusal, which the next one may meet as well


class Validator(Role):
    name = "validator"
    topics = ("txs", "consensus", "heads")
    protocols = ("txs", "consensus")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        if context.vote is None:
            raise ValueError("a validator needs a vote key")
        self._vote = context.vote
        self._view_timer_ms = int(context.config.get("view_timer_ms", VIEW_TIMER_MS))
        self._timer_ms_max = max(self._view_timer_ms, VIEW_TIMER_MS_MAX)
        self._pool = Mempool()
        self._pace = Pace(self._pool, int(context.config.get("block_interval_ms", BLOCK_INTERVAL_MS)))
        self._drafts = Drafts()
        self._fetching = DraftFetcher()
        self._speech = Speech()
        self._heads = Heads()
        self._peers: tuple[bytes, ...] = ()  # node keys of the other validators
        self._nodes: dict[bytes, bytes] = {}  # the same by vote key
        self._weights: dict[bytes, int] = {}  # theirs, by node key
        self._deaf: set[bytes] = set()  # who did not take what we last asked them to accept
        self._onion_ms = -ONION_AGAIN_MS  # when an onion was last committed to
        self._timer = (0, 0)  # height and view
        self._muted_by: State | None = None  # the ledger at the start, after a lost vote log
        self._muted_ms = 0
        self._log: list[Kept] = []  # of the vote log as it was found: for this height and later ones
        self._proposal: Proposal | None = None  # heard last at this height
        self._logged: set[bytes] = set()  # ids of blocks in the vote log
        self._referee = Referee(context.account.public)
        self._unadopted: Certificate | None = None  # decided here, but its block is still to be fetched

    @property
    def load(self) -> int:
        return len(self._pool)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Requested(sender, Said() as said, token=token):
                return [Reply(token, Accepted()), *self._listen(sender, said, now_ms)]
            case Received(sender, Said() as said, topic="consensus"):
                return self._listen(sender, said, now_ms)
            case Started(state, votes=votes, certificate=certificate):
                return [*self._start(state, votes, certificate, now_ms), *self._referee.look(state, now_ms)]
            case Received(message=Transactions(items), topic="txs"):
                self._pool.take(items, self._ledger, now_ms)
                return self._plan(now_ms)
            case Requested(message=Transactions(items), token=token):
                reasons = self._pool.take(items, self._ledger, now_ms)
                answer = Refused("; ".join(reasons)[:500]) if reasons else Accepted()
                return [Reply(token, answer), *self._plan(now_ms)]
            case Received(message=Head() as head, topic="heads"):
                self._heads.hear(head)
                return []
            case TimerFired(heads.TIMER):
                return self._heads.speak()
            case Received(sender, Accepted(), token=token) if token.startswith(SAID):
                self._deaf.discard(sender)
                return []
            case RequestFailed(peer, token) if token.startswith(SAID):
                self._deaf.add(peer)
                return []
            case Requested(message=GetDraft() as question, token=token):
                return [Reply(token, self._answer(question))]
            case Requested(token=token):
                return [Reply(token, Refused("a validator takes transactions and the words of validators"))]
            case Received(sender, DraftParts() as parts, token=token):
                return self._take_parts(sender, parts, token, now_ms)
            case RequestFailed(peer, token) if self._fetching.is_ours(token):
                return self._fetch_on(token, peer, now_ms)
            case LedgerAdvanced(state, transactions, certificate):
                return [*self._advance(state, transactions, certificate, now_ms), *self._referee.look(state, now_ms)]
            case Inspected(token, answer, error):
                return self._referee.on_inspected(token, answer, error, self._ledger, now_ms)
            case Computed():
                return self._referee.on_computed(event, self._ledger, now_ms)
            case Fetched(source, data, error):
                return self._referee.on_fetched(source, data, error, now_ms)
            case Received(message=message, token=token) if token.startswith(REFEREE):
                return self._referee.on_exhibit(token, message, self._ledger, now_ms)
            case RequestFailed(_, token, reason) if token.startswith(REFEREE):
                return self._referee.on_exhibit(token, reason, self._ledger, now_ms)
            case Submitted(token, _, error) if token.startswith(REFEREE):
                return self._referee.on_submitted(token, error, now_ms)
            case TimerFired(name) if name == REFEREE:
                return self._referee.look(self._ledger, now_ms)
            case TimerFired("view"):
                height, view = self._timer
                is_now = (height, view) == (self._core.height, self._core.view) and not self._core.is_decided
                told = [Record("view.timed_out", {"height": height, "view": view})] if is_now else []
                return [*told, *self._run([ev.TimedOut(height, view)], now_ms)]
            case TimerFired("wake"):
                return self._wake(now_ms)
            case TimerFired("fetch"):
                return self._fetch_again(now_ms)
            case _:
                return []

    # A height

    def _start(self, state: State, votes: VoteHistory, certificate: Certificate | None, now_ms: int) -> list[Effect]:
        self._core = Core(self._vote.public, self._sign_on(state.chain), self._view_timer_ms)
        effects: list[Effect] = []
        # Whoever decides alone says nothing before it has committed: it cannot have contradicted itself.
        if votes.is_lost and [item.vote for item in get_validators(state)] != [self._vote.public]:
            self._muted_by, self._muted_ms = state, now_ms
            effects.append(Record("votes.muted", {"height": state.height, "reason": "the vote log is lost or damaged"}))
        self._log = [record for data in votes.records if get_height(record := decode_record(data)) > state.height]
        return [*effects, *self._begin(state, certificate, now_ms)]

    def _sign_on(self, chain: bytes) -> Signatures:
        """How ballots are signed and checked. Simulations of many thousand heights sign by name."""
        return KeySignatures(chain, self._vote)

    def _advance(
        self, state: State, transactions: tuple[Transaction, ...], certificate: Certificate | None, now_ms: int
    ) -> list[Effect]:
        self._pace.note_decided(now_ms)
        self._pool.advance(state, transactions)
        return self._begin(state, certificate, now_ms)

    def _begin(self, state: State, certificate: Certificate | None, now_ms: int) -> list[Effect]:
        self._state = state
        # A ledger that was put back may be behind the log: what that holds counts when its height has come.
        self._log = [record for record in self._log if get_height(record) > state.height]
        is_silenced = self._is_silenced(state)
        records = [record for record in self._log if get_height(record) == state.height + 1 and not is_silenced]
        self._drafts.begin(state)
        blocks = [record for record in records if isinstance(record, Block)]
        for block in blocks:
            self._drafts.add_logged(block)
        self._logged = {compute_block_id(block.header) for block in blocks}
        log = tuple(record for record in records if not isinstance(record, Block))
        self._proposal = None
        self._pace.sleep()
        self._core.timer_ms = min(max(self._view_timer_ms, PATIENCE * self._pace.took_ms), self._timer_ms_max)
        self._fetching.clear()
        self._unadopted = None
        validators = get_validators(state)
        epoch = state.get_epoch(state.epoch)
        others = {item.vote for item in validators if item.vote != self._vote.public}
        candidates = epoch.candidates if epoch is not None else ()
        self._nodes = {item.vote: item.node for item in candidates if item.vote in others}
        self._peers = tuple(sorted(self._nodes.values()))
        weights = {item.vote: item.weight for item in validators}
        self._weights = {node: weights[vote] for vote, node in self._nodes.items()}
        self._total = sum(weights.values())
        self._deaf &= self._weights.keys()
        effects: list[Effect] = []
        if self._muted_by is not None and self._is_new_height(state, self._muted_by):
            self._muted_by = None
            effects.append(Record("votes.unmuted", {"height": state.height}))
        may_vote = self._muted_by is None and not is_silenced
        began = ev.Began(state.height + 1, validators, self._seed, certificate, log, may_vote)
        return [*effects, *self._run([began], now_ms), *self._commit_onion(now_ms), *self._plan(now_ms)]

    def _is_silenced(self, state: State) -> bool:
        """After a restart its new keys decide one height. What another has said at it before was of other blocks."""
        restart = get_restart(state)
        if restart is None:
            return False
        accounts = {item.account for item in restart.former}
        return all(item.vote != self._vote.public for item in get_validators(state) if item.account in accounts)

    def _commit_onion(self, now_ms: int) -> list[Effect]:
        """A builder without an onion earns nothing: commit to the next one before this one ends."""
        body = None
        if now_ms >= self._onion_ms + ONION_AGAIN_MS:
            body = plan_onion(self._ledger, self.context.account.public, self._vote)
        if body is None:
            return []
        self._onion_ms = now_ms
        fields = {"number": body.number, "height": self._ledger.height}
        return [Record("onion.committed", fields), Submit(body, ONION_TOKEN)]

    def _is_new_height(self, state: State, before: State) -> bool:
        """Whether a height has been decided that we cannot have voted on before our log was lost.

        With our ledger at hand that is any height after it. Without, we may have been anywhere: only a block that was
        made after our start tells.
        """
        made_since = state.time_ms >= self._muted_ms + state.params.header_ahead_ms
        return state.height > before.height and (before.height > 0 or made_since)

    @property
    def _seed(self) -> bytes:
        epoch = self._ledger.get_epoch(self._ledger.epoch)
        return b"" if epoch is None else epoch.seed

    # Waking

    def _plan(self, now_ms: int) -> list[Effect]:
        """Wake when it is time for the next block."""
        if self._core.view or self._core.is_decided:
            return []
        next_ms = self._pace.compute_next_ms(self._ledger, is_alone=not self._peers)
        return [] if next_ms is None else [SetTimer("wake", max(now_ms, next_ms))]

    def _wake(self, now_ms: int) -> list[Effect]:
        state = self._ledger
        if self._core.view or self._core.is_decided:
            return []
        time_ms = max(now_ms, state.time_ms + 1)
        if self._pool.is_reason(state, time_ms):
            return self._run([ev.Woken()], now_ms)
        due_ms = self._pace.compute_due_ms(state)
        return [] if due_ms is None else [SetTimer("wake", max(due_ms, now_ms + 1))]

    # Speaking with the other validators

    def _listen(self, sender: bytes, said: Said, now_ms: int) -> list[Effect]:
        if sender not in self._peers:
            return []
        if said.causes:
            self._pool.take(said.causes, self._ledger, now_ms)
        heard: list[Message] = [*said.certificates]
        heard += [item.proposal for item in said.proposed if self._note(item)]
        heard += said.votes
        effects = self._run([ev.Heard(message) for message in heard], now_ms, sender)
        return [*effects, *(self._plan(now_ms) if said.causes else [])]

    def _note(self, item: Proposed) -> bool:
        """Keep the outline that comes with a proposal; False for one of another block."""
        for outline in item.outlines:
            if compute_block_id(outline.header) != item.proposal.ballot.block_id:
                return False
            self._drafts.note(outline)
        if item.proposal.ballot.height == self._ledger.height + 1:
            self._proposal = item.proposal
        return True

    def _answer(self, question: GetDraft) -> DraftParts:
        if not question.digests:
            outline = self._drafts.get_outline(question.block_id)
            return DraftParts(() if outline is None else (outline,), ())
        return DraftParts((), self._fetching.pick_bodies(question, self._drafts, self._pool))

    # The core's effects

    def _run(self, events: Iterable[ev.Event], now_ms: int, sender: bytes = b"") -> list[Effect]:
        """Hand the core events and carry out what it wants; what it wants said goes out together, before any commit."""
        effects: list[Effect] = []
        decided: list[Effect] = []
        queue = deque(events)
        while queue:
            for wanted in self._core.handle(queue.popleft(), now_ms):
                match wanted:
                    case ev.Broadcast(message, known_to):
                        self._say(message, known_to)
                    case ev.Answer(message):
                        self._speech.add_for(sender, message)
                    case ev.Persist(record):
                        effects += self._log_vote(record)
                    case ev.SetTimer(height, view, delay_ms):
                        self._timer = (height, view)
                        effects.append(SetTimer("view", now_ms + delay_ms))
                    case ev.Build(height, view):
                        block_id, dropped = self._build(now_ms)
                        effects += dropped
                        queue.append(ev.Built(height, view, block_id))
                    case ev.Check(_, block_id, is_repeated):
                        self._fetching.want(block_id, is_repeated, self._turn_to(sender))
                        effects += self._check(block_id, now_ms, queue)
                    case ev.ShareCause(leader):
                        self._share_cause(leader)
                    case ev.Decide(certificate):
                        decided = self._decide(certificate, now_ms)
                    case ev.CatchUp(height):
                        effects += [CatchUp(sender, height - 1)] if sender else []
                    case ev.Accuse(kind, first, second):
                        effects.append(Record("validator.accused", _describe(kind, first, second)))
                        effects.append(Submit(SubmitEvidence(make_evidence(wanted)), "evidence"))
                    case ev.SignedElsewhere(ballot):
                        effects.append(Halt(f"another process signs with this vote key: height {ballot.height}"))
        if self._core.view:
            self._pace.note_begun(now_ms)
        return [*effects, *self._speech.take(self._peers, self._drafts, now_ms, self._deaf, self._is_cut_off), *decided]

    @property
    def _is_cut_off(self) -> bool:
        """Whether those who take our words are no quorum with us: then gossip may find a way to the others."""
        if not self._deaf:
            return False
        lost = sum(self._weights[peer] for peer in self._deaf)
        return not is_quorum(self._total - lost, self._total)

    def _log_vote(self, record: Vote | Proposal | Certificate) -> list[Effect]:
        """Nobody may vote for a block it could not give to others after a crash, unless it is alone: then the vote and
        the block's commit are one."""
        effects: list[Effect] = []
        block_id = record.ballot.block_id
        is_for = isinstance(record, Vote) and record.ballot.kind == VoteKind.NOTARISE
        result = self._drafts.get_result(block_id, self._pool) if is_for and self._peers else None
        if result is not None and block_id not in self._logged:
            self._logged.add(block_id)
            effects.append(LogVote(encode_record(result[0])))
        return [*effects, LogVote(encode_record(record))]

    def _turn_to(self, sender: bytes) -> tuple[bytes, ...]:
        """The other validators, whoever has just spoken first."""
        return tuple(sorted(self._peers, key=lambda peer: peer != sender))

    def _say(self, message: Message, known_to: frozenset[bytes]) -> None:
        if not known_to or self._is_cut_off:
            self._speech.add(message)
            return
        for vote, node in self._nodes.items():
            if vote not in known_to:
                self._speech.add_for(node, message)

    def _share_cause(self, leader: bytes | None) -> None:
        causes = self._pool.get_cause(self._ledger)
        if leader is not None and not self._is_cut_off:
            self._speech.add_causes(causes, self._nodes.get(leader))
            return
        self._speech.add_causes(causes)
        if not causes and self._proposal is not None:
            self._speech.add(self._proposal)

    def _build(self, now_ms: int) -> tuple[bytes, list[Effect]]:
        state = self._ledger
        time_ms = max(now_ms, state.time_ms + 1)
        builder = self.context.account.public
        reveal = find_reveal(state, builder, self._vote)
        block, after, dropped = build_block(state, self._pool.list_in_order(state), time_ms, builder, reveal=reveal)
        self._pool.drop(transaction for transaction, _ in dropped)
        fields = [{"account": item.account, "reason": str(error)} for item, error in dropped]
        return self._drafts.add_own(block, after), [Record("transaction.dropped", item) for item in fields]

    def _decide(self, certificate: Certificate, now_ms: int) -> list[Effect]:
        """The commit comes before anything after it leaves the node: no head without its block on disk."""
        result = self._drafts.get_result(certificate.ballot.block_id, self._pool)
        if result is None:
            self._unadopted = certificate
            return self._fetch_again(now_ms)
        block, after = result
        header = block.header
        effects: list[Effect] = [Submit(Decided(block, certificate, after))]
        if header.builder == self.context.account.public:
            size_bytes = len(encode(block))
            fields = {"height": header.height, "transactions": len(block.transactions), "bytes": size_bytes}
            effects.append(Record("block.decided", {**fields, "view": certificate.ballot.view}))
        return [*effects, *self._speak_of(Head(header, certificate), now_ms)]

    def _speak_of(self, head: Head, now_ms: int) -> list[Effect]:
        validators, ballot = get_validators(self._ledger), head.certificate.ballot
        leader = draw_leader(validators, self._seed, ballot.height, ballot.view)
        return self._heads.decide(head, leader, self._vote.public, [item.vote for item in validators], now_ms)

    # Fetching what a proposal did not bring

    def _check(self, block_id: bytes, now_ms: int, queue: deque[ev.Event]) -> list[Effect]:
        """Check a block that may be voted for, or ask for what is missing of it."""
        is_repeated = self._fetching.is_repeated(block_id)
        missing = self._drafts.list_missing(block_id, self._pool)
        if missing is None or missing:
            return self._fetching.ask(block_id, missing or (), now_ms)
        self._fetching.drop(block_id)
        try:
            block = self._drafts.check(block_id, self._pool, is_repeated, now_ms)
        except InvalidBlock as error:
            return [Record("block.not_voted_for", {"block_id": block_id, "reason": str(error)})]
        wakes = bool(block.transactions) or is_due(self._ledger, block.header.time_ms)
        queue.append(ev.Checked(block_id, wakes))
        return []

    def _take_parts(self, sender: bytes, parts: DraftParts, token: str, now_ms: int) -> list[Effect]:
        block_id = self._fetching.end(token)
        if block_id is None:
            return []
        is_news = self._drafts.fill(block_id, parts.bodies)
        for outline in parts.outlines:
            is_news = self._drafts.note(outline) or is_news
        if not is_news:
            self._fetching.turn_from(block_id, sender)
            return self._fetching.pause(now_ms)
        return self._check_now(block_id, now_ms)

    def _fetch_on(self, token: str, peer: bytes, now_ms: int) -> list[Effect]:
        block_id = self._fetching.end(token)
        if block_id is None:
            return []
        self._fetching.turn_from(block_id, peer)
        return self._fetching.pause(now_ms)

    def _fetch_again(self, now_ms: int) -> list[Effect]:
        if self._unadopted is not None and self._peers:
            height = self._unadopted.ballot.height
            peer = self.context.random.choice(self._peers)
            return [CatchUp(peer, height), *self._fetching.pause(now_ms)]
        effects: list[Effect] = []
        for block_id in self._fetching.list_wanted():
            effects += self._check_now(block_id, now_ms)
        return effects

    def _check_now(self, block_id: bytes, now_ms: int) -> list[Effect]:
        queue: deque[ev.Event] = deque()
        effects = self._check(block_id, now_ms, queue)
        return [*effects, *self._run(queue, now_ms)] if queue else effects


def _describe(kind: str, first: Vote | Proposal, second: Vote | Proposal) -> dict[str, object]:
    who = first.voter if isinstance(first, Vote) else first.leader
    return {"kind": kind, "vote": who, "height": first.ballot.height, "view": first.ballot.view}
