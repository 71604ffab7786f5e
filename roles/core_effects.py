"""The seam between a node's core and whatever carries it: what the core is told and what it asks for.

The core (`roles.core`) decides; the trio shell (`roles.node`) and the simulator (`testnet.sim`) carry its effects out,
in order. `Commit`, `Put`, `PutBlob` and `LogVote` are durable: on disk before any later effect of the same or a later
list leaves; a `Put` can say that it is enough to be written. Times are whole milliseconds since 1970, as the shell's
monotone clock gives them.
"""

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from p2p.net import NetEvent
from protocol.cid import Cid
from protocol.fast_dataclass import fast_dataclass
from protocol.keys import Signer
from protocol.ledger import restart_terms
from protocol.ledger.block import Block, Certificate
from protocol.ledger.state import State
from protocol.messages import CertifiedBlock
from protocol.proofs.steps import AnyQuestion
from protocol.tensor import Tensor
from roles.role import Computed, Inspected, Progressed, VoteHistory
from roles.store_effects import StoreEffect, StoreEvent

# What a core is born with


@fast_dataclass(frozen=True)
class NodeKeys:
    """The signers of one node. `vote` is a validator's only."""

    node: Signer
    account: Signer
    vote: Signer | None = None


@fast_dataclass(frozen=True)
class Restored:
    """What the last process of this node left on disk.

    `boot` counts process starts and is persisted before the core is made. `state` is None before the first block: the
    core starts from genesis. `kv` holds what `Put` kept, by bucket and key. `blocks` reads one decided block by height.
    `votes` is what the vote log held, `restarts` what the next block is to follow (`roles.recovery`).
    """

    boot: int
    state: State | None
    kv: Mapping[str, Mapping[bytes, bytes]]
    blocks: Callable[[int], CertifiedBlock | None]
    votes: VoteHistory = field(default_factory=VoteHistory)
    restarts: tuple[restart_terms.Restart, ...] = ()


# Core events: something happened


@fast_dataclass(frozen=True)
class Boot:
    """First event. `addresses` are the multiaddrs we announce."""

    addresses: tuple[str, ...] = ()


@fast_dataclass(frozen=True)
class Command:
    """Whoever runs the node asks one of its roles for something; the role sees it as `Commanded`."""

    role: str
    command: Any


@fast_dataclass(frozen=True)
class Order:
    """Whoever runs the node wants a transaction of its account on the ledger: see `roles.orders`."""

    token: str
    body: Any


@fast_dataclass(frozen=True)
class Want:
    """Whoever runs the node wants a blob to be here: see `roles.wants`."""

    digest: bytes


@fast_dataclass(frozen=True)
class GatherWanted:
    """Whoever runs the node wants a file or folder to be in its store: see `roles.file_gatherer`.

    `peers` are node keys with addresses; without any, the storage nodes on the ledger are asked.
    """

    cid: Cid
    peers: tuple[tuple[bytes, tuple[str, ...]], ...]
    name: str
    expires_ms: int


@fast_dataclass(frozen=True)
class BlobLoaded:
    """A `LoadBlob` ended: the bytes, hash-checked, or None when the disk does not hold them."""

    digest: bytes
    data: bytes | None


@fast_dataclass(frozen=True)
class UrlFetched:
    """A `FetchUrl` ended. `data` is None when it could not be had; `error` says why."""

    url: str
    data: bytes | None
    error: str = ""


@fast_dataclass(frozen=True)
class Woke:
    """The time a `Wake` of this name asked for has come."""

    name: str


@fast_dataclass(frozen=True)
class Stop:
    """Last event: the node is going down, and what it returns is the last that is carried out."""


CoreEvent = (
    Boot
    | Command
    | Order
    | Want
    | GatherWanted
    | BlobLoaded
    | StoreEvent
    | UrlFetched
    | Computed
    | Progressed
    | Inspected
    | Woke
    | Stop
)
AnyEvent = NetEvent | CoreEvent

# Core effects: something is wanted


@fast_dataclass(frozen=True)
class NetSubscribe:
    topic: str


@fast_dataclass(frozen=True)
class NetServe:
    protocol: str


@fast_dataclass(frozen=True)
class NetPublish:
    topic: str
    data: bytes
    token: str


@fast_dataclass(frozen=True)
class NetRequest:
    peer: bytes
    protocol: str
    data: bytes
    token: str
    timeout_ms: int


@fast_dataclass(frozen=True)
class NetTell:
    """Hand something to a peer that wants no answer and has no outcome."""

    peer: bytes
    protocol: str
    data: bytes


@fast_dataclass(frozen=True)
class NetReply:
    token: str
    data: bytes


@fast_dataclass(frozen=True)
class NetLearn:
    peer: bytes
    addresses: tuple[str, ...]
    topics: tuple[str, ...] = ()


@fast_dataclass(frozen=True)
class NetPenalise:
    peer: bytes
    reason: str


@fast_dataclass(frozen=True)
class Commit:
    """Keep a decided block, the state after it and the restarts before it. Durable; unless `is_synced`, as `Put` is.

    Who does not vote can fetch the block again.
    """

    block: Block
    certificate: Certificate
    state: State
    restarts: tuple[restart_terms.Restart, ...] = ()
    is_synced: bool = True


@fast_dataclass(frozen=True)
class LogVote:
    """Append what the vote key has signed to the vote log. Durable."""

    record: bytes


@fast_dataclass(frozen=True)
class Put:
    """Keep a value under a bucket and key; None forgets it. Durable: written before a later effect leaves, which
    survives a killed process, and on disk before anything is published later.

    Bucket `receipt` holds receipt files by their request's id, which nobody wants in memory: `Restored.kv` has none of
    those in the database.
    """

    bucket: str
    key: bytes
    value: bytes | None


@fast_dataclass(frozen=True)
class LoadBlob:
    """Read a blob from disk. Ends in exactly one `BlobLoaded`."""

    digest: bytes


@fast_dataclass(frozen=True)
class PutBlob:
    """Keep a blob on disk. Its sha256 is `digest`; the store checks again."""

    digest: bytes
    data: bytes


@fast_dataclass(frozen=True)
class FetchUrl:
    """Get bytes over HTTP, from a file or a program (`sources.SCHEMES`). Ends in exactly one `UrlFetched`."""

    url: str
    timeout_ms: int


@fast_dataclass(frozen=True)
class Compute:
    """Run a model in the engine by a deadline. Ends in exactly one `Computed` with the same token.

    With `streams`, each few steps of a generation are told by a `Progressed` before.
    """

    token: str
    model: bytes
    inputs: tuple[Tensor, ...]
    deadline_ms: int
    streams: bool = False


@fast_dataclass(frozen=True)
class Inspect:
    """Trace a model or run one operator of it by a deadline. Ends in exactly one `Inspected` with the same token."""

    token: str
    model: bytes
    question: AnyQuestion
    deadline_ms: int


@fast_dataclass(frozen=True)
class Withdraw:
    """A `Compute` of this token that still waits ends now, as `Computed` with an error.

    So does a generation that runs, after a few steps; any other one that runs goes on.
    """

    token: str


@fast_dataclass(frozen=True)
class Wake:
    """`Woke(name)` at `at_ms`; the same name again moves it."""

    name: str
    at_ms: int


@fast_dataclass(frozen=True)
class Log:
    """One line of the node's event log; bytes are written as hex."""

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@fast_dataclass(frozen=True)
class Deliver:
    """Hand an outcome of a role to whoever runs the node: the answer to a `Command`."""

    role: str
    outcome: Any


@fast_dataclass(frozen=True)
class Halt:
    """The node cannot go on, and why. The shell stops it with an error."""

    reason: str


@fast_dataclass(frozen=True)
class Restart:
    """The node should go down in good order and start anew, and why: it will run with other keys then."""

    reason: str


CoreEffect = (
    NetSubscribe
    | NetServe
    | NetPublish
    | NetRequest
    | NetTell
    | NetReply
    | NetLearn
    | NetPenalise
    | Commit
    | LogVote
    | Put
    | LoadBlob
    | PutBlob
    | StoreEffect
    | FetchUrl
    | Compute
    | Inspect
    | Withdraw
    | Wake
    | Log
    | Deliver
    | Halt
    | Restart
)
