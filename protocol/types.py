"""The bounds every field on the wire or on the ledger carries.

A field's annotation says its type and its bound; `codec` compiles both into a strict decoder.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, NamedTuple

from protocol.fast_dataclass import fast_dataclass

INT_MAX = 2**63 - 1
GRAINS_PER_ROLE = 1_000_000_000
BP = 10_000  # basis points in a whole: 1 bp is 0.01 %


@fast_dataclass(frozen=True)
class Exactly:
    """Bytes of exactly this length."""

    size: int


@fast_dataclass(frozen=True)
class AtMost:
    """Bytes, text (counted in UTF-8 bytes) or a list of at most this length."""

    size: int


@fast_dataclass(frozen=True)
class UpTo:
    """A whole number up to this value, from 0 or from another one on."""

    value: int
    least: int = 0


Digest = Annotated[bytes, Exactly(32)]
PublicKey = Annotated[bytes, Exactly(32)]
Signature = Annotated[bytes, Exactly(64)]
ChainId = Annotated[bytes, Exactly(8)]
Whole = Annotated[int, UpTo(INT_MAX)]
Signed = Annotated[int, UpTo(INT_MAX, -INT_MAX)]  # below nought too
Grains = Annotated[int, UpTo(INT_MAX)]
TimeMs = Annotated[int, UpTo(INT_MAX)]
ShareBp = Annotated[int, UpTo(BP)]
Name = Annotated[str, AtMost(64)]
Line = Annotated[str, AtMost(512)]


class Verdict(StrEnum):
    """What gossip says about a message.

    Ignore is for what an honest peer may forward (late, repeated, ahead of us); reject only for what every honest
    peer would see as wrong. Source: gossipsub v1.1, Extended Validators.
    """

    ACCEPT = "accept"
    IGNORE = "ignore"
    REJECT = "reject"


class Unproven(NamedTuple):
    """A verdict that hangs on a signature: `conclude` gives it, once that is known to be good or not."""

    public: bytes
    signed: bytes
    signature: bytes
    conclude: Callable[[bool], Verdict]


class NodeState(StrEnum):
    """One word for status, health and adverts. A node without the bond its role asks for observes."""

    STARTING = "starting"
    SYNCING = "syncing"
    OBSERVING = "observing"
    SERVING = "serving"
    DRAINING = "draining"
