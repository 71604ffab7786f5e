"""The certificates of one height that a validator holds, and what may be proposed on them."""

from protocol.consensus.messages import Justification
from protocol.ledger.block import Ballot, Certificate, VoteKind

NOTARISE, NULLIFY = VoteKind.NOTARISE, VoteKind.NULLIFY


class Held:
    """By view. One to finalise ends the height, and is not kept here."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A height of which there are none yet."""
        self.notarised: dict[int, Certificate] = {}
        self.nullified: dict[int, Certificate] = {}

    def has(self, ballot: Ballot) -> bool:
        held = self.notarised if ballot.kind == NOTARISE else self.nullified if ballot.kind == NULLIFY else {}
        found = held.get(ballot.view)
        return found is not None and found.ballot == ballot

    def find_parent(self, view: int) -> int | None:
        """The view whose block a proposal in this view has to repeat, 0 if none.

        None for now: views between the two are not void, as far as we know.
        """
        parent = max((v for v in self.notarised if v < view), default=0)
        return parent if all(v in self.nullified for v in range(parent + 1, view)) else None

    def justify(self, parent: int, view: int) -> Justification:
        """Of a proposal in a view that repeats what `find_parent` has found."""
        notarised = (self.notarised[parent],) if parent else ()
        return Justification(notarised, tuple(self.nullified[v] for v in range(parent + 1, view)))
