"""The consensus core: single-shot Simplex for one height after another, as a pure state machine.

What belongs to the height that is being decided is the business of `simplex`. Here heights follow each other: messages
of the next one are kept until it begins, those of decided ones are answered, and held against what their voters said.

Heights are made on demand: each sleeps until there is a reason for a block. Source: facts on consensus, sections 2 to 4
(with a permissive notarise vote and lazy advance); PROTOCOL, "Blocks on demand, time".
"""

from protocol.consensus.events import Answer, Began, CatchUp, Effect, Event, Heard
from protocol.consensus.messages import Message, Proposal, Signatures, Vote, verify_ballot
from protocol.consensus.simplex import TAKES, Simplex
from protocol.consensus.tally import Tally
from protocol.ledger.block import Certificate, InvalidVote

TIMER_MS = 250  # on one machine; a network over long distances takes 1,000
EARLY_MAX = 64  # messages of the next height kept per validator
ANSWER_MS = 100  # between two answers to those who are behind


class Core:
    """One validator's part in the agreement; without a vote key it follows and says nothing.

    The first event is `Began`. What peers send is checked here, signatures included; what they do wrong costs nothing
    but their message, or is reported as `Accuse`.
    """

    def __init__(self, voter: bytes | None, signatures: Signatures, timer_ms: int = TIMER_MS) -> None:
        self._voter = voter
        self._signatures = signatures
        self.timer_ms = timer_ms  # of a first view; may be stretched between two heights
        self._here = Simplex(voter, signatures, timer_ms)  # at the height that is being decided
        self._early: dict[bytes, list[Message]] = {}  # of the next height, by who says it
        self._tally_before = Tally({})  # of the last height
        self._decided_before: Certificate | None = None
        self._answered_ms = -ANSWER_MS

    @property
    def height(self) -> int:
        return self._here.height

    @property
    def view(self) -> int:
        """0 while the height sleeps."""
        return self._here.view

    @property
    def is_decided(self) -> bool:
        return self._here.is_decided

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """What is to be done, in order."""
        here = self._here
        here.now_ms = now_ms
        effects = here.effects = []
        if type(event) is Heard:
            self._hear(event.message)
        elif type(event) is Began:
            self._begin(event)
        else:
            TAKES[type(event)](here, event)
        return effects

    def _begin(self, began: Began) -> None:
        here = self._here
        is_next = began.height == here.height + 1
        early, self._early = self._early if is_next else {}, {}
        # What was said at the last height still convicts whoever says something else of it now.
        self._tally_before = here.tally if is_next else Tally({})
        self._decided_before = began.decided
        here.begin(began, self.timer_ms)
        if began.log:
            here.restore(began.log)
        for messages in early.values():
            for message in messages:
                self._hear(message)

    def _hear(self, message: Message) -> None:
        here, height = self._here, message.ballot.height
        if height == here.height and not here.is_decided:
            try:
                TAKES[type(message)](here, message)
            except InvalidVote:
                return  # it costs nothing but the message
        elif height == here.height:
            self._look_back(message, here.tally)
            decided, decided_ms = here.decided
            if here.now_ms - decided_ms >= ANSWER_MS:  # until then it may be on its way
                self._answer_late(decided)
        elif height < here.height:
            if height == here.height - 1:
                self._look_back(message, self._tally_before)
            self._answer_late(self._decided_before)
        elif height == here.height + 1:
            self._keep_early(message)
        else:
            here.effects.append(CatchUp(height))

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
                tally.note(vote, tally.counts.get(vote.ballot), self._here.effects)

    def _is_vote(self, vote: Vote) -> bool:
        try:
            verify_ballot(vote.ballot)
        except InvalidVote:
            return False
        return self._signatures.is_vote(vote.voter, vote.ballot, vote.signature)

    def _answer_late(self, decided: Certificate | None) -> None:
        """Whoever goes on with a height that we have decided has not heard of it, whether we have the block or not."""
        here = self._here
        if decided is not None and here.now_ms - self._answered_ms >= ANSWER_MS:
            self._answered_ms = here.now_ms
            here.effects.append(Answer(decided))

    def _keep_early(self, message: Message) -> None:
        sender = (
            message.voter if isinstance(message, Vote) else message.leader if isinstance(message, Proposal) else b""
        )
        if sender and sender not in self._here.weights:
            return
        kept = self._early.setdefault(sender, [])
        if len(kept) < EARLY_MAX:
            kept.append(message)
