"""The specification of what is on the wire, as text made from the types themselves (docs/spec/messages.md)."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Annotated, Any

import protocol.messages  # noqa: F401  registers the kinds
from protocol.codec import DEPTH_MAX, ITEMS_MAX, MESSAGE_BYTES_MAX, get_field_types, get_size_max
from protocol.envelope import VERSION, Envelope
from protocol.errors import LocalError
from protocol.ledger.transactions import BODY_BYTES_MAX, all_transactions
from protocol.registry import (
    EXTENSION_KIND_MIN,
    Carrier,
    MessageKind,
    all_messages,
    all_proof_kinds,
    all_protocols,
    all_topics,
)
from protocol.types import INT_MAX, Exactly

_FIELD_COMMENT = re.compile(r"^    (\w+): .*  # (.+)$", re.MULTILINE)  # field, and what stands behind it

INTRO = f"""# What is on the wire

Made from the code by `python docs/spec/generate.py`; do not edit. Golden bytes are in `tests/vectors/`.

**Encoding.** msgpack, one spelling per value. A message is the array of its fields in the order given; a list is an
array; numbers are whole, from 0 to 2^63 − 1; there are no maps, floats, extensions, booleans or nil. Every header is
the shortest that fits. Whoever decodes checks, in this order: the length ({MESSAGE_BYTES_MAX:,} bytes at most, less
where stated), types, bounds, and that encoding again gives the same bytes. Arrays hold at most {ITEMS_MAX:,} items and
nest at most {DEPTH_MAX} deep.

**Signing.** A signature (Ed25519, libsodium's rule) covers `rolemesh/v1/`, a domain, a zero byte, and the sha256 of
the array of all fields but the last, `signature`. The sha256 of all that is the statement's id. The domain is given
with the type; an envelope's is `envelope/` and its kind as four hex digits.

**Kinds** below 0x{EXTENSION_KIND_MIN:04x} are rolemesh's own; the others are free for extensions.
"""


def format_spec(types: Iterable[type], get_source: Callable[[type], str]) -> str:
    """The whole page, in Markdown: what is registered, and `types` besides.

    `get_source` gives the text of a class, whose comments behind fields say what these mean.
    """
    ours = [kind for kind in all_messages() if kind.kind < EXTENSION_KIND_MIN]
    messages = {kind.type for kind in ours}
    others = [cls for cls in types if cls not in messages and cls is not Envelope]
    lines = [
        INTRO,
        f"## Envelope, version {VERSION}\n",
        *_format_type(Envelope, get_source),
        "## Topics\n",
        *_format_carriers(all_topics(), ours),
        "## Stream protocols\n",
        *_format_carriers(all_protocols(), ours),
        "## Proof kinds\n",
        *_format_proofs(),
        "## Kinds\n",
        *_format_kinds(ours),
        "## Transactions\n",
        *_format_transactions(),
        "## Messages\n",
    ]
    for kind in ours:
        lines += [f"### `{kind.name}` (0x{kind.kind:04x}) {kind.type.__name__}\n", *_format_type(kind.type, get_source)]
    lines.append("## Types\n")
    for cls in others:
        lines += [f"### {cls.__name__}\n", *_format_type(cls, get_source)]
    return "\n".join(lines).rstrip() + "\n"


def find_types(modules: Iterable[ModuleType]) -> tuple[type, ...]:
    """Every dataclass of these modules that can be encoded, by module and name."""
    found = [
        cls
        for module in modules
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__ and dataclasses.is_dataclass(cls) and _is_encodable(cls)
    ]
    return tuple(sorted(found, key=lambda cls: (cls.__module__, cls.__qualname__)))


def _is_encodable(cls: type) -> bool:
    if not dataclasses.fields(cls) and cls not in {kind.type for kind in all_messages()}:
        return False
    try:
        get_size_max(cls)
    except LocalError:
        return False
    return True


def _format_kinds(kinds: Iterable[MessageKind]) -> Iterator[str]:
    yield "| kind | name | type | largest, bytes | carried by |"
    yield "|---|---|---|---|---|"
    for kind in kinds:
        carriers = [f"topic `{name}`" for name, carrier in sorted(all_topics().items()) if kind.kind in carrier.kinds]
        carriers += [f"stream `{name}`" for name, other in sorted(all_protocols().items()) if kind.kind in other.kinds]
        size = f"{get_size_max(kind.type):,}"
        yield f"| 0x{kind.kind:04x} | `{kind.name}` | {kind.type.__name__} | {size} | {', '.join(carriers)} |"
    yield ""


def _format_transactions() -> Iterator[str]:
    yield "The `body` of a `Transaction` is one of these, encoded.\n"
    yield "| kind | body | largest, bytes |"
    yield "|---|---|---|"
    for kind, body in all_transactions():
        if kind < EXTENSION_KIND_MIN:
            yield f"| {kind} | {body.__name__} | {min(get_size_max(body), BODY_BYTES_MAX):,} |"
    yield ""


def _format_carriers(carriers: Mapping[str, Carrier], kinds: Iterable[MessageKind]) -> Iterator[str]:
    names = {kind.kind: f"`{kind.name}`" for kind in kinds}
    yield "On the network: `/rolemesh/<chain, 16 hex digits>/<name>/1`.\n"
    yield "| name | what for | carries | who listens |"
    yield "|---|---|---|---|"
    for name, carrier in sorted(carriers.items()):
        carried = ", ".join(names[kind] for kind in sorted(carrier.kinds) if kind in names)
        if not carried:
            continue  # an extension's own
        about = f"{carrier.about}; what gossip lost is pulled" if carrier.is_pulled else carrier.about
        yield f"| `{name}` | {about} | {carried} | {', '.join(carrier.listeners)} |"
    yield ""


def _format_proofs() -> Iterator[str]:
    yield "| name | shows | does not show |"
    yield "|---|---|---|"
    for proof in all_proof_kinds():
        if type(proof).__module__.partition(".")[0] != "protocol":
            continue
        description = proof.describe()
        yield f"| `{proof.name}` | {description.shows} | {description.does_not_show} |"
    yield ""


def _format_type(cls: type, get_source: Callable[[type], str]) -> Iterator[str]:
    doc = inspect.getdoc(cls) or ""
    if doc and not doc.startswith(f"{cls.__name__}("):  # dataclass writes one of its own
        yield " ".join(doc.partition("\n\n")[0].split()) + "\n"
    domain = cls.__dict__.get("DOMAIN")
    if domain:
        yield f"Signed under the domain `{domain}`.\n"
    fields = get_field_types(cls)
    if not fields:
        yield "No fields: an empty array.\n"
        return
    meanings = dict(_FIELD_COMMENT.findall(get_source(cls)))
    yield "| field | type | bound | meaning |"
    yield "|---|---|---|---|"
    for name, annotation in fields.items():
        kind, bound = _spell(annotation)
        yield f"| `{name}` | {kind} | {bound} | {meanings.get(name, '')} |"
    yield ""


def _spell(annotation: Any) -> tuple[str, str]:
    """Type and bound of a field in words."""
    if typing.get_origin(annotation) is not Annotated:
        return annotation.__name__, ""
    kind, bound = typing.get_args(annotation)
    if kind is int and bound.least:
        return "whole number", f"{bound.least:,} to {bound.value:,}"
    if kind is int:
        return "whole number", "" if bound.value == INT_MAX else f"at most {bound.value:,}"
    if kind is bytes:
        return "bytes", f"exactly {bound.size:,}" if isinstance(bound, Exactly) else f"at most {bound.size:,}"
    if kind is str:
        return "text", f"at most {bound.size:,} bytes of UTF-8"
    item, item_bound = _spell(typing.get_args(kind)[0])
    each = f", each {item_bound}" if item_bound else ""
    return f"list of {item}", f"at most {bound.size:,}{each}"
