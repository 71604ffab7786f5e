"""The consensus core: single-shot Simplex for one height after another, as a pure state machine.

Within a height validators go through views. A view's leader proposes; more than two thirds notarise the block, then
finalise it. A view that yields nothing in time is nullified, and the next leader repeats the newest notarised block or,
if all views since are void, proposes its own. Nobody both finalises and nullifies a view: that is all that safety
needs. Liveness needs every certificate relayed once, and timers that repeat what lets others into the view.

Heights are made on demand: each sleeps until there is a reason for a block. Source: facts on consensus, sections 2 to 4
(with a permissive notarise vote and lazy advance); PROTOCOL, "Blocks on demand, time".
"""

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from protocol.consensus.events import (
    Accuse,
    Answer,
    Began,
    Broadcast,
    Build,
    Built,
    CatchUp,
    Check,
    Checked,
    Decide,
    Effect,
    Event,
    Heard,
    Persist,
    SetTimer,
    ShareCause,
    SignedElsewhere,
    TimedOut,
    Woken,
)
from protocol.consensus.messages import (
    GAP_MAX,
    Justification,
    Message,
    Proposal,
    Signatures,
    Vote,
    verify_ballot,
    verify_binding,
    verify_certified,
    verify_justification,
)
from protocol.consensus.tally import Count, Tally
from protocol.ledger.block import NOTHING, Ballot, Certificate, InvalidVote, Validator, VoteKind
from protocol.signing import compute_domain_prefix

TIMER_MS = 250  # on one machine; a network over long distances takes 1,000
EARLY_MAX = 64  # messages of the next height kept per validator
ANSWER_MS = 100  # between two answers to those who are behind
_LEADER_PREFIX = compute_domain_prefix("leader")
NOTARISE, FINALISE, NULLIFY = VoteKind.NOTARISE, VoteKind.FINALISE, VoteKind.NULLIFY


def draw_leader(validators: tuple[Validator, ...], seed: bytes, height: int, view: int) -> bytes:
    """The vote key of a view's leader, drawn by weight. Everyone draws the same."""
    data = _LEADER_PREFIX + seed + (height << 64 | view).to_bytes(16, "big")
    point = int.from_bytes(sha256(data).digest(), "big") % sum([validator.weight for validator in validators])
    for validator in validators:
        point -= validator.weight
        if point < 0:
            return validator.vote
    raise AssertionError("weights add up to more than the point drawn")


class Core:
    """One validator's part in the agreement; without a vote key it follows and says nothing.

    The first event is `Began`. What peers send is checked here, signatures included; what they do wrong costs nothing
    but their message, or is reported as `Accuse`.
    """

    def __init__(self, voter: bytes | None, signatures: Signatures, timer_ms: int = TIMER_MS) -> None:
        self._voter = voter
        self._signatures = signatures
        self.timer_ms = timer_ms  # of a first view; may be set between two heights
        self._effects: list[Effect] = []
        self._now_ms = 0
        self._answered_ms = -ANSWER_MS
        self._early: dict[bytes, list[Message]] = {}
        self.height = 0
        self._tally = Tally({})
        self._validators: tuple[Validator, ...] = ()
        self._weights: dict[bytes, int] = {}
        self._begin(Began(0, (), b""))
        # By the type of an event, and of what it lets us hear. (With more than 30 attributes CPython looks each of them
        # up in a dictionary of the instance, and all of this takes a twentieth longer.)
        self._handlers: dict[type, Callable[[Any], None]] = {
            Began: self._take_began,
            Woken: self._take_woken,
            Heard: self._take_heard,
            Built: self._take_built,
            Checked: self._take_checked,
            TimedOut: self._take_timeout,
            Vote: self._take_vote,
            Certificate: self._take_certificate,
            Proposal: self._take_proposal,
        }

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """What is to be done, in order."""
        self._now_ms = now_ms
        effects = self._effects = []
        self._handlers[type(event)](event)
        return effects

    # A height

    def _begin(self, began: Began) -> None:
        # What was said at the last height still convicts whoever says something else of it now.
        self._tally_before = self._tally if began.height == self.height + 1 else Tally({})
        self.height = began.height
        self.view = 0  # 0: asleep
        self._leads = False  # this view
        self.is_decided = not began.validators
        if began.validators is not self._validators:
            self._validators = began.validators
            self._weights = {validator.vote: validator.weight for validator in began.validators}
        self._seed = began.seed
        self._decided_before = began.decided
        self._decided_here: tuple[Certificate | None, int] = None, 0  # and when
        self._tally = Tally(self._weights)
        self._votes_here = began.may_vote and self._voter in self._weights
        self._proposals: dict[int, Proposal] = {}
        self._notarised: dict[int, Certificate] = {}
        self._nullified: dict[int, Certificate] = {}
        self._checked: set[bytes] = set()
        self._asked_for: set[tuple[bytes, bool]] = set()
        self._building = 0
        self._leaders: dict[int, bytes] = {}
        # What we have signed, which the log remembers.
        self._my_proposals: dict[int, Proposal] = {}
        self._my_votes: dict[int, dict[int, Vote]] = {NOTARISE: {}, FINALISE: {}, NULLIFY: {}}

    def _take_began(self, event: Began) -> None:
        early = self._early if event.height == self.height + 1 else {}
        self._early = {}
        self._begin(event)
        certificates: list[Certificate] = []
        for record in event.log:
            if isinstance(record, Certificate):
                certificates.append(record)
            elif isinstance(record, Proposal):
                self._my_proposals[record.ballot.view] = record
            else:
                self._my_votes[record.ballot.kind][record.ballot.view] = record
        if event.log:
            self._wake()
            for votes in self._my_votes.values():
                for vote in votes.values():
                    self._count(vote, self._tally.counts.get(vote.ballot))
            for item in certificates:
                self._add_certificate(item)
        for messages in early.values():
            for message in messages:
                self._take_heard(Heard(message))

    def _take_woken(self, event: Woken) -> None:
        if not self.is_decided:
            self._wake()

    def _wake(self) -> None:
        if not self.view:
            leader = self._leader(1)
            if leader != self._voter and 1 not in self._proposals:
                self._emit(ShareCause(leader))
            self._enter(1)

    def _enter(self, view: int) -> bool:
        """Whether this is a new view for us."""
        if view <= self.view:
            return False
        self.view = view
        self._leads = self._leader(view) == self._voter
        self._emit(SetTimer(self.height, view, self.timer_ms * min(16, view + 1) // 2))
        self._go_on()
        return True

    def _go_on(self) -> None:
        if self._leads:
            self._propose()
        self._try_notarise()
        # A lazy validator stays in a view it has notarised until there is something to do in the next.
        while self.view in self._notarised and self.view + 1 in self._proposals:
            self._enter(self.view + 1)

    # Proposing

    def _leader(self, view: int) -> bytes:
        leader = self._leaders.get(view)
        if leader is None:
            leader = self._leaders[view] = draw_leader(self._validators, self._seed, self.height, view)
        return leader

    def _propose(self) -> None:
        view = self.view
        if not self._votes_here:
            return
        if view in self._my_votes[NOTARISE] or view in self._my_votes[NULLIFY]:
            return
        if view in self._my_proposals:
            if view not in self._proposals:  # after a restart: the same bytes once more
                self._emit(Broadcast(self._my_proposals[view]))
                self._take_proposal(self._my_proposals[view])
            return
        parent = max((v for v in self._notarised if v < view), default=0)
        if any(v not in self._nullified for v in range(parent + 1, view)):
            return
        if parent:
            self._make_proposal(parent, self._notarised[parent].ballot.block_id)
        elif self._building != view:
            self._building = view
            self._emit(Build(self.height, view))

    def _take_built(self, event: Built) -> None:
        if self.is_decided or (event.height, event.view) != (self.height, self.view):
            return
        if self.view in self._my_proposals:
            return
        if self.view in self._my_votes[NULLIFY] or any(v < self.view for v in self._notarised):
            return
        self._checked.add(event.block_id)
        self._make_proposal(0, event.block_id)

    def _make_proposal(self, parent: int, block_id: bytes) -> None:
        view = self.view
        notarised = (self._notarised[parent],) if parent else ()
        why = Justification(notarised, tuple(self._nullified[v] for v in range(parent + 1, view)))
        ballot = Ballot(self.height, view, NOTARISE, parent, block_id, self._signatures.digest(why))
        assert self._voter is not None
        proposal = Proposal(ballot, why, self._voter, self._signatures.sign_proposal(ballot))
        self._my_proposals[view] = proposal
        self._emit(Persist(proposal))
        self._emit(Broadcast(proposal))
        self._take_proposal(proposal)

    # Hearing

    def _take_heard(self, event: Heard) -> None:
        message = event.message
        height = message.ballot.height
        if height == self.height:
            if self.is_decided:
                self._look_back(message, self._tally)
                decided, decided_ms = self._decided_here
                if self._now_ms - decided_ms >= ANSWER_MS:  # until then it may be on its way
                    self._answer_late(decided)
                return
            try:
                self._handlers[type(message)](message)
            except InvalidVote:
                return
        elif height < self.height:
            if height == self.height - 1:
                self._look_back(message, self._tally_before)
            self._answer_late(self._decided_before)
        elif height == self.height + 1:
            self._keep_early(message)
        else:
            self._emit(CatchUp(height))

    def _look_back(self, message: Message, tally: Tally) -> None:
        """A decided height takes no votes, but one that does not go with an earlier one of its voter is evidence."""
        if isinstance(message, Vote):
            votes = [message] if tally.clashes(message) else []
        elif isinstance(message, Proposal) or tally.is_certified(message.ballot):
            return
        else:
            made = [Vote(message.ballot, vote.vote, vote.signature) for vote in message.votes]
            votes = [vote for vote in made if tally.clashes(vote)]
        for vote in votes:
            if vote.voter != self._voter and self._is_vote(vote):
                self._effects += tally.note(vote, tally.counts.get(vote.ballot)) or ()

    def _is_vote(self, vote: Vote) -> bool:
        try:
            verify_ballot(vote.ballot)
        except InvalidVote:
            return False
        return self._signatures.is_vote(vote.voter, vote.ballot, vote.signature)

    def _answer_late(self, decided: Certificate | None) -> None:
        """Whoever goes on with a height that we have decided has not heard of it, whether we have the block or not."""
        if decided is not None and self._now_ms - self._answered_ms >= ANSWER_MS:
            self._answered_ms = self._now_ms
            self._emit(Answer(decided))

    def _keep_early(self, message: Message) -> None:
        sender = (
            message.voter if isinstance(message, Vote) else message.leader if isinstance(message, Proposal) else b""
        )
        if sender and sender not in self._weights:
            return
        kept = self._early.setdefault(sender, [])
        if len(kept) < EARLY_MAX:
            kept.append(message)

    def _take_vote(self, vote: Vote) -> None:
        ballot, voter = vote.ballot, vote.voter
        if voter not in self._weights or ballot.view > self.view + GAP_MAX:
            return
        count = self._tally.counts.get(ballot)
        if count is None:
            verify_ballot(ballot)
        elif voter in count.votes:
            return
        if not self._signatures.is_vote(voter, ballot, vote.signature):
            raise InvalidVote("the vote is not signed by its voter")
        if voter == self._voter:
            self._note_own(ballot)
        self._count(vote, count)
        if not self.view and not self.is_decided and self._tally.is_more_than_a_third_heard:
            self._wake()

    def _count(self, vote: Vote, count: Count | None) -> None:
        accusations, certified = self._tally.add(vote, count)
        self._effects += accusations
        if certified is not None:
            self._add_certificate(certified)

    def _take_certificate(self, item: Certificate) -> None:
        ballot = item.ballot
        if self._is_held(ballot):
            return
        verify_certified(item, self._weights, self._signatures)
        counts = self._tally.counts
        count = counts.get(ballot)
        for signed in item.votes:
            if signed.vote == self._voter:
                self._note_own(ballot)
            elif count is None or signed.vote not in count.votes:
                # Who told us one thing and others another is found by what the others' certificates hold of it.
                vote = Vote(ballot, signed.vote, signed.signature)
                self._effects += self._tally.note(vote, count) or ()
                count = count or counts.get(ballot)
        self._add_certificate(item)

    def _note_own(self, ballot: Ballot) -> None:
        """Somebody has shown us our own vote: it must be one that we have cast."""
        mine = self._my_votes[ballot.kind].get(ballot.view)
        if self._votes_here and (mine is None or mine.ballot != ballot):
            self._votes_here = False
            self._emit(SignedElsewhere(ballot))

    def _take_proposal(self, proposal: Proposal) -> None:
        ballot = proposal.ballot
        if ballot.view > self.view + GAP_MAX or proposal.leader != self._leader(ballot.view):
            raise InvalidVote("the proposal is not its view's leader's")
        known = self._proposals.get(ballot.view)
        if known is not None and known.ballot == ballot:
            return
        if not self._signatures.is_proposal(proposal.leader, ballot, proposal.signature):
            raise InvalidVote("the proposal is not signed by its leader")
        # Before anybody is blamed for it: with another justification or kind it is not what others voted for.
        verify_binding(proposal, self._signatures)
        if known is not None:
            self._emit(Accuse("two proposals in a view", known, proposal))
            return
        certificates = (*proposal.why.notarised, *proposal.why.nullified)
        try:
            verify_justification(proposal)
            for item in certificates:
                if not self._is_held(item.ballot):
                    verify_certified(item, self._weights, self._signatures)
        except InvalidVote:
            for accusation in self._tally.note_bad(proposal):
                self._emit(accusation)
            raise
        for item in certificates:
            self._add_certificate(item)
        if self.is_decided:
            return
        self._proposals[ballot.view] = proposal
        # One refused for its time may be taken once it is notarised: then its time is not looked at.
        asked = (ballot.block_id, bool(ballot.parent))
        if ballot.block_id not in self._checked and asked not in self._asked_for:
            self._asked_for.add(asked)
            self._emit(Check(self.height, *asked))
        if self.view:
            self._go_on()

    def _take_checked(self, event: Checked) -> None:
        if self.is_decided:
            return
        self._checked.add(event.block_id)
        if event.wakes and any(item.ballot.block_id == event.block_id for item in self._proposals.values()):
            self._wake()
        if self.view:
            self._go_on()

    # Certificates

    def _is_held(self, ballot: Ballot) -> bool:
        held = self._notarised if ballot.kind == NOTARISE else self._nullified if ballot.kind == NULLIFY else {}
        found = held.get(ballot.view)
        return found is not None and found.ballot == ballot

    def _add_certificate(self, item: Certificate) -> None:
        """A certificate whose votes hold."""
        ballot = item.ballot
        if self.is_decided or self._is_held(ballot):
            return
        if ballot.kind == FINALISE:
            self.is_decided = True
            self._decided_here = item, self._now_ms
            # Who has voted hears the other votes as we did. If not, it says so when its time is up, and is answered.
            self._emit(Broadcast(item, frozenset([vote.vote for vote in item.votes])))
            self._emit(Decide(item))
            return
        self._wake()
        if ballot.kind == NOTARISE:
            if ballot.view in self._notarised:
                return
            self._notarised[ballot.view] = item
            self._relay(item)
            self._finalise(item)
            if self.is_decided:
                return
            has_entered = self._enter(ballot.view)
        else:
            self._nullified[ballot.view] = item
            self._relay(item)
            has_entered = self._enter(ballot.view + 1)
        if not (has_entered or self.is_decided):
            self._go_on()

    def _relay(self, item: Certificate) -> None:
        """Others may have missed votes that we have not, and a liar's they may never get."""
        self._emit(Broadcast(item))

    # Voting

    def _try_notarise(self) -> None:
        view = self.view
        proposal = self._proposals.get(view)
        if not self._votes_here or proposal is None or view in self._my_votes[NOTARISE]:
            return
        if proposal.ballot.block_id in self._checked:
            self._vote(proposal.ballot)

    def _finalise(self, notarised: Certificate) -> None:
        ballot, view = notarised.ballot, notarised.ballot.view
        if self._votes_here and view not in self._my_votes[NULLIFY] and view not in self._my_votes[FINALISE]:
            # From now on we cannot nullify this view: after a crash we must be able to lead the others out of it.
            self._emit(Persist(notarised))
            self._vote(Ballot(self.height, view, FINALISE, 0, ballot.block_id, NOTHING))

    def _vote(self, ballot: Ballot) -> None:
        assert self._voter is not None
        vote = Vote(ballot, self._voter, self._signatures.sign_vote(ballot))
        self._my_votes[ballot.kind][ballot.view] = vote
        self._effects += (Persist(vote), Broadcast(vote))
        self._count(vote, self._tally.counts.get(ballot))

    def _take_timeout(self, event: TimedOut) -> None:
        view = event.view
        if self.is_decided or (event.height, view) != (self.height, self.view):
            return
        self._emit(ShareCause())
        self._repeat_votes()
        if view in self._notarised:
            self._relay(self._notarised[view])
            self._enter(view + 1)
            return
        self._nullify(view)
        if self.view != view:
            return
        self._prove_entry()
        if self.view == view:
            self._emit(SetTimer(self.height, view, self.timer_ms))

    def _nullify(self, view: int) -> None:
        if self._votes_here and view not in self._my_votes[FINALISE] and view not in self._my_votes[NULLIFY]:
            self._vote(Ballot(self.height, view, NULLIFY, 0, NOTHING, NOTHING))

    def _repeat_votes(self) -> None:
        for votes in self._my_votes.values():
            for vote in votes.values():
                self._emit(Broadcast(vote))
        if self.view in self._my_proposals:
            self._emit(Broadcast(self._my_proposals[self.view]))

    def _prove_entry(self) -> None:
        """What lets a validator that missed it into our view: without this a height can stand still for ever."""
        newest = max(self._notarised, default=0)
        if newest:
            self._relay(self._notarised[newest])
        for view in range(newest + 1, self.view):
            if view in self._nullified:
                self._relay(self._nullified[view])
            else:
                # Whoever had that certificate has forgotten it, and no proposal can do without.
                self._nullify(view)

    def _emit(self, effect: Effect) -> None:
        self._effects.append(effect)
