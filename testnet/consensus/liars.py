"""Validators that cheat, for simulations: what they say in place of what an honest one would.

Each is an honest validator behind a mouth of its own. A liar signs whatever it likes, but only as itself.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from protocol.consensus.messages import Message, Proposal, Signatures, Vote
from protocol.ledger.block import NOTHING, Ballot, Certificate, VoteKind, VoteSignature, make_final_ballot

HISTORY_MAX = 200


@dataclass
class Liar:
    """One of them, with its vote key and those of all validators.

    `twins` are pairs of blocks that may stand for each other; liars in league share them. `history` is what this one
    has said, for those who repeat old words.
    """

    key: bytes
    kind: str
    rng: random.Random
    signatures: Signatures
    keys: tuple[bytes, ...]
    twins: dict[bytes, bytes] = field(default_factory=dict)
    history: list[Message] = field(default_factory=list)

    def say(self, message: Message, target: int) -> list[Message]:
        """What one other validator hears instead of this message."""
        return _MOUTHS[self.kind](self, message, target)

    @property
    def hears_causes(self) -> bool:
        """Whether a reason for a block wakes it."""
        return self.kind != "never waking"

    @property
    def withholds(self) -> bool:
        """Whether it keeps the bodies of its blocks from some."""
        return self.kind == "withholding"

    def sign(self, ballot: Ballot) -> Vote:
        return Vote(ballot, self.key, self.signatures.sign_vote(ballot))

    def forge(self, ballot: Ballot) -> Certificate:
        """A certificate that no quorum has signed: too few votes, one vote many times, or votes of others made up."""
        signature = self.signatures.sign_vote(ballot)
        mine = VoteSignature(self.key, signature)
        made_up = tuple(VoteSignature(key, signature) for key in sorted(self.keys))
        return Certificate(ballot, self.rng.choice(((mine,), (mine,) * len(self.keys), made_up)))

    def put(self, message: Vote | Proposal, ballot: Ballot) -> Vote | Proposal:
        """The same about another ballot, signed anew."""
        if isinstance(message, Vote):
            return self.sign(ballot)
        return replace(message, ballot=ballot, signature=self.signatures.sign_proposal(ballot))


def _be_silent(liar: Liar, message: Message, target: int) -> list[Message]:
    return []


def _speak_truly(liar: Liar, message: Message, target: int) -> list[Message]:
    return [message]


def _equivocate(liar: Liar, message: Message, target: int) -> list[Message]:
    """One block for some and its twin for others, votes to match, and now and then both to the same one.

    All equivocators tell the same half the same: several of them are in league.
    """
    block_id = message.ballot.block_id
    if isinstance(message, Certificate) or block_id == NOTHING:
        return [message]
    pair = sorted((block_id, liar.twins.get(block_id) or bytes(byte ^ 0xFF for byte in block_id)))
    told = [liar.put(message, replace(message.ballot, block_id=item)) for item in pair]
    return list(told) if liar.rng.random() < 0.1 else [told[target % 2]]


def _nullify(liar: Liar, message: Message, target: int) -> list[Message]:
    """A vote against every view, beside whatever else it has voted for: a finalised view too."""
    ballot = message.ballot
    against = liar.sign(Ballot(ballot.height, ballot.view, VoteKind.NULLIFY, 0, NOTHING, NOTHING))
    return [message, against] if liar.rng.random() < 0.3 else [against]


def _repeat_old(liar: Liar, message: Message, target: int) -> list[Message]:
    liar.history.append(message)
    del liar.history[:-HISTORY_MAX]
    return [liar.rng.choice(liar.history)]


def _forge(liar: Liar, message: Message, target: int) -> list[Message]:
    height, view = message.ballot.height, liar.rng.randrange(1, 4)
    forged: list[Message] = [liar.forge(make_final_ballot(height, view, liar.rng.randbytes(32)))]
    if isinstance(message, Proposal):  # over a gap that nothing justifies
        forged.append(liar.put(message, replace(message.ballot, view=message.ballot.view + 1)))
    return [message, *forged]


def _favour_one(liar: Liar, message: Message, target: int) -> list[Message]:
    """Votes for one validator's ears alone, and no certificate for anybody: only that one can complete a quorum."""
    if isinstance(message, Proposal):
        return [message]
    favourite = 1 if liar.key == liar.keys[0] else 0
    return [message] if target == favourite and isinstance(message, Vote) else []


_MOUTHS: dict[str, Callable[[Liar, Message, int], list[Message]]] = {
    "silent": _be_silent,
    "equivocating": _equivocate,
    "nullifying": _nullify,
    "stale": _repeat_old,
    "favouring": _favour_one,
    "forging": _forge,
    "lying in sync": _speak_truly,
    "withholding": _speak_truly,
    "never waking": _speak_truly,
}
KINDS = tuple(_MOUTHS)
