"""Why the ledger refuses what is asked about feeds of outside data, and workflows over them."""

from protocol.errors import InvalidTransaction
from protocol.keys import format_account
from protocol.ledger.errors import NotYet


class UnknownFeed(InvalidTransaction):
    def __init__(self, name: str) -> None:
        super().__init__(f"the ledger has no feed {name!r} that is reported on")
        self.name = name


class NotYourFeed(InvalidTransaction):
    """A feed of another account; those of genesis are nobody's, those of workflows end with them."""

    def __init__(self, name: str, account: bytes) -> None:
        super().__init__(f"feed {name!r} does not belong to account {format_account(account)}")
        self.name = name
        self.account = account


class InvalidFeed(InvalidTransaction):
    """A feed, or a part in one, that there cannot be."""


class UnknownWorkflow(InvalidTransaction):
    def __init__(self, name: str) -> None:
        super().__init__(f"the ledger has no workflow {name!r} that goes on")
        self.name = name


class NotYourWorkflow(InvalidTransaction):
    def __init__(self, name: str, account: bytes) -> None:
        super().__init__(f"workflow {name!r} does not belong to account {format_account(account)}")
        self.name = name
        self.account = account


class InvalidWorkflow(InvalidTransaction):
    """Scheduled work that there cannot be."""


class InvalidReport(InvalidTransaction):
    """An oracle report that does not follow from its observations."""


class RoundNotOpen(NotYet):
    """The report is ahead of the header's time."""

    def __init__(self, round_number: int, current: int) -> None:
        super().__init__(f"round {round_number} is ahead of the block's round {current}")
        self.round_number = round_number
        self.current = current


class RoundOver(InvalidTransaction):
    """The round is reported already, or too long ago."""

    def __init__(self, round_number: int, oldest: int) -> None:
        super().__init__(f"round {round_number} is over, the oldest that can be reported is {oldest}")
        self.round_number = round_number
        self.oldest = oldest
