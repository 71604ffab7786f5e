"""The parts that a running node is made of, as its loop sees them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from p2p.net import Net
from protocol.cid import Cid
from protocol.ledger.restart_terms import Restart
from protocol.ledger.state import State
from protocol.proofs.steps import AnyAnswer, AnyQuestion
from protocol.tensor import Tensor
from protocol.types import NodeState, Unproven, Verdict
from roles import core_effects as ce
from roles.durable import DurableWriter
from roles.engine.remote.backend import Backend
from roles.engine.sandbox import Measure
from roles.engine.slots import Answer
from roles.engine.stepped import Stepped
from roles.engine.verdicts import Admission
from roles.eventlog import EventLog
from roles.file_gatherer import Progress
from roles.inbox import Inbox
from roles.orders import Orders
from roles.store_effects import StoreEffect, StoreEvent
from roles.timers import WallClock
from roles.wants import Wants


class Core(Protocol):
    """What the shell knows of `roles.core.NodeCore`."""

    state: NodeState
    orders: Orders
    wants: Wants
    gathers: Wants

    @property
    def ledger(self) -> State: ...

    @property
    def is_synced(self) -> bool: ...

    @property
    def rotation(self) -> Mapping[str, str]: ...

    @property
    def pending_transactions(self) -> int: ...

    @property
    def pending_restarts(self) -> tuple[State, tuple[Restart, ...]]: ...

    def get_progress(self, cid: Cid) -> Progress | None: ...

    def handle(self, event: ce.AnyEvent, now_ms: int) -> list[ce.CoreEffect]: ...

    def check(self, topic: str, data: bytes, forwarder: bytes, now_ms: int) -> Verdict | Unproven: ...


class CountingNet(Net, Protocol):
    """A network that also says what went through it."""

    def counters(self) -> Mapping[str, Mapping[str, int]]: ...


class Engine(Protocol):
    """What the shell knows of `roles.engine.remote.engine.Engine`."""

    @property
    def backends(self) -> tuple[Backend, ...]: ...

    @property
    def measures(self) -> tuple[Measure, ...]: ...

    def get_admissions(self) -> Mapping[bytes, Admission]: ...

    async def compute(
        self,
        model: bytes,
        inputs: tuple[Tensor, ...],
        timeout_s: float,
        name: str,
        say: Callable[[Stepped], None] = ...,
    ) -> tuple[tuple[Tensor, ...], str]: ...

    def submit(
        self, model: bytes, inputs: tuple[Tensor, ...], timeout_s: float, name: str, on_end: Callable[[Answer], None]
    ) -> object: ...

    async def inspect(self, model: bytes, question: AnyQuestion, timeout_s: float) -> AnyAnswer: ...

    def withdraw(self, name: str) -> bool: ...


@dataclass
class Equipment:
    """All that a running node has its hands on. `load_blob` raises MissingBlob.

    `find_receipt` gives a receipt file that is in the database, by its request's id; it is called in threads.
    `store` is called in threads, several at once: see `roles.store.receiving.StoreDesk`.
    """

    core: Core
    net: CountingNet
    engine: Engine
    writer: DurableWriter
    load_blob: Callable[[bytes], Awaitable[bytes]]
    find_receipt: Callable[[bytes], bytes | None]
    store: Callable[[StoreEffect], StoreEvent | None]
    events: EventLog
    clock: WallClock
    addresses: tuple[str, ...] = ()
    inbox: Inbox = field(default_factory=Inbox)
