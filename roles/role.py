"""The seam every role is written against: events in, effects out.

A role is an ordinary object with `handle(event, now_ms) -> list[Effect]`. It never waits, reads a clock, opens a file
or rolls dice of its own; the node around it does, under trio or in the simulator. Tokens and timer names are the
role's own: the node keeps those of different roles apart.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from protocol.fast_dataclass import fast_dataclass
from protocol.keys import Signer
from protocol.ledger.block import Block, Certificate
from protocol.ledger.state import State
from protocol.proofs.steps import AnyAnswer, AnyQuestion
from protocol.tensor import Tensor
from roles.store_effects import FOR_EVER
from roles.store_effects import Proven as Proven

# Events: something happened


@fast_dataclass(frozen=True)
class VoteHistory:
    """What a validator's vote log held at the start. `is_lost` when it was gone or damaged: then it shows nothing."""

    records: tuple[bytes, ...] = ()
    is_lost: bool = False


@fast_dataclass(frozen=True)
class Started:
    """First event. `stored` is what this role has kept with `Store`, by bucket and key."""

    state: State
    stored: Mapping[str, Mapping[bytes, bytes]]
    votes: VoteHistory = field(default_factory=VoteHistory)
    certificate: Certificate | None = None  # of the ledger's last block


@fast_dataclass(frozen=True)
class Received:
    """A message arrived, decoded, bounded and verified: on a topic, on a stream, or as the answer to our `Request`.

    `token` is empty but for an answer, where it is the token of the `Request`.
    """

    sender: bytes  # node key that signed it
    message: Any
    topic: str = ""
    token: str = ""


@fast_dataclass(frozen=True)
class RequestFailed:
    """Our `Request` or `Send` got no answer, and why."""

    peer: bytes
    token: str
    reason: str


@fast_dataclass(frozen=True)
class Requested:
    """A peer asks on a stream protocol and waits: answer with `Reply(token, …)`."""

    sender: bytes
    message: Any
    protocol: str
    token: str


@fast_dataclass(frozen=True)
class Computed:
    """A `Compute` ended: either outputs or a reason there are none."""

    token: str
    outputs: tuple[Tensor, ...] | None
    profile: str
    error: str = ""


@fast_dataclass(frozen=True)
class Progressed:
    """More of a generation that was asked for with `streams`: tokens, and the digests of the steps taken, packed."""

    token: str
    tokens: tuple[int, ...]
    steps: bytes


@fast_dataclass(frozen=True)
class Inspected:
    """An `Inspect` ended: either what was asked for or a reason there is none."""

    token: str
    answer: AnyAnswer | None
    error: str = ""


@fast_dataclass(frozen=True)
class Fetched:
    """A `Fetch` ended. `data` is None when it could not be had; `error` says why."""

    source: str
    data: bytes | None
    error: str = ""


@fast_dataclass(frozen=True)
class Gathered:
    """A `Gather` ended: all of it is in the store and pinned, or `error` says why not."""

    cid: str
    blocks: int
    dag_bytes: int
    error: str = ""


@fast_dataclass(frozen=True)
class Published:
    """How many peers a `Publish` was queued for."""

    topic: str
    token: str
    peers: int


@fast_dataclass(frozen=True)
class LedgerAdvanced:
    """The ledger moved on to `state`. `transactions` are those of the block that `certificate` decided, decoded."""

    state: State
    transactions: tuple[Any, ...] = ()
    certificate: Certificate | None = None


@fast_dataclass(frozen=True)
class PeerUp:
    peer: bytes


@fast_dataclass(frozen=True)
class PeerDown:
    peer: bytes


@fast_dataclass(frozen=True)
class TimerFired:
    name: str


@fast_dataclass(frozen=True)
class Submitted:
    """A `Submit` ended: on the ledger at `height`, or refused with a reason."""

    token: str
    height: int | None
    error: str = ""


@fast_dataclass(frozen=True)
class Commanded:
    """Whoever runs the node asks this role for something; it answers with `Deliver`."""

    command: Any


@fast_dataclass(frozen=True)
class Stopping:
    """Last event: hand over what must not be lost."""


Event = (
    Started
    | Received
    | RequestFailed
    | Requested
    | Computed
    | Progressed
    | Inspected
    | Fetched
    | Gathered
    | Proven
    | Published
    | LedgerAdvanced
    | PeerUp
    | PeerDown
    | TimerFired
    | Submitted
    | Commanded
    | Stopping
)

# Effects: something is wanted


@fast_dataclass(frozen=True)
class Publish:
    """Gossip a message on a topic, named short: `infer/0`, `claims`."""

    topic: str
    message: Any
    token: str = ""


@fast_dataclass(frozen=True)
class Send:
    """Hand one message to one peer on a stream protocol, without waiting for more than its acceptance.

    It ends as a `Request` does; without a token the peer does not answer, and nobody hears what became of it.
    """

    peer: bytes
    protocol: str
    message: Any
    token: str = ""
    timeout_ms: int = 5_000


@fast_dataclass(frozen=True)
class Request:
    """Ask one peer. Ends as `Received(token=…)` or `RequestFailed`."""

    peer: bytes
    protocol: str
    message: Any
    token: str
    timeout_ms: int = 5_000


@fast_dataclass(frozen=True)
class Reply:
    token: str
    message: Any


@fast_dataclass(frozen=True)
class Compute:
    """Run a model in the engine, by the deadline. The model's blob must have been fetched.

    With `streams`, a generation is told of by `Progressed` while it is made.
    """

    token: str
    model: bytes
    inputs: tuple[Tensor, ...]
    deadline_ms: int
    streams: bool = False


@fast_dataclass(frozen=True)
class Inspect:
    """Trace a model, or run one operator of it (`protocol.proofs.trace`), by the deadline. Otherwise like `Compute`."""

    token: str
    model: bytes
    question: AnyQuestion
    deadline_ms: int


@fast_dataclass(frozen=True)
class Withdraw:
    """A `Compute` that has not begun is not to begin: it ends at once, with an error.

    A generation that runs ends after a few steps, with an error; any other one that runs goes on.
    """

    token: str


@fast_dataclass(frozen=True)
class Fetch:
    """Get bytes: by CID (`bafk…`, from disk or storage nodes, hash-checked), or what a source of a feed
    names (`sources.SCHEMES`).

    With `local` set, a CID is looked up on our own disk only.
    """

    source: str
    local: bool = False


@fast_dataclass(frozen=True)
class Gather:
    """Have a whole file or folder in the node's store, pinned until `expires_ms`; ends in one `Gathered`.

    What is not here is asked of `peers`, or of the storage nodes on the ledger if none are named. Asked for while it is
    on its way, it comes once, from all peers named, and is kept as it was asked for last.
    """

    cid: str
    peers: tuple[bytes, ...] = ()
    name: str = ""
    expires_ms: int = FOR_EVER


@fast_dataclass(frozen=True)
class Prove:
    """Read a file or folder in the node's store, at most `bytes_max`: what an audit needs. Ends in one `Proven`.

    `indices` are the pieces whose data and paths are wanted (`protocol.audit`).
    """

    token: str
    cid: str
    bytes_max: int
    indices: tuple[int, ...] = ()


@fast_dataclass(frozen=True)
class LetGo:
    """Keep a file or folder no longer for what it was gathered for, by the name that was given then."""

    cid: str
    name: str


@fast_dataclass(frozen=True)
class Store:
    """Keep bytes before any later effect of this list is carried out; None forgets the key.

    Bucket `blob` is the content store (the key is the sha256 of the value); bucket `receipt` holds receipt
    files by their request's id, for people; any other is the role's own and comes back in `Started.stored`.

    What is kept survives the process when effects on streams leave, and the machine when a later `Publish` or `Submit`
    does; blobs at once.
    """

    bucket: str
    key: bytes
    value: bytes | None


@fast_dataclass(frozen=True)
class Decided:
    """A block with its certificate and the state it leads to, from the validator that built it."""

    block: Block
    certificate: Certificate
    state: State


@fast_dataclass(frozen=True)
class Submit:
    """Put something on the ledger: a transaction body (signed and numbered by the node), or a `Decided` block."""

    item: Any
    token: str = ""


@fast_dataclass(frozen=True)
class LogVote:
    """Keep what a validator has signed, durably, before any later effect of this list is carried out."""

    record: bytes


@fast_dataclass(frozen=True)
class CatchUp:
    """A peer has blocks up to this height that we lack: ask it for them."""

    peer: bytes
    height: int


@fast_dataclass(frozen=True)
class Halt:
    """This node must not go on, and why."""

    reason: str


@fast_dataclass(frozen=True)
class SetTimer:
    """`TimerFired(name)` at `at_ms`; the same name again moves it."""

    name: str
    at_ms: int


@fast_dataclass(frozen=True)
class Penalise:
    """A peer broke a rule every honest peer would see."""

    peer: bytes
    reason: str


@fast_dataclass(frozen=True)
class Deliver:
    """Hand an outcome to whoever runs the node: the answer to a `Commanded`."""

    outcome: Any


@fast_dataclass(frozen=True)
class Record:
    """One line of the node's event log. Bytes are written as hex; names are `noun.verb`: `claim.made`."""

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)


Effect = (
    Publish
    | Send
    | Request
    | Reply
    | Compute
    | Inspect
    | Withdraw
    | Fetch
    | Gather
    | Prove
    | LetGo
    | Store
    | Submit
    | LogVote
    | CatchUp
    | Halt
    | SetTimer
    | Penalise
    | Deliver
    | Record
)


@fast_dataclass(frozen=True)
class Context:
    """What a role is given at birth. `signer` signs with the node key, `account` with the account key."""

    config: Mapping[str, Any]
    signer: Signer
    account: Signer
    random: random.Random
    vote: Signer | None = None


class Role(ABC):
    """One decision-maker: what every role starts from.

    `name` is its role; `topics` and `protocols` are what it listens to, named short. The rest is what the node tells
    others about it: whether it can serve yet, the models it serves, its price in grains per row, and jobs in hand.
    """

    name: str = ""
    topics: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()

    def __init__(self, context: Context) -> None:
        self.context = context
        self._state: State | None = None

    @property
    def _ledger(self) -> State:
        """The ledger as the role knows it: it sets `_state` at `Started` and `LedgerAdvanced`."""
        assert self._state is not None  # Started comes first
        return self._state

    @property
    def is_ready(self) -> bool:
        return True

    @property
    def models(self) -> tuple[bytes, ...]:
        return ()

    @property
    def price(self) -> int:
        return 0

    @property
    def load(self) -> int:
        return 0

    @abstractmethod
    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """What should be done about `event`. `now_ms` is Unix time in whole milliseconds and never goes back."""
