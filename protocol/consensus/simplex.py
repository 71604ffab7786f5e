"""Single-shot Simplex: one validator's part in deciding one height, as a pure state machine.

Within a height validators go through views. A view's leader proposes; more than two thirds notarise the block, then
finalise it. A view that yields nothing in time is nullified, and the next leader repeats the newest notarised block or,
if all views since are void, proposes its own. Nobody both finalises and nullifies a view: that is all safety needs
(`signed`). Liveness needs every certificate relayed once, and timers that repeat what lets others into the view.
"""

from collections.abc import Callable

from protocol.consensus.events import (
    Accuse,
    Began,
    Broadcast,
    Build,
    Built,
    Check,
    Checked,
    Decide,
    Effect,
    Persist,
    SetTimer,
    ShareCause,
    SignedElsewhere,
    TimedOut,
    Woken,
)
from protocol.consensus.held import Held
from protocol.consensus.leaders import draw_leader
from protocol.consensus.messages import (
    GAP_MAX,
    Proposal,
    Signatures,
    Vote,
    verify_ballot,
    verify_binding,
    verify_certified,
    verify_justification,
)
from protocol.consensus.signed import Signed
from protocol.consensus.tally import Count, Tally
from protocol.ledger.block import NOTHING, Ballot, Certificate, InvalidVote, Validator, VoteKind

NOTARISE, FINALISE, NULLIFY = VoteKind.NOTARISE, VoteKind.FINALISE, VoteKind.NULLIFY


class Simplex:
    """One height at a time: `begin` leaves nothing of the one before.

    `now_ms` and `effects` are set before each event is taken, and what is to be done is added to `effects`.
    """

    def __init__(self, voter: bytes | None, signatures: Signatures, timer_ms: int) -> None:
        self._voter = voter
        self._least_ms = timer_ms
        self._signatures = signatures
        self.now_ms = 0
        self.effects: list[Effect] = []
        self.validators: tuple[Validator, ...] = ()
        self.weights: dict[bytes, int] = {}  # by vote key
        self.signed = Signed(voter, signatures)
        self.held = Held()
        self.begin(Began(0, (), b""), timer_ms)

    def begin(self, began: Began, timer_ms: int) -> None:
        if began.validators is not self.validators:
            self.validators = began.validators
            self.weights = {validator.vote: validator.weight for validator in began.validators}
        self.height = began.height
        self.view = 0  # 0: asleep
        self.is_decided = not began.validators
        self.decided: tuple[Certificate | None, int] = None, 0  # and when
        self.tally = Tally(self.weights)
        self.signed.begin(began.may_vote and self._voter in self.weights)
        self.held.begin()
        self._timer_ms = timer_ms
        self._seed = began.seed
        self._leaders: dict[int, bytes] = {}
        self._leads = False  # this view
        self._proposals: dict[int, Proposal] = {}
        self._checked: set[bytes] = set()
        self._asked_for: set[tuple[bytes, bool]] = set()
        self._building = 0

    def restore(self, log: tuple[Vote | Proposal | Certificate, ...]) -> None:
        """Go on from what was persisted for this height."""
        self.signed.restore(log)
        self._wake()
        for vote in self.signed.list_votes():
            self._count(vote, self.tally.counts.get(vote.ballot))
        for record in log:
            if isinstance(record, Certificate):
                self._add_certificate(record)

    # Views

    def _take_woken(self, event: Woken) -> None:
        if not self.is_decided:
            self._wake()

    def _wake(self) -> None:
        if not self.view:
            leader = self._leader(1)
            if leader != self._voter and 1 not in self._proposals:
                self.effects.append(ShareCause(leader))
            self._enter(1)

    def _enter(self, view: int) -> bool:
        """Whether this is a new view for us."""
        if view <= self.view:
            return False
        self.view = view
        self._leads = self._leader(view) == self._voter
        self._set_timer()
        self._go_on()
        return True

    def _set_timer(self) -> None:
        """Later leaders get more time, up to eight times as much. Where a quorum has notarised, the view's is over.

        Who has nullified it by then goes on to the next view, and must not be through with that as well before those
        come who have finalised this one: however far they have stretched their timers, so they wait a quarter of what
        a leader has at least.
        """
        growth = min(16, self.view + 1)
        is_over = self.view in self.held.notarised
        delay_ms = self._least_ms * growth // 8 if is_over else self._timer_ms * growth // 2
        self.effects.append(SetTimer(self.height, self.view, delay_ms))

    def _go_on(self) -> None:
        if self._leads:
            self._propose()
        self._try_notarise()
        # A lazy validator stays in a view it has notarised until there is something to do in the next.
        while self.view in self.held.notarised and self.view + 1 in self._proposals:
            self._enter(self.view + 1)

    # Proposing

    def _leader(self, view: int) -> bytes:
        leader = self._leaders.get(view)
        if leader is None:
            leader = self._leaders[view] = draw_leader(self.validators, self._seed, self.height, view)
        return leader

    def _propose(self) -> None:
        view = self.view
        if not self.signed.may_propose(view):
            return
        if view in self.signed.proposals:
            if view not in self._proposals:  # after a restart: the same bytes once more
                self.effects.append(Broadcast(self.signed.proposals[view]))
                self._take_proposal(self.signed.proposals[view])
            return
        parent = self.held.find_parent(view)
        if parent:
            self._make_proposal(parent, self.held.notarised[parent].ballot.block_id)
        elif parent == 0 and self._building != view:
            self._building = view
            self.effects.append(Build(self.height, view))

    def _take_built(self, event: Built) -> None:
        if self.is_decided or (event.height, event.view) != (self.height, self.view):
            return
        if self.view in self.signed.proposals or self.view in self.signed.votes[NULLIFY]:
            return
        if any(v < self.view for v in self.held.notarised):
            return
        self._checked.add(event.block_id)
        self._make_proposal(0, event.block_id)

    def _make_proposal(self, parent: int, block_id: bytes) -> None:
        why = self.held.justify(parent, self.view)
        proposal = self.signed.propose(self.height, self.view, parent, block_id, why)
        self.effects += (Persist(proposal), Broadcast(proposal))
        self._take_proposal(proposal)

    # Hearing

    def _take_vote(self, vote: Vote) -> None:
        ballot, voter = vote.ballot, vote.voter
        if voter not in self.weights or ballot.view > self.view + GAP_MAX:
            return
        count = self.tally.counts.get(ballot)
        if count is None:
            verify_ballot(ballot)
        elif voter in count.votes:
            return
        if not self._signatures.is_vote(voter, ballot, vote.signature):
            raise InvalidVote("the vote is not signed by its voter")
        if voter == self._voter:
            self._note_own(ballot)
        self._count(vote, count)
        if not self.view and not self.is_decided and self.tally.is_more_than_a_third_heard:
            self._wake()

    def _count(self, vote: Vote, count: Count | None) -> None:
        certified = self.tally.add(vote, count, self.effects)
        if certified is not None:
            self._add_certificate(certified)

    def _take_certificate(self, item: Certificate) -> None:
        ballot = item.ballot
        if self.held.has(ballot):
            return
        verify_certified(item, self.weights, self._signatures)
        count = self.tally.counts.get(ballot)
        for signed in item.votes:
            if signed.vote == self._voter:
                self._note_own(ballot)
            elif count is None or signed.vote not in count.votes:
                # Who told us one thing and others another is found by what the others' certificates hold of it.
                self.tally.note(Vote(ballot, signed.vote, signed.signature), count, self.effects)
                count = count or self.tally.counts.get(ballot)
        self._add_certificate(item)

    def _note_own(self, ballot: Ballot) -> None:
        """Somebody has shown us our own vote: it must be one that we have cast."""
        if self.signed.may_sign and not self.signed.has_cast(ballot):
            self.signed.may_sign = False
            self.effects.append(SignedElsewhere(ballot))

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
            self.effects.append(Accuse("two proposals in a view", known, proposal))
            return
        certificates = (*proposal.why.notarised, *proposal.why.nullified)
        try:
            verify_justification(proposal)
            for item in certificates:
                if not self.held.has(item.ballot):
                    verify_certified(item, self.weights, self._signatures)
        except InvalidVote:
            self.tally.note_bad(proposal, self.effects)
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
            self.effects.append(Check(self.height, *asked))
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

    def _add_certificate(self, item: Certificate) -> None:
        """A certificate whose votes hold."""
        ballot = item.ballot
        if self.is_decided or self.held.has(ballot):
            return
        if ballot.kind == FINALISE:
            self.is_decided = True
            self.decided = item, self.now_ms
            # Who has voted hears the other votes as we did. If not, it says so when its time is up, and is answered.
            self.effects += (Broadcast(item, frozenset([vote.vote for vote in item.votes])), Decide(item))
            return
        self._wake()
        if ballot.kind == NOTARISE:
            if ballot.view in self.held.notarised:
                return
            self.held.notarised[ballot.view] = item
            self._relay(item)
            self._finalise(item)
            if self.is_decided:
                return
            has_entered = self._enter(ballot.view)
            if not has_entered and 1 < ballot.view == self.view:  # the first may be slow, and seldom fails
                self._set_timer()
        else:
            self.held.nullified[ballot.view] = item
            self._relay(item)
            has_entered = self._enter(ballot.view + 1)
        if not (has_entered or self.is_decided):
            self._go_on()

    def _relay(self, item: Certificate) -> None:
        """Others may have missed votes that we have not, and a liar's they may never get."""
        self.effects.append(Broadcast(item))

    # Voting

    def _try_notarise(self) -> None:
        proposal = self._proposals.get(self.view)
        if proposal is not None and proposal.ballot.block_id in self._checked and self.signed.may_notarise(self.view):
            self._vote(proposal.ballot)

    def _finalise(self, notarised: Certificate) -> None:
        ballot = notarised.ballot
        if self.signed.may_finalise(ballot.view):
            # From now on we cannot nullify this view: after a crash we must be able to lead the others out of it.
            self.effects.append(Persist(notarised))
            self._vote(Ballot(self.height, ballot.view, FINALISE, 0, ballot.block_id, NOTHING))

    def _nullify(self, view: int) -> None:
        if self.signed.may_nullify(view):
            self._vote(Ballot(self.height, view, NULLIFY, 0, NOTHING, NOTHING))

    def _vote(self, ballot: Ballot) -> None:
        vote = self.signed.vote(ballot)
        self.effects += (Persist(vote), Broadcast(vote))
        self._count(vote, self.tally.counts.get(ballot))

    # When a view yields nothing in time

    def _take_timeout(self, event: TimedOut) -> None:
        view = event.view
        if self.is_decided or (event.height, view) != (self.height, self.view):
            return
        self.effects.append(ShareCause())
        self.effects += [Broadcast(said) for said in self.signed.list_said(view)]  # it may have been lost
        if view in self.held.notarised:
            self._relay(self.held.notarised[view])
            self._enter(view + 1)
            return
        self._nullify(view)
        if self.view == view:
            self._let_others_in()
        if self.view == view:
            self.effects.append(SetTimer(self.height, view, self._timer_ms))

    def _let_others_in(self) -> None:
        """What leads whoever has missed it into our view: without this a height can stand still for ever."""
        newest = max(self.held.notarised, default=0)
        if newest:
            self._relay(self.held.notarised[newest])
        for view in range(newest + 1, self.view):
            if view in self.held.nullified:
                self._relay(self.held.nullified[view])
            else:
                # Whoever had that certificate has forgotten it, and no proposal can do without.
                self._nullify(view)


# What is done about each event, and each message of the height. (A table: there are many.)
TAKES: dict[type, Callable[..., None]] = {
    Vote: Simplex._take_vote,
    Certificate: Simplex._take_certificate,
    Proposal: Simplex._take_proposal,
    Woken: Simplex._take_woken,
    Built: Simplex._take_built,
    Checked: Simplex._take_checked,
    TimedOut: Simplex._take_timeout,
}
