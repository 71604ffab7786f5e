"""Hypothesis strategies for whoever tests the protocol: values of any message, fault plans, schedules of requests.

Derived from the annotations on the dataclasses, so a new message, ours or a user's, has its strategy for nothing.
Hypothesis is needed by this module only; nothing else of `testnet` imports it.
"""

import typing
from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from functools import cache
from typing import Annotated, Any

from hypothesis import strategies as st

import protocol.ledger.apply  # noqa: F401  (registers the body of every transaction)
from p2p.delay_line import CLEAR
from protocol.codec import encode, get_field_types
from protocol.keys import PrivateKey, Signer
from protocol.ledger.block import Block, Header
from protocol.ledger.transactions import Transaction, all_transactions
from protocol.registry import all_messages, get_message
from protocol.signing import sign
from protocol.types import INT_MAX, AtMost, Exactly, UpTo
from testnet.faults import Crash, FaultPlan, LinkFault, Partition, Pause
from testnet.genesis import DEFAULT_ROLES, name_nodes

ITEMS_MAX = 4  # of a generated list, however many its bound allows
BYTES_MAX = 256
LINK_DELAY_MS_MAX = 400
BYTES_PER_S_MIN, BYTES_PER_S_LARGE = 20_000, 1_000_000  # of a narrow link: enough to get work done in the end

Strategy = st.SearchStrategy


def seeds() -> Strategy[int]:
    """Seeds for `simulate`."""
    return st.integers(0, 2**32 - 1)


def values(annotation: Any) -> Strategy[Any]:
    """Values of a field's annotation, within its bound: whole numbers, bytes, text, tuples, dataclasses."""
    kind: Any = annotation
    bounds: tuple[Any, ...] = ()
    if typing.get_origin(annotation) is Annotated:
        kind, *rest = typing.get_args(annotation)
        bounds = tuple(rest)
    if is_dataclass(kind):
        return instances(typing.cast(type, kind))
    if kind is int:
        bound = next((bound for bound in bounds if isinstance(bound, UpTo)), UpTo(INT_MAX))
        return st.integers(bound.least, bound.value)
    size_min, size_max = _get_sizes(bounds)
    if kind is bytes:
        return st.binary(min_size=size_min, max_size=max(size_min, min(size_max, BYTES_MAX)))
    if kind is str:
        characters = st.characters(exclude_categories=["Cs"])
        return st.text(characters, max_size=min(size_max, BYTES_MAX) // 4)  # a character has up to four bytes
    if typing.get_origin(kind) is tuple:
        item = values(typing.get_args(kind)[0])
        return st.lists(item, min_size=size_min, max_size=max(size_min, min(size_max, ITEMS_MAX))).map(tuple)
    raise TypeError(f"no strategy for {annotation!r}: a field is a number, bytes, text, a tuple or a dataclass")


@cache
def instances(cls: type) -> Strategy[Any]:
    """Instances of a dataclass whose fields carry their bounds. They are well-formed, not necessarily true."""
    types_ = get_field_types(cls)
    return st.builds(cls, **{name: values(annotation) for name, annotation in types_.items()})


def messages(kind: int | None = None) -> Strategy[Any]:
    """Messages of one kind, or of any kind registered so far."""
    if kind is not None:
        return instances(get_message(kind))
    return st.sampled_from(all_messages()).flatmap(lambda entry: instances(entry.type))


@st.composite
def transactions(draw: st.DrawFn, chain: bytes = bytes(8), accounts: Sequence[Signer] = ()) -> Transaction:
    """Transactions with any registered body, signed by one of `accounts`, or else by a key of their own."""
    kind, body = draw(st.sampled_from(all_transactions()))
    signer = (
        draw(st.sampled_from(accounts)) if accounts else PrivateKey.from_seed(draw(st.binary(min_size=32, max_size=32)))
    )
    unsigned = Transaction(
        chain=chain,
        account=signer.public,
        nonce=draw(st.integers(0, 100)),
        kind=kind,
        body=encode(draw(instances(body))),
        fee=draw(st.integers(0, 10**9)),
        tip=draw(st.integers(0, 10**9)),
        valid_until_ms=draw(st.integers(0, INT_MAX)),
        signature=bytes(64),
    )
    return sign(unsigned, signer)


def blocks(chain: bytes = bytes(8), transactions_max: int = ITEMS_MAX) -> Strategy[Block]:
    """Blocks of well-formed transactions, under a header that follows no other."""
    held = st.lists(transactions(chain).map(encode), max_size=transactions_max).map(tuple)
    return st.builds(Block, header=instances(Header), transactions=held)


def schedules(duration_ms: int = 5_000, requests_max: int = 8) -> Strategy[tuple[int, ...]]:
    """When to send requests: times in ms since the start, earliest first."""
    return st.lists(st.integers(0, duration_ms), min_size=1, max_size=requests_max).map(
        lambda times: tuple(sorted(times))
    )


def fault_plans(
    nodes: Sequence[str] | None = None,
    duration_ms: int = 10_000,
    loss_bp_max: int = 1_500,
    duplicate_bp_max: int = 1_500,
    latency_ms_max: int = 80,
    partitions_max: int = 2,
    crashes_max: int = 3,
    links_max: int = 2,
    pauses_max: int = 2,
) -> Strategy[FaultPlan]:
    """Plans whose faults all end within `duration_ms`, and in which every crashed node comes back.

    `nodes` are the names to do harm to, by default those of the default roles. A plan shrinks towards none: fewer
    and shorter faults, of fewer nodes and ways. No node is both crashed and paused, and no link fault does nothing.
    """
    names = tuple(name_nodes(DEFAULT_ROLES)) if nodes is None else tuple(nodes)
    crashed = st.lists(_crashes(names, duration_ms), max_size=crashes_max, unique_by=lambda crash: crash.node)
    paused = st.lists(_pauses(names, duration_ms), max_size=pauses_max, unique_by=lambda pause: pause.node)
    return st.builds(
        FaultPlan,
        loss_bp=st.integers(0, loss_bp_max),
        duplicate_bp=st.integers(0, duplicate_bp_max),
        latency_ms=st.integers(0, latency_ms_max),
        jitter_ms=st.integers(0, latency_ms_max),
        partitions=st.lists(_partitions(names, duration_ms), max_size=partitions_max).map(tuple),
        crashes=crashed.map(tuple),
        links=st.lists(_link_faults(names, duration_ms, loss_bp_max), max_size=links_max).map(tuple),
        pauses=paused.map(tuple),
    ).map(_leave_out_idle)


@st.composite
def _spans(draw: st.DrawFn, duration_ms: int) -> tuple[int, int]:
    start_ms = draw(st.integers(0, duration_ms - 1))
    return start_ms, draw(st.integers(start_ms + 1, duration_ms))


@st.composite
def _partitions(draw: st.DrawFn, names: tuple[str, ...], duration_ms: int) -> Partition:
    start_ms, end_ms = draw(_spans(duration_ms))
    group = draw(st.lists(st.sampled_from(names), min_size=1, max_size=max(1, len(names) - 1), unique=True))
    return Partition(start_ms, end_ms, (tuple(sorted(group)),), one_way=draw(st.booleans()), refuse=draw(st.booleans()))


@st.composite
def _link_faults(draw: st.DrawFn, names: tuple[str, ...], duration_ms: int, loss_bp_max: int) -> LinkFault:
    start_ms, end_ms = draw(_spans(duration_ms))
    some = st.lists(st.sampled_from(names), max_size=3, unique=True).map(lambda chosen: tuple(sorted(chosen)))
    return LinkFault(
        start_ms,
        end_ms,
        sources=draw(some),
        targets=draw(some),
        both_ways=draw(st.booleans()),
        delay_ms=draw(st.integers(0, LINK_DELAY_MS_MAX)),
        jitter_ms=draw(st.integers(0, LINK_DELAY_MS_MAX)),
        bytes_per_s=draw(st.one_of(st.just(0), st.integers(BYTES_PER_S_MIN, BYTES_PER_S_LARGE))),
        loss_bp=draw(st.integers(0, loss_bp_max)),
        silence=draw(st.sampled_from(("", "stall", "blackhole"))),
    )


@st.composite
def _crashes(draw: st.DrawFn, names: tuple[str, ...], duration_ms: int) -> Crash:
    at_ms, back_ms = draw(_spans(duration_ms))
    return Crash(draw(st.sampled_from(names)), at_ms, back_ms)


@st.composite
def _pauses(draw: st.DrawFn, names: tuple[str, ...], duration_ms: int) -> Pause:
    start_ms, end_ms = draw(_spans(duration_ms))
    return Pause(draw(st.sampled_from(names)), start_ms, end_ms)


def _leave_out_idle(plan: FaultPlan) -> FaultPlan:
    """Drawn faults that would change nothing: what shrinks to one of them is gone."""
    crashed = {crash.node for crash in plan.crashes}
    pauses = tuple(pause for pause in plan.pauses if pause.node not in crashed)
    return replace(plan, pauses=pauses, links=tuple(link for link in plan.links if link.conditions != CLEAR))


def _get_sizes(bounds: Sequence[Any]) -> tuple[int, int]:
    for bound in bounds:
        if isinstance(bound, Exactly):
            return bound.size, bound.size
        if isinstance(bound, AtMost):
            return 0, bound.size
    return 0, BYTES_MAX
