"""What can be said, where it is carried and what proves it: tables that modules fill when they are imported.

A user's module adds message kinds (from 0x8000 up), topics, stream protocols and proof kinds of its own by the same
calls, without editing our files. A clash is a LocalError at import; a module imported twice registers the same things
again, which is fine.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from protocol.codec import get_size_max
from protocol.errors import LocalError, UnknownKind
from protocol.fast_dataclass import fast_dataclass

if TYPE_CHECKING:
    from protocol.proofs.context import ProofContext

EXTENSION_KIND_MIN = 0x8000
KIND_MAX = 0xFFFF
NAME_MAX = 64

C = TypeVar("C", bound=type)


@fast_dataclass(frozen=True)
class MessageKind:
    """A message type and the number it travels under."""

    kind: int
    name: str
    type: type


@fast_dataclass(frozen=True)
class Carrier:
    """A topic or a stream protocol: the kinds it carries, and who listens.

    A name stands for all that begin with it and a slash: `oracle` for `oracle/btc-usd`. What a topic carries that
    `is_pulled` must arrive: listeners ask for what gossip lost (`sync.get_missed`). A protocol that `is_bare` carries
    messages without envelopes (`protocol.bare`): what they hold is signed by itself, or named by its digest.
    """

    name: str
    kinds: frozenset[int]
    listeners: tuple[str, ...]
    about: str
    is_pulled: bool = False
    is_bare: bool = False


@fast_dataclass(frozen=True)
class ProofDescription:
    """What a proof kind shows to whoever checks it, and what it does not.

    `missing` says what this machine needs to check it and how to get that; empty when it is all there.
    """

    shows: str
    does_not_show: str
    missing: str = ""


class ProofKind(Protocol):
    """One way to back a result (`protocol.proofs`). Its evidence is bytes that a stranger wrote."""

    @property
    def name(self) -> str: ...

    @property
    def evidence_bytes_max(self) -> int:
        """More is refused before `verify` sees it; at most `context.EVIDENCE_BYTES_MAX`."""

    def describe(self) -> ProofDescription: ...

    def verify(self, context: "ProofContext", evidence: bytes) -> str:
        """What the evidence shows about this very job, in words. RemoteError, with the reason, when it shows nothing.

        CannotCheck when this machine lacks what it takes to tell.
        """


_kinds: dict[int, MessageKind] = {}
_numbers: dict[type, int] = {}
_topics: dict[str, Carrier] = {}
_protocols: dict[str, Carrier] = {}
_proofs: dict[str, ProofKind] = {}


def message(kind: int, name: str) -> Callable[[C], C]:
    """Register a frozen dataclass as message `kind`, under a `place.noun` name that nothing else has."""

    def register(cls: C) -> C:
        _verify_kind(kind, cls)
        _verify_name(name)
        get_size_max(cls)  # a field without a bound shows at import, not at the first message
        for other in _kinds.values():
            is_same = other.kind == kind and other.name == name and _is_reload(other.type, cls)
            if (other.kind == kind or other.name == name) and not is_same:
                raise LocalError(f"kind 0x{other.kind:04x} {other.name!r} belongs to {_spell(other.type)} already")
        if _numbers.get(cls, kind) != kind:
            raise LocalError(f"{_spell(cls)} is kind 0x{_numbers[cls]:04x} already")
        _kinds[kind] = MessageKind(kind, name, cls)
        _numbers[cls] = kind
        return cls

    return register


def get_message(kind: int) -> type:
    """The type of a kind. UnknownKind, which is no one's fault, when nobody registered it."""
    found = _kinds.get(kind)
    if found is None:
        raise UnknownKind(kind)
    return found.type


def kind_of(cls: type) -> int:
    """The number of a registered type. LocalError when it is none."""
    kind = _numbers.get(cls)
    if kind is None:
        raise LocalError(f"{_spell(cls)} is not a registered message")
    return kind


def all_messages() -> tuple[MessageKind, ...]:
    """Every registered kind, by number."""
    return tuple(_kinds[kind] for kind in sorted(_kinds))


def register_topic(
    name: str, kinds: frozenset[int], listeners: tuple[str, ...], about: str, is_pulled: bool = False
) -> None:
    """Add a topic. The kinds may be registered later."""
    _add_carrier(_topics, Carrier(name, kinds, listeners, about, is_pulled))


def register_protocol(
    name: str, kinds: frozenset[int], listeners: tuple[str, ...], about: str, is_bare: bool = False
) -> None:
    """Add a stream protocol, with the kinds of requests and answers."""
    _add_carrier(_protocols, Carrier(name, kinds, listeners, about, is_bare=is_bare))


def extend_topic(name: str, kind: int) -> None:
    """Let an existing topic carry an extension's kind too."""
    _extend(_topics, name, kind)


def extend_protocol(name: str, kind: int) -> None:
    """Let an existing stream protocol carry an extension's kind too."""
    _extend(_protocols, name, kind)


def find_topic(short: str) -> Carrier | None:
    """The topic of a short name, whatever follows its slash; None when nobody registered it."""
    return _find(_topics, short)


def find_protocol(short: str) -> Carrier | None:
    """The stream protocol of a short name; None when nobody registered it."""
    return _find(_protocols, short)


def all_topics() -> Mapping[str, Carrier]:
    """Every registered topic by name, as it is now and as it becomes."""
    return MappingProxyType(_topics)


def all_protocols() -> Mapping[str, Carrier]:
    """Every registered stream protocol by name, as it is now and as it becomes."""
    return MappingProxyType(_protocols)


def register_proof_kind(kind: ProofKind) -> None:
    """Add a way to back a result."""
    _verify_name(kind.name)
    known = _proofs.get(kind.name)
    if known is not None and not _is_reload(type(known), type(kind)):
        raise LocalError(f"proof kind {kind.name!r} belongs to {_spell(type(known))} already")
    _proofs[kind.name] = kind


def find_proof_kind(name: str) -> ProofKind | None:
    """The proof kind of a name; None when nobody registered it."""
    return _proofs.get(name)


def all_proof_kinds() -> tuple[ProofKind, ...]:
    """Every registered proof kind, by name."""
    return tuple(_proofs[name] for name in sorted(_proofs))


@contextmanager
def temporary_registrations() -> Iterator[None]:
    """Forget whatever is registered inside the block when it ends."""
    tables: tuple[dict[Any, Any], ...] = (_kinds, _numbers, _topics, _protocols, _proofs)
    before = tuple(dict(table) for table in tables)
    try:
        yield
    finally:
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)


def _verify_kind(kind: int, cls: type) -> None:
    if not 0 < kind <= KIND_MAX:
        raise LocalError(f"{_spell(cls)}: a kind is a number from 1 to 0x{KIND_MAX:04x}")
    is_ours = cls.__module__.partition(".")[0] == "protocol"
    if not is_ours and kind < EXTENSION_KIND_MIN:
        raise LocalError(f"{_spell(cls)}: kinds below 0x{EXTENSION_KIND_MIN:04x} are rolemesh's own")


def _verify_name(name: str) -> None:
    if not 0 < len(name) <= NAME_MAX or not name.isascii() or not name.replace(".", "").replace("_", "").isalnum():
        raise LocalError(f"{name!r} is no name: ASCII letters, digits, dots and underlines, at most {NAME_MAX}")


def _is_reload(known: type, cls: type) -> bool:
    return _spell(known) == _spell(cls)


def _spell(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _add_carrier(table: dict[str, Carrier], carrier: Carrier) -> None:
    _verify_name(carrier.name)
    known = table.get(carrier.name)
    if known is not None and (known.about, known.listeners) != (carrier.about, carrier.listeners):
        raise LocalError(f"{carrier.name!r} is taken: {known.about}")
    table[carrier.name] = carrier if known is None else replace(carrier, kinds=carrier.kinds | known.kinds)


def _extend(table: dict[str, Carrier], name: str, kind: int) -> None:
    known = table.get(name)
    if known is None:
        raise LocalError(f"{name!r} is not registered")
    if kind < EXTENSION_KIND_MIN:
        raise LocalError(f"kinds below 0x{EXTENSION_KIND_MIN:04x} are carried where rolemesh says")
    table[name] = replace(known, kinds=known.kinds | {kind})


def _find(table: dict[str, Carrier], short: str) -> Carrier | None:
    return table.get(short.partition("/")[0])
