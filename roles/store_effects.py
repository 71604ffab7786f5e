"""What a node's core wants of its store, and what it is told: the part of `core_effects` that is about blocks.

All that is found or kept under one token is safe from collection until it is pinned or dropped. None of it holds up
other effects: hashing and the disk take their time beside the loop.
"""

from protocol.audit import Contents, Piece
from protocol.cid import Cid
from protocol.fast_dataclass import fast_dataclass
from protocol.held import Held

FOR_EVER = 2**62  # an `expires_ms` that means no end

# Events


@fast_dataclass(frozen=True)
class BlocksRead:
    """A `ReadBlocks` ended: what is here, checked, in the order asked for. What is in neither did not fit."""

    token: str
    blocks: tuple[bytes, ...]
    missing: tuple[bytes, ...]


@fast_dataclass(frozen=True)
class LookedUp:
    """A `LookUp` ended. With an `error` nothing is known."""

    token: str
    held: tuple[Held, ...]
    missing: tuple[Cid, ...]
    error: str = ""


@fast_dataclass(frozen=True)
class Kept:
    """A `Keep` ended: what is on disk now, and what was not what its name says. With an `error` nothing may be."""

    token: str
    number: int
    held: tuple[Held, ...]
    bad: tuple[Cid, ...] = ()
    error: str = ""


@fast_dataclass(frozen=True)
class Pinned:
    """A `PinGathered` ended."""

    token: str
    error: str = ""


@fast_dataclass(frozen=True)
class Proven:
    """A `Prove` ended: what the CID stands for, and the pieces asked for; with an `error` neither."""

    token: str
    contents: Contents | None
    answer: tuple[Piece, ...] = ()
    error: str = ""


# Effects


@fast_dataclass(frozen=True)
class ReadBlocks:
    """Read blocks for a peer, in order, until the next one would go beyond `bytes_max`. Ends in one `BlocksRead`."""

    token: str
    digests: tuple[bytes, ...]
    bytes_max: int


@fast_dataclass(frozen=True)
class LookUp:
    """Which of these blocks are in the store, whole? Ends in one `LookedUp`."""

    token: str
    cids: tuple[Cid, ...]


@fast_dataclass(frozen=True)
class Keep:
    """Check blocks that came from a peer and keep them. Ends in one `Kept` of the same number."""

    token: str
    number: int
    blocks: tuple[tuple[Cid, memoryview], ...]


@fast_dataclass(frozen=True)
class PinGathered:
    """All of it is here: pin it durably. Ends in one `Pinned`."""

    token: str
    cid: Cid
    name: str
    expires_ms: int


@fast_dataclass(frozen=True)
class DropGathered:
    """It is given up. What came stays for another try for a while, unless that would be hopeless."""

    token: str
    is_hopeless: bool


@fast_dataclass(frozen=True)
class Prove:
    """Read all blocks of a CID, `bytes_max` at most, for these pieces of an audit. Ends in one `Proven`."""

    token: str
    cid: Cid
    bytes_max: int
    indices: tuple[int, ...]


@fast_dataclass(frozen=True)
class Unpin:
    """Keep a CID no longer, if it is pinned under this name."""

    cid: Cid
    name: str


StoreEvent = BlocksRead | LookedUp | Kept | Pinned | Proven
StoreEffect = ReadBlocks | LookUp | Keep | PinGathered | DropGathered | Prove | Unpin
