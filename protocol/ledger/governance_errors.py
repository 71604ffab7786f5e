"""Why the ledger refuses proposals and votes."""

from protocol.errors import InvalidTransaction
from protocol.keys import format_account


class InvalidProposal(InvalidTransaction):
    """Something the holders of stake cannot decide, or not so."""


class UnknownProposal(InvalidTransaction):
    def __init__(self, proposal: bytes) -> None:
        super().__init__(f"there is no proposal {proposal.hex()}")
        self.proposal = proposal


class VotingOver(InvalidTransaction):
    def __init__(self, proposal: bytes, phase: str) -> None:
        super().__init__(f"proposal {proposal.hex()} is not voted on any more: it is {phase}")
        self.proposal = proposal
        self.phase = phase


class AlreadyVoted(InvalidTransaction):
    """The stake behind the account, or some of it, has voted."""

    def __init__(self, proposal: bytes, account: bytes) -> None:
        super().__init__(f"stake of account {format_account(account)} has voted on proposal {proposal.hex()} already")
        self.proposal = proposal
        self.account = account


class InvalidStakeProof(InvalidTransaction):
    """A vote without stake, or with stake that the proposal's snapshot does not show."""
