"""The fee market: what room in a block costs, and who gets the money.

Room is counted in units, a KiB begun each. Every transaction pays the block's base fee for its units; the base fee
rises after blocks that are more than half full and falls after others, by an eighth at most (EIP-1559). While the
network sleeps it falls with time, so that nobody who comes back pays for a crowd that has left. A tip comes on top.
"""

from dataclasses import replace

from protocol.codec import encode
from protocol.errors import InsufficientBalance
from protocol.ledger.draft import Draft
from protocol.ledger.errors import FeeBelowBase, FeeTooLow
from protocol.ledger.flows import Party, Source
from protocol.ledger.params import Params
from protocol.ledger.pools import reward_builder
from protocol.ledger.records import Account
from protocol.ledger.transactions import Transaction
from protocol.types import BP, INT_MAX

UNIT_BYTES = 1_024
BLOCK_UNITS_MAX = 1_000
UNITS_TARGET = BLOCK_UNITS_MAX // 2
CHANGE_PARTS = 8  # a block moves the base fee by one part in so many at most
HEADROOM = 2  # a quoted fee lasts through five full blocks
_NO_ACCOUNT = Account(0, 0)


def count_units(size_bytes: int) -> int:
    """The room a transaction of this size takes.

    >>> count_units(1_024), count_units(1_025)
    (1, 2)
    """
    return -(-size_bytes // UNIT_BYTES)


def compute_next_base_fee(base_fee: int, units: int, params: Params) -> int:
    """The base fee, in grains a unit, after a block of so many units. Source: EIP-1559.

    >>> compute_next_base_fee(800_000, 1_000, Params()), compute_next_base_fee(800_000, 0, Params())
    (900000, 700000)
    """
    if units > UNITS_TARGET:
        return base_fee + max(1, base_fee * (units - UNITS_TARGET) // UNITS_TARGET // CHANGE_PARTS)
    fall = base_fee * (UNITS_TARGET - units) // UNITS_TARGET // CHANGE_PARTS
    return max(params.base_fee_min, base_fee - fall)


def compute_base_fee(base_fee: int, asleep_ms: int, params: Params) -> int:
    """The base fee of a block that comes so long after the last one: each `fee_idle_ms` counts as an empty block."""
    empty = asleep_ms // params.fee_idle_ms
    while empty and base_fee > params.base_fee_min:  # a few hundred times at most, whatever the fee was
        base_fee = max(params.base_fee_min, base_fee - max(1, base_fee // CHANGE_PARTS))
        empty -= 1
    return base_fee


def with_fee(unsigned: Transaction, base_fee: int, tip: int = 0) -> Transaction:
    """The transaction with a fee that covers its units at twice this base fee, and the tip."""
    units = count_units(len(encode(replace(unsigned, fee=INT_MAX, tip=tip))))
    return replace(unsigned, fee=HEADROOM * base_fee * units + tip, tip=tip)


def compute_fee(transaction: Transaction, units: int, base_fee: int, params: Params) -> tuple[int, int]:
    """What a transaction pays at this base fee: (base, tip).

    FeeTooLow when it will never do, FeeBelowBase when it has to wait for a lower base fee.
    """
    if transaction.fee < params.base_fee_min * units:
        raise FeeTooLow(transaction.fee, params.base_fee_min * units)
    base = base_fee * units
    if transaction.fee < base:
        raise FeeBelowBase(transaction.fee, base)
    return base, min(transaction.tip, transaction.fee - base)


def charge_fee(draft: Draft, account: bytes, base: int, tip: int, units: int) -> None:
    """Take a transaction's fee and count its nonce; InsufficientBalance. `divide_fees` has the rest of it."""
    known = draft.accounts.get(account) or _NO_ACCOUNT
    if known.balance < base + tip:
        raise InsufficientBalance(known.balance, base + tip)
    draft.accounts.put(account, Account(known.balance - base - tip, known.nonce + 1))
    draft.fees += base
    draft.tips += tip
    draft.units += units


def split_transaction_fee(fee: int, params: Params) -> tuple[int, int, int]:
    """Divide a base fee into (validators, treasury, burn). The burn takes what rounding leaves.

    >>> split_transaction_fee(101, Params())
    (30, 30, 41)
    """
    validators = fee * params.fee_validators_bp // BP
    treasury = fee * params.fee_treasury_bp // BP
    return validators, treasury, fee - validators - treasury


def divide_fees(draft: Draft, builder: bytes, earns: bool) -> None:
    """Divide the fees of a whole block at once, and set the base fee for the next.

    What a builder that does not earn would have got burns.
    """
    validators, treasury, burn = split_transaction_fee(draft.fees, draft.params)
    draft.fund(Source.TRANSACTION, treasury)
    draft.burn(Source.TRANSACTION, burn)
    if earns:
        reward_builder(draft, builder, validators)
        draft.tell(Source.TRANSACTION, Party.VALIDATOR, validators, builder)
        draft.earn(Source.TRANSACTION, Party.VALIDATOR, builder, draft.tips)
    else:
        draft.burn(Source.TRANSACTION, validators + draft.tips)
    draft.fees = draft.tips = 0
    draft.base_fee = compute_next_base_fee(draft.base_fee, draft.units, draft.params)
