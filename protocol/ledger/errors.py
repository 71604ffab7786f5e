"""Why the ledger says no. Each error carries the numbers, amounts in grains, times in milliseconds since 1970."""

from protocol.content import format_cid
from protocol.errors import InvalidTransaction
from protocol.keys import format_account


class NotYet(InvalidTransaction):
    """Refused in this block, but a later one may take it: keep it until it expires."""


class WrongChainTransaction(InvalidTransaction):
    """Signed for another chain."""

    def __init__(self, chain: bytes, expected: bytes) -> None:
        super().__init__(f"is for chain {chain.hex()}, not for {expected.hex()}")
        self.chain = chain
        self.expected = expected


class ExpiredTransaction(InvalidTransaction):
    """Its time of validity is over."""

    def __init__(self, valid_until_ms: int, time_ms: int) -> None:
        super().__init__(f"was valid until {valid_until_ms}, the block is of {time_ms}")
        self.valid_until_ms = valid_until_ms
        self.time_ms = time_ms


class FeeTooLow(InvalidTransaction):
    def __init__(self, offered: int, need: int) -> None:
        super().__init__(f"offers a fee of {offered} grains, needs {need}")
        self.offered = offered
        self.need = need


class FeeBelowBase(NotYet):
    """Offers less than the base fee asks for now; a quieter ledger will take it."""

    def __init__(self, offered: int, need: int) -> None:
        super().__init__(f"offers a fee of {offered} grains, the base fee comes to {need} now")
        self.offered = offered
        self.need = need


class UnknownTransactionKind(InvalidTransaction):
    def __init__(self, kind: int) -> None:
        super().__init__(f"transaction kind {kind} is not known here")
        self.kind = kind


class MalformedBody(InvalidTransaction):
    """The body's bytes are not what its kind says."""


class InvalidSignature(InvalidTransaction):
    """A signature inside the transaction, or its own, does not fit."""

    def __init__(self, what: str, public: bytes) -> None:
        super().__init__(f"{what} is not signed by {public.hex()}")
        self.what = what
        self.public = public


class InvalidAmount(InvalidTransaction):
    """An amount this transaction cannot have."""

    def __init__(self, what: str, amount: int, need: int) -> None:
        super().__init__(f"{what} is {amount} grains, needs at least {need}")
        self.amount = amount
        self.need = need


class InvalidNode(InvalidTransaction):
    """A node record that cannot be made or changed like this."""


class UnknownNode(InvalidTransaction):
    def __init__(self, key: bytes) -> None:
        super().__init__(f"no node is registered for {format_account(key)}")
        self.key = key


class LimitReached(InvalidTransaction):
    """A table of the ledger is full."""

    def __init__(self, what: str, have: int, limit: int) -> None:
        super().__init__(f"{have} {what}, at most {limit} allowed")
        self.have = have
        self.limit = limit


class UnknownEpoch(InvalidTransaction):
    """The epoch's snapshot is not, or no longer, in the state."""

    def __init__(self, epoch: int, oldest: int, newest: int) -> None:
        super().__init__(f"epoch {epoch} is not kept; kept are {oldest} to {newest}")
        self.epoch = epoch
        self.oldest = oldest
        self.newest = newest


class InvalidEvidence(InvalidTransaction):
    """What was posted does not prove what it says."""


class AlreadyProven(InvalidTransaction):
    """A claim is proven wrong once."""

    def __init__(self, claim_id: bytes) -> None:
        super().__init__(f"claim {claim_id.hex()} has been proven wrong already")
        self.claim_id = claim_id


class EvidenceTooOld(InvalidTransaction):
    """Those who decided that height had done so too long ago to answer for it. Both are epochs."""

    def __init__(self, until: int, oldest: int) -> None:
        super().__init__(f"its validators decided until epoch {until}, the oldest that answer did until {oldest}")
        self.until = until
        self.oldest = oldest


class AlreadyGuilty(InvalidTransaction):
    """A validator is convicted once, and validates no more."""

    def __init__(self, account: bytes) -> None:
        super().__init__(f"validator {format_account(account)} has been convicted already")
        self.account = account


class InvalidOnion(InvalidTransaction):
    """An onion's number is above all its account had before."""

    def __init__(self, number: int, least: int) -> None:
        super().__init__(f"the onion has number {number}, the next may have {least}")
        self.number = number
        self.least = least


class UnknownLease(InvalidTransaction):
    """Never opened, or ended already."""

    def __init__(self, lease: bytes) -> None:
        super().__init__(f"there is no lease {lease.hex()}")
        self.lease = lease


class InvalidLease(InvalidTransaction):
    """A lease that cannot be opened or changed like this, or a word about it that is not the sender's to say now."""

    def __init__(self, lease: bytes, reason: str) -> None:
        super().__init__(f"lease {lease.hex()}: {reason}")
        self.lease = lease


class TooFewStores(InvalidTransaction):
    """A lease begins with as many replicas as it asks for."""

    def __init__(self, have: int, need: int, size_bytes: int, price: int) -> None:
        super().__init__(
            f"{have} storage nodes of other accounts than the payer's let {size_bytes} bytes for {price} grains a MiB "
            f"and hour, {need} are needed"
        )
        self.have = have
        self.need = need


class InvalidModel(InvalidTransaction):
    """What is registered contradicts itself or the ledger."""


class UnknownModel(InvalidTransaction):
    """The ledger has no such model, or has it as retired."""

    def __init__(self, digest: bytes) -> None:
        super().__init__(f"the ledger has no model {format_cid(digest)} that is served")
        self.digest = digest


class NotYourModel(InvalidTransaction):
    """A name, or a model, of another account; those of genesis are nobody's."""

    def __init__(self, name: str, account: bytes) -> None:
        super().__init__(f"model {name!r} does not belong to account {format_account(account)}")
        self.name = name
        self.account = account


class InsufficientBond(InvalidTransaction):
    """Less is bonded than the roles, or the withdrawal, ask for."""

    def __init__(self, have: int, need: int) -> None:
        super().__init__(f"has {have} grains bonded, needs {need}")
        self.have = have
        self.need = need


class SelfPayment(InvalidTransaction):
    """A channel from an account to itself."""

    def __init__(self, account: bytes) -> None:
        super().__init__(f"account {format_account(account)} would pay itself")
        self.account = account
