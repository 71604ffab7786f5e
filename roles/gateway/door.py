"""Who may ask a gateway: whoever shows a key that counts, and on this machine everybody, if that is wanted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import urlsplit

from protocol.proofs.pass_file import Right
from roles.gateway.faults import Fault
from roles.gateway.keys import PREFIX, KeyState, ask_for_key

HEALTH = ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready")
METRICS = "/metrics"
FORWARDED = ("forwarded", "x-forwarded-for")


@dataclass(frozen=True)
class Caller:
    """What is known of who asks: its address, and the headers of its request by lower-case name."""

    address: str
    headers: Mapping[str, str]


class Passes(Protocol):
    """What is needed of `roles.gateway.passes.Passes`: what the pass in a request's headers allows, or Fault."""

    def admit(self, headers: Mapping[str, str]) -> Right: ...


class Door:
    """`find_key` gives the key of a text or raises Fault 401. With `needs_key` nothing is done for whoever has none.

    With `passes` to an app nothing is done for whoever shows none. With neither, the gateway answers programs on this
    machine alone: a page that a browser has loaded from elsewhere says so in `Origin`, and one whose name was made to
    point here says so in `Host`.
    """

    def __init__(self, find_key: Callable[[str], KeyState], needs_key: bool, passes: Passes | None = None) -> None:
        self._find_key = find_key
        self._needs_key = needs_key
        self._passes = passes
        self._is_guarded = needs_key or passes is not None

    def admit(self, path: str, caller: Caller) -> KeyState | None:
        """The key that a request is paid with; None for one that needs none. Raises Fault 401 or 403."""
        if not self._is_guarded and is_foreign(caller.headers.get("host", ""), caller.headers.get("origin", "")):
            raise Fault(403, "foreign", "this gateway answers programs on its own machine alone")
        if path == METRICS and self._is_guarded and not is_near(caller):
            raise Fault(403, "foreign", "metrics are for programs on the gateway's own machine")
        if path in HEALTH or path == METRICS:
            return None
        shown = read_bearer(caller.headers.get("authorization", ""))
        if shown.startswith(PREFIX) or (shown and self._needs_key):
            return self._find_key(shown)
        if self._needs_key:
            raise ask_for_key()
        return None

    def admit_pass(self, path: str, caller: Caller) -> Right | None:
        """What the pass of a request allows; None where none is needed. Raises Fault 401 or 403."""
        if self._passes is None or path in HEALTH or path == METRICS:
            return None
        return self._passes.admit(caller.headers)


def read_bearer(header: str) -> str:
    """What an Authorization header shows; empty for none, or one of another kind.

    >>> read_bearer("Bearer abc"), read_bearer("bearer  abc "), read_bearer("Basic abc")
    ('abc', 'abc', '')
    """
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def is_near(caller: Caller) -> bool:
    """Whether a program on this machine asks for itself, not for somebody else as a proxy does."""
    return _is_loopback(caller.address) and not any(name in caller.headers for name in FORWARDED)


def is_foreign(host: str, origin: str) -> bool:
    """Whether a request comes by way of a page from elsewhere, by its headers.

    >>> is_foreign("127.0.0.1:8080", ""), is_foreign("evil.example", ""), is_foreign("[::1]:1", "https://evil.example")
    (False, True, True)
    """
    return not _is_local(f"//{host}") or bool(origin and not _is_local(origin))


def _is_local(url: str) -> bool:
    try:
        name = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
