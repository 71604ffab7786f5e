"""Which model is run by which server: read from `--backend` or from `node.json`, and checked before anything starts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from protocol.content import parse_cid
from protocol.errors import MalformedMessage

BACKENDS_MAX = 16
CONCURRENCY_MAX = 64
TIMEOUT_S_MAX = 600
LOCAL = "local"
HINT = "write it like digits@1=http://127.0.0.1:8080/digits, or digits@1=local to run it here again"
_NAME = r"[A-Za-z0-9_.-]{1,128}"
_PATH = re.compile(f"/({_NAME})(/versions/({_NAME}))?")


@dataclass(frozen=True)
class BackendConfig:
    """One model and its server.

    `model` is `name@version` or a CID: never a name alone, whose next version would be another model. `url` is
    `http(s)://HOST:PORT/NAME`, or `…/NAME/versions/VERSION`, by the server's own names. `ca` is a file with the
    certificates to trust instead of the usual ones. At most `concurrency` requests are under way at once, each for at
    most `timeout_s`.
    """

    model: str
    url: str
    ca: str = ""
    concurrency: int = 4
    timeout_s: int = 30

    @property
    def base(self) -> str:
        """Scheme, host and port."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def path(self) -> str:
        """Where the server has the model."""
        return f"/v2/models{urlsplit(self.url).path}"


def parse_backend(text: str) -> BackendConfig | None:
    """What `--backend` says; None for a model that is to run here again. ValueError for anything else.

    >>> parse_backend("digits@1=http://127.0.0.1:8080/digits").path, parse_backend("digits@1=local")
    ('/v2/models/digits', None)
    """
    model, separator, url = text.partition("=")
    if not separator:
        raise ValueError(f"{text[:200]!r} is no MODEL=URL")
    if url == LOCAL:
        verify_model(model)
        return None
    backend = BackendConfig(model, url)
    verify_backend(backend)
    return backend


def read_backend(fields: Any) -> BackendConfig:
    """An entry of `backends` in `node.json`. ValueError unless it is one."""
    if not isinstance(fields, Mapping) or not {"model", "url"} <= fields.keys() <= BackendConfig.__annotations__.keys():
        raise ValueError(f"backends: every entry is an object with model and url, and may have {_list_optional()}")
    for name, value in fields.items():
        kind = int if name in ("concurrency", "timeout_s") else str
        if type(value) is not kind:
            raise ValueError(f"backends: {name} is {type(value).__name__}, not {kind.__name__}")
    backend = BackendConfig(**fields)
    verify_backend(backend)
    return backend


def verify_backend(backend: BackendConfig) -> None:
    """ValueError unless a node could run with it."""
    verify_model(backend.model)
    parts = _split(backend.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"backend {backend.url!r} is no http or https URL")
    if parts.username is not None or parts.query or parts.fragment or not _PATH.fullmatch(parts.path):
        raise ValueError(f"backend {backend.url!r} is not of the form http://HOST:PORT/NAME[/versions/VERSION]")
    if backend.ca and parts.scheme != "https":
        raise ValueError(f"backend {backend.url!r}: ca is for https")
    if backend.ca:
        _verify_certificates(backend.ca)
    if not 1 <= backend.concurrency <= CONCURRENCY_MAX:
        raise ValueError(f"backend concurrency {backend.concurrency}: from 1 to {CONCURRENCY_MAX}")
    if not 1 <= backend.timeout_s <= TIMEOUT_S_MAX:
        raise ValueError(f"backend timeout_s {backend.timeout_s}: from 1 to {TIMEOUT_S_MAX}")


def verify_backends(backends: tuple[BackendConfig, ...]) -> None:
    """ValueError unless each model has one server."""
    if len(backends) > BACKENDS_MAX or len({backend.model for backend in backends}) < len(backends):
        raise ValueError(f"backends: {len(backends)}, at most {BACKENDS_MAX}, each for another model")
    for backend in backends:
        verify_backend(backend)


def verify_model(model: str) -> None:
    """ValueError unless it can only ever mean one model."""
    name, at, version = model.rpartition("@")
    if at and name and version.isascii() and version.isdecimal():
        return
    try:
        parse_cid(model)
    except MalformedMessage as error:
        message = f"model {model[:100]!r} is neither name@version (as in digits@1) nor a CID"
        raise ValueError(message) from error


def _verify_certificates(path: str) -> None:
    import ssl

    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ValueError(f"backend ca {path!r} holds no certificates: {error}") from error


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    _ = parts.port  # ValueError when it is none
    return parts


def _list_optional() -> str:
    return ", ".join(name for name in BackendConfig.__annotations__ if name not in ("model", "url"))
