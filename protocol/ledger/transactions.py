"""What an account can ask of the ledger: the transaction around it and a body for each kind.

Kinds below 0x8000 are ours; a user's module registers its own body with `@transaction` and says what it does with
`apply.register_rule`.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import IntEnum
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Annotated, Any, ClassVar, TypeVar

from protocol.codec import decode, encode, get_size_max
from protocol.errors import LocalError
from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import Attestation, Claim, Mode, Voucher
from protocol.keys import Signer
from protocol.ledger.errors import UnknownTransactionKind
from protocol.ledger.feed_errors import InvalidReport
from protocol.ledger.records import ModelDigests, RoleNames, VoteKey
from protocol.signing import compute_domain_prefix
from protocol.tensor import TENSORS_MAX, Tensor
from protocol.types import AtMost, ChainId, Digest, Grains, Name, PublicKey, Signature, Signed, TimeMs, Whole

TRANSACTION_BYTES_MAX = 64 * 1024 - 512  # leaves room for the envelope
BODY_BYTES_MAX = TRANSACTION_BYTES_MAX - 256
ATTESTATIONS_MAX = 16
EXTENSION_KIND_MIN = 0x8000
READ_MAX = 8_192  # transactions remembered with what was found out about them
READ_BYTES_MAX = 1_024  # longer ones are read every time

OptionalSignature = Annotated[bytes, AtMost(64)]
C = TypeVar("C", bound=type)
_bodies: dict[int, type] = {}
_kinds: dict[type, int] = {}
_PREFIX = compute_domain_prefix("transaction")
_POSSESSION = compute_domain_prefix("possession")
_UNSIGNED_HEADER = b"\x98"  # msgpack's, of an array of eight
_SIGNATURE_WIRE_SIZE = 2 + 64


@fast_dataclass(frozen=True)
class Transaction:
    """One account's signed order. `nonce` counts the account's transactions from 0.

    `fee` is the most it will pay in all. The base fee comes out of it first, then up to `tip` for the block's builder.
    """

    DOMAIN: ClassVar[str] = "transaction"

    chain: ChainId
    account: PublicKey
    nonce: Whole
    kind: Whole
    body: Annotated[bytes, AtMost(BODY_BYTES_MAX)]
    fee: Grains
    tip: Grains
    valid_until_ms: TimeMs  # against header time
    signature: Signature

    # What follows from the fields, found out once.

    @cached_property
    def wire(self) -> bytes:
        """Encoded."""
        return encode(self)

    @cached_property
    def signing_bytes(self) -> bytes:
        """As `compute_signing_bytes`: there is one spelling, so what came need not be encoded again."""
        unsigned = _UNSIGNED_HEADER + self.wire[1:-_SIGNATURE_WIRE_SIZE]
        return _PREFIX + hashlib.sha256(unsigned).digest()

    @cached_property
    def id(self) -> bytes:
        return hashlib.sha256(self.signing_bytes).digest()

    @cached_property
    def content(self) -> Any:
        """What `body` holds. UnknownTransactionKind, or MalformedMessage."""
        return decode(get_transaction_body(self.kind), self.body)


def read_transaction(data: bytes) -> Transaction:
    """Decode a transaction; of small ones seen lately the same object once more. MalformedMessage.

    Gossip reads a transaction, then the pool, then every block that holds it: with what they find out about it that is
    most of what it costs beside its signature.
    """
    return _read_again(data) if len(data) <= READ_BYTES_MAX else _read(data)


def _read(data: bytes) -> Transaction:
    transaction = decode(Transaction, data)
    transaction.__dict__["wire"] = data
    return transaction


_read_again = lru_cache(maxsize=READ_MAX)(_read)


def forget_transactions() -> None:
    """Have every transaction be read again: for measuring."""
    _read_again.cache_clear()


def compute_transaction_id(transaction: Transaction) -> bytes:
    return transaction.id


def transaction(kind: int) -> Callable[[C], C]:
    """Register a frozen dataclass as the body of transaction `kind`. LocalError on a clash."""

    def register(cls: C) -> C:
        is_ours = cls.__module__.partition(".")[0] == "protocol"
        if kind <= 0 or (not is_ours and kind < EXTENSION_KIND_MIN):
            raise LocalError(f"{cls.__name__}: extensions use kinds from 0x{EXTENSION_KIND_MIN:04x}, not 0x{kind:04x}")
        known = _bodies.get(kind)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise LocalError(f"transaction kind {kind} belongs to {known.__name__} already")
        get_size_max(cls)  # a field without a bound shows at import
        _bodies[kind] = cls
        _kinds[cls] = kind
        return cls

    return register


def get_transaction_kind(cls: type) -> int:
    """The kind of a registered body. LocalError when it is none."""
    kind = _kinds.get(cls)
    if kind is None:
        raise LocalError(f"{cls.__name__} is not the body of a transaction")
    return kind


def get_transaction_body(kind: int) -> type:
    """The body of a kind. UnknownTransactionKind when nobody registered it."""
    body = _bodies.get(kind)
    if body is None:
        raise UnknownTransactionKind(kind)
    return body


def all_transactions() -> tuple[tuple[int, type], ...]:
    """Every registered kind with its body, by number."""
    return tuple(sorted(_bodies.items()))


@transaction(1)
@fast_dataclass(frozen=True)
class Transfer:
    to: PublicKey
    amount: Grains


@transaction(10)
@fast_dataclass(frozen=True)
class RegisterNode:
    """Binds keys to the account's node and says what it does; again, to change roles, models and price.

    `bond` is added to what is bonded. The proofs are the keys' own signatures (`prove_possession`); a vote key needs
    one when it is new.
    """

    node: PublicKey
    vote: VoteKey
    roles: RoleNames
    models: ModelDigests
    price: Grains  # per row
    bond: Grains
    proof: Signature
    vote_proof: OptionalSignature


@transaction(16)
@fast_dataclass(frozen=True)
class RotateKeys:
    """Other keys for the account's node; either may stay what it is. They are drawn and vote from the next epoch on."""

    node: PublicKey
    vote: VoteKey
    proof: Signature
    vote_proof: OptionalSignature


@transaction(17)
@fast_dataclass(frozen=True)
class CommitOnion:
    """The tip of a new hash onion of the account's validator (`randomness`), in force from the next epoch on."""

    number: Whole
    tip: Digest


B = TypeVar("B", RegisterNode, RotateKeys)


def compute_possession_bytes(body: RegisterNode | RotateKeys, account: bytes) -> bytes:
    """What a key signs to show that whoever registers it holds it."""
    bare = replace(body, proof=bytes(64), vote_proof=b"")
    kind = get_transaction_kind(type(body)).to_bytes(2, "big")
    return _POSSESSION + account + kind + hashlib.sha256(encode(bare)).digest()


def prove_possession(body: B, account: bytes, node: Signer, vote: Signer | None = None) -> B:
    """The same with its proofs, good for this account alone."""
    data = compute_possession_bytes(body, account)
    return replace(body, proof=node.sign(data), vote_proof=vote.sign(data) if vote is not None else b"")


@transaction(11)
@fast_dataclass(frozen=True)
class Stake:
    """Adds to the bond of the account's node."""

    amount: Grains


@transaction(12)
@fast_dataclass(frozen=True)
class Unstake:
    """Takes from the bond; paid out when `unbonding_ms` is over, slashed until then."""

    amount: Grains


@transaction(13)
@fast_dataclass(frozen=True)
class Delegate:
    """Puts stake behind another account's validator, or more of it."""

    validator: PublicKey
    amount: Grains


@transaction(14)
@fast_dataclass(frozen=True)
class Undelegate:
    """Takes it back; paid out when `unbonding_ms` is over, slashed until then."""

    validator: PublicKey
    amount: Grains


@fast_dataclass(frozen=True)
class ChannelOpening:
    payee: PublicKey
    deposit: Grains
    mode: Name = Mode.INDIVIDUAL


@transaction(20)
@fast_dataclass(frozen=True)
class OpenChannels:
    openings: Annotated[tuple[ChannelOpening, ...], AtMost(16)]


def compute_channel_id(transaction_id: bytes, index: int) -> bytes:
    """The id of the channel that the opening at `index` makes."""
    return hashlib.sha256(compute_domain_prefix("channel") + transaction_id + index.to_bytes(4, "big")).digest()


@transaction(21)
@fast_dataclass(frozen=True)
class CloseChannel:
    """The payer wants the rest back; the payee can settle until `channel_close_delay_ms` is over."""

    channel: Digest


@transaction(22)
@fast_dataclass(frozen=True)
class TopUpChannel:
    """The payer adds to an open channel's deposit."""

    channel: Digest
    amount: Grains


class ZeroReason(IntEnum):
    """Why a leaf earns nothing. 0 is for leaves that do."""

    UNATTESTED = 1
    REFUSED = 2
    NEVER_SEEN = 3
    FAILED = 4
    DISSENT = 5
    CANCELLED = 6  # by the client, before it had begun
    UNPAYABLE = 7  # the ledger would refuse to pay it: expired, or more than its channel has promised


@fast_dataclass(frozen=True)
class Work:
    """A job done, with all that shows it: paid only if everything fits.

    `outputs` exactly where an attestation shows others: of a float model they need only be near (`proofs.bounds`).
    """

    voucher: Voucher
    claim: Claim
    salt: Digest
    output_digest: Digest
    attestations: Annotated[tuple[Attestation, ...], AtMost(ATTESTATIONS_MAX)]
    outputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)] = ()


@fast_dataclass(frozen=True)
class Leaf:
    """One voucher's end: `reason` 0 with its work, or a ZeroReason without."""

    reason: Whole
    work: Annotated[tuple[Work, ...], AtMost(1)]


@fast_dataclass(frozen=True)
class ChannelRun:
    """Consecutive leaves of one channel from `seq_first`, the last settled + 1."""

    channel: Digest
    seq_first: Whole
    leaves: Annotated[tuple[Leaf, ...], AtMost(256)]


@transaction(30)
@fast_dataclass(frozen=True)
class SettleIndividual:
    """A worker collects what it has earned. One leaf that does not hold refuses all of it."""

    runs: Annotated[tuple[ChannelRun, ...], AtMost(64)]


@fast_dataclass(frozen=True)
class SignedObservation:
    """One oracle's reading, a whole number in the feed's own unit. Signed by its node key."""

    DOMAIN: ClassVar[str] = "observation"

    feed: Name
    round: Whole  # time_ms // the feed's heartbeat
    sequence: Whole  # within the round: 0 for the heartbeat
    value: Signed
    time_ms: TimeMs
    observer: PublicKey
    signature: Signature


@transaction(40)
@fast_dataclass(frozen=True)
class ReportOracle:
    """The observations of one position, by observer; the ledger keeps their median."""

    observations: Annotated[tuple[SignedObservation, ...], AtMost(64)]

    @classmethod
    def of(cls, observations: Sequence[SignedObservation]) -> "ReportOracle":
        """InvalidReport unless they are of one feed and position and each of another observer."""
        report = cls(tuple(sorted(observations, key=lambda item: item.observer)))
        verify_report(report)
        return report


def verify_report(report: ReportOracle) -> None:
    """InvalidReport unless the observations are of one feed and position, in strict order of observer."""
    items = report.observations
    if not items:
        raise InvalidReport("a report without observations")
    if len({(item.feed, item.round, item.sequence) for item in items}) != 1:
        raise InvalidReport("observations of more than one feed or position")
    observers = [item.observer for item in items]
    if any(first >= second for first, second in pairwise(observers)):
        raise InvalidReport("observers are not in strict order")


def compute_median(values: Sequence[int]) -> int:
    """The middle one; the lower of two, so that it is always one that somebody observed."""
    return sorted(values)[(len(values) - 1) // 2]
