"""Replay tokens: everything that makes one simulated run what it is, as one word to paste.

A token holds the version, the seed, the roles, the (shrunk) fault plan and what was asked when, counted in events, so
that a replay runs through the very same states. It ends in the trace it must come to.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from protocol.errors import LocalError
from protocol.tensor import Tensor
from testnet.faults import FaultPlan

PREFIX = "rms1-"
TOKEN_CHARS_MAX = 256 * 1024
DOCUMENT_BYTES_MAX = 4 * 1024 * 1024
STEPS_MAX = 10_000


@dataclass(frozen=True)
class Step:
    """Something a test did to a network: `request`, `crash`, `stop` or `start`, when and after how many events."""

    kind: str
    at_ms: int  # since the start
    events_run: int
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Replay:
    """One run: what `simulate` was given, what was done, where it ended."""

    seed: int
    roles: Mapping[str, int]
    liars: int
    faults: FaultPlan
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    elapsed_ms: int = 0
    events_run: int = 0
    trace: str = ""
    version: str = ""


def get_version() -> str:
    """The version of rolemesh that runs; empty when it is not installed."""
    try:
        return version("rolemesh")
    except PackageNotFoundError:
        return ""


def format_token(replay: Replay) -> str:
    """One word of URL-safe text."""
    document = {
        "version": get_version(),
        "seed": replay.seed,
        "roles": dict(replay.roles),
        "liars": replay.liars,
        "faults": json.loads(replay.faults.to_text()),
        "options": replay.options,
        "steps": [[step.kind, step.at_ms, step.events_run, *step.arguments] for step in replay.steps],
        "elapsed_ms": replay.elapsed_ms,
        "events_run": replay.events_run,
        "trace": replay.trace,
    }
    return PREFIX + pack(document)


def parse_token(token: str) -> Replay:
    """Read a token back. Raises LocalError with what is wrong."""
    word = token.strip()
    if not word.startswith(PREFIX) or len(word) > TOKEN_CHARS_MAX:
        raise LocalError(f"a replay token begins with {PREFIX} and has at most {TOKEN_CHARS_MAX} characters")
    try:
        return _read(unpack(word.removeprefix(PREFIX)))
    except (ValueError, zlib.error, KeyError, TypeError, IndexError, RecursionError) as error:
        raise LocalError(f"not a replay token: {type(error).__name__}: {error}") from error


def pack(document: Any) -> str:
    """What JSON can hold, and tensors, as URL-safe text."""
    text = json.dumps(document, separators=(",", ":"), default=_to_json)
    return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode().rstrip("=")


def unpack(word: str) -> Any:
    """What was packed. ValueError, zlib.error or RecursionError when nothing was."""
    packed = base64.b64decode(word + "===", altchars=b"-_")
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(packed, DOCUMENT_BYTES_MAX)
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise ValueError(f"it is cut off or unpacks to more than {DOCUMENT_BYTES_MAX} bytes")
    return json.loads(text)


def _read(document: Any) -> Replay:
    if len(document["steps"]) > STEPS_MAX:
        raise ValueError(f"more than {STEPS_MAX} steps")
    steps = tuple(
        Step(str(kind), int(at_ms), int(events_run), tuple(_from_json(each) for each in arguments))
        for kind, at_ms, events_run, *arguments in document["steps"]
    )
    return Replay(
        seed=int(document["seed"]),
        roles={str(role): int(count) for role, count in document["roles"].items()},
        liars=int(document["liars"]),
        faults=FaultPlan.from_document(document["faults"]),
        options=_from_json(document["options"]),
        steps=steps,
        elapsed_ms=int(document["elapsed_ms"]),
        events_run=int(document["events_run"]),
        trace=str(document["trace"]),
        version=str(document["version"]),
    )


def _to_json(value: object) -> object:
    match value:
        case bytes():
            return {"bytes": value.hex()}
        case Tensor(dtype, shape, data):
            return {"dtype": dtype, "shape": shape, "data": data.hex()}
    raise TypeError(f"{type(value).__name__} has no place in a replay token")


def _from_json(value: Any) -> Any:
    match value:
        case {"bytes": str(text), **rest} if not rest:
            return bytes.fromhex(text)
        case {"dtype": str(dtype), "shape": list(shape), "data": str(data), **rest} if not rest:
            return Tensor(dtype, tuple(shape), bytes.fromhex(data))
        case dict():
            return {str(key): _from_json(inner) for key, inner in value.items()}
        case list():
            return tuple(_from_json(inner) for inner in value)
    return value
