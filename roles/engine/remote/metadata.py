"""What a server says of itself and of a model, held against what the model is."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from protocol.proofs.profiles import Profile
from roles.engine.remote.errors import Unfit
from roles.engine.specs import IoSpec
from roles.oip_tensors import BINARY, DATATYPES

ADVICE = "; name inputs and outputs in the server's settings of the model as its ONNX file does"


@dataclass(frozen=True)
class Server:
    """What answers there. `is_binary`: it takes and gives raw tensors."""

    name: str
    version: str
    is_binary: bool

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()


def read_server(document: Mapping[str, Any]) -> Server:
    """From the server's metadata (`GET /v2`); a server need not say much."""
    extensions = document.get("extensions")
    is_binary = isinstance(extensions, list) and BINARY in extensions
    name, version = (str(document.get(key) or "")[:64] for key in ("name", "version"))
    return Server(name or "unknown", version, is_binary)


def format_remote_profile(server: Server, place: str, rows: int) -> str:
    """The profile of a run by a server.

    `place` is the node that vouches for it: what the server runs on is not known here, so no two nodes' servers count
    as equal, whatever they call themselves. Of a float model its results are then held to the calibrated bound, of an
    exact one to the bit.

    >>> format_remote_profile(Server("mlserver", "1.7.1", False), "00ff", 8)
    'ort=mlserver-1.7.1;ep=oip;isa=00ff;th=1;opt=all;batch=8'
    """
    word = re.sub(r"[^A-Za-z0-9._+-]", "-", f"{server.name}-{server.version}").strip("._+-")[:32]
    return str(Profile(word or "unknown", "oip", place, 1, "all", rows))


def verify_metadata(document: Mapping[str, Any], takes: tuple[IoSpec, ...], gives: tuple[IoSpec, ...]) -> None:
    """Unfit, with every difference, unless the server's model takes and gives what the model does."""
    found = [*_compare("input", document.get("inputs"), takes), *_compare("output", document.get("outputs"), gives)]
    if found:
        raise Unfit("; ".join(found)[:800] + ADVICE)


def _compare(what: str, said: Any, specs: tuple[IoSpec, ...]) -> Iterator[str]:
    if not isinstance(said, list) or not said or not all(isinstance(each, dict) for each in said):
        yield f"the server does not say what {what}s its model has"
        return
    named = {str(each.get("name"))[:64]: each for each in said}
    for spec in specs:
        each = named.pop(spec.name, None)
        if each is None:
            yield f"{what} {spec.name!r} is missing"
        elif each.get("datatype") != DATATYPES[spec.dtype]:
            yield f"{what} {spec.name!r} is {str(each.get('datatype'))[:20]}, not {DATATYPES[spec.dtype]}"
        elif not _fits(spec, each.get("shape")):
            shape = [size or -1 for size in spec.shape]
            yield f"{what} {spec.name!r} has shape {str(each.get('shape'))[:80]}, not {shape}"
    if named:
        yield f"{what}s {', '.join(sorted(named))[:200]} are none of the model's"


def _fits(spec: IoSpec, shape: Any) -> bool:
    """Whether a server's shape, in which -1 is free, lets through what the model's does."""
    return (
        isinstance(shape, list)
        and len(shape) == len(spec.shape)
        and all(said == -1 or (said == size and size != 0) for said, size in zip(shape, spec.shape, strict=True))
    )
