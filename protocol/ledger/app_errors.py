"""Why the ledger refuses what is asked about apps."""

from protocol.errors import InvalidTransaction
from protocol.keys import format_account


class InvalidApp(InvalidTransaction):
    """An app that there cannot be."""


class UnknownApp(InvalidTransaction):
    def __init__(self, app: str) -> None:
        super().__init__(f"there is no app {app!r}")
        self.app = app


class AppRetired(InvalidTransaction):
    def __init__(self, app: str) -> None:
        super().__init__(f"app {app!r} is retired: it sells no more passes, and its name is free when the last is over")
        self.app = app


class NotYourApp(InvalidTransaction):
    def __init__(self, app: str, account: bytes) -> None:
        super().__init__(f"app {app!r} is not for account {format_account(account)} to change or report on")
        self.app = app
        self.account = account


class InvalidPurchase(InvalidTransaction):
    """A pass that is not sold, or not so."""


class StakeTooLow(InvalidTransaction):
    """Both amounts are in grains."""

    def __init__(self, have: int, need: int) -> None:
        super().__init__(f"the tier asks for {need} grains of stake, {have} are shown")
        self.have = have
        self.need = need


class InvalidUse(InvalidTransaction):
    """A report of use that no pass allows."""


class QuotaExceeded(InvalidTransaction):
    def __init__(self, used: int, quota: int) -> None:
        super().__init__(f"{used} requests in a period, the pass allows {quota}")
        self.used = used
        self.quota = quota
