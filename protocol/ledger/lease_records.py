"""What the ledger remembers of leases of storage."""

from typing import Annotated

from protocol.audit import Contents
from protocol.cid import CID_SIZE
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.records import Tip
from protocol.types import AtMost, Exactly, Grains, PublicKey, TimeMs, UpTo, Whole

REPLICAS_MAX = 32  # of a lease, those that are only on their way included
PASSED_MAX = 64  # nodes that are not drawn for a lease once more


@fast_dataclass(frozen=True)
class Offer:
    """Room that an account's storage node lets. `leased_bytes` of it are taken, also by leases it has yet to accept.

    `is_silent` is 1 since it has let a deadline pass: then it is not drawn until it answers one, or offers anew.
    """

    room_bytes: Whole
    price: Grains  # per MiB and hour, at least
    leased_bytes: Whole = 0
    is_silent: Annotated[int, UpTo(1)] = 0


@fast_dataclass(frozen=True)
class Replica:
    """A node's part in a lease. Until it has accepted, `height` is 0 and `deadline_ms` the end of its time for that.

    `since_ms` is up to when it has been paid, `misses` how many audits it has not answered since it last did.
    `is_asked` is 1 while an audit waits for its answer.
    """

    account: PublicKey
    deadline_ms: TimeMs
    height: Whole = 0  # of the block in which it accepted
    since_ms: TimeMs = 0
    misses: Whole = 0
    is_asked: Annotated[int, UpTo(1)] = 0


@fast_dataclass(frozen=True)
class Lease:
    """A promise to keep a blob, paid for as long as audits find it kept.

    A term has `periods` audits, of which `left` are still to come; it begins only when the balance covers all of it.
    `seed` draws the pieces of the audit under way, which began at `asked_ms`; it is empty between two audits.
    """

    payer: PublicKey
    cid: Annotated[bytes, Exactly(CID_SIZE)]
    contents: Contents
    price: Grains  # per MiB and hour, of each replica
    factor: Whole  # how many replicas there are to be
    periods: Whole
    renews: Annotated[int, UpTo(1)]
    balance: Grains
    left: Whole
    replicas: Annotated[tuple[Replica, ...], AtMost(REPLICAS_MAX)] = ()
    passed: Annotated[tuple[PublicKey, ...], AtMost(PASSED_MAX)] = ()
    draws: Whole = 0
    seed: Tip = b""
    asked_ms: TimeMs = 0
