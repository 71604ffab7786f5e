"""A validator that cheats on purpose, for tests: it tells half of the others one thing and the other half another.

What it says is well-formed and signed by its own key; the block it makes up does not exist. Each turn in which it does
so is recorded as `votes.twisted`.
"""

from dataclasses import replace

from protocol.consensus.messages import Vote
from protocol.consensus.signatures import KeySignatures
from protocol.ledger.block import NOTHING, Ballot, get_validators
from protocol.messages import Proposed, Said
from roles.role import Context, Effect, Event, Record, Send, Started
from roles.validator import Validator


class LyingValidator(Validator):
    """An honest validator behind a mouth that equivocates, from height `config["lies_from"]` on.

    With `config["liars"]` only so many lie, the first of the set it starts with: so that one class can run them all.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._liars = int(context.config.get("liars", 1_000))
        self._lies_from = int(context.config.get("lies_from", 1))
        self._is_liar = False

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        if isinstance(event, Started):
            votes = [item.vote for item in get_validators(event.state)]
            self._is_liar = self._vote.public in votes[: self._liars]
        effects = super().handle(event, now_ms)
        if not self._is_liar or self._ledger.height + 1 < self._lies_from:
            return effects
        told = [self._twist(effect) if isinstance(effect, Send) else effect for effect in effects]
        is_lie = any(one is not other for one, other in zip(effects, told, strict=True))
        return [Record("votes.twisted", {"height": self._ledger.height + 1}), *told] if is_lie else effects

    def _twist(self, effect: Send) -> Send:
        """Another block, for every second peer."""
        said = effect.message
        if not isinstance(said, Said) or effect.peer not in self._peers[::2]:
            return effect
        votes = tuple(self._vote_twice(vote) for vote in said.votes)
        proposed = tuple(item for proposal in said.proposed for item in self._propose_twice(proposal))
        if (votes, proposed) == (said.votes, said.proposed):
            return effect
        return replace(effect, message=replace(said, votes=votes, proposed=proposed))

    def _vote_twice(self, vote: Vote) -> Vote:
        if vote.voter != self._vote.public or vote.ballot.block_id == NOTHING:
            return vote
        ballot = _make_up(vote.ballot)
        return Vote(ballot, vote.voter, self._signs.sign_vote(ballot))

    def _propose_twice(self, item: Proposed) -> tuple[Proposed, ...]:
        proposal = item.proposal
        if proposal.leader != self._vote.public:
            return (item,)
        ballot = _make_up(proposal.ballot)
        return (Proposed(replace(proposal, ballot=ballot, signature=self._signs.sign_proposal(ballot)), ()), item)

    @property
    def _signs(self) -> KeySignatures:
        return KeySignatures(self._ledger.chain, self._vote)


def _make_up(ballot: Ballot) -> Ballot:
    return replace(ballot, block_id=bytes(byte ^ 0xFF for byte in ballot.block_id))
