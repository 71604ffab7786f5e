"""Outside data: fetch a small JSON document over HTTP and read one number out of it, exactly.

`parse_reading` is pure and never makes a float: what oracles sign must come out the same on every machine.
"""

import json
import re
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urljoin, urlsplit

from protocol.errors import ProtocolError
from protocol.types import INT_MAX

if TYPE_CHECKING:
    import ssl

DOCUMENT_BYTES_MAX = 256 * 1024
PATH_BYTES_MAX = 256
DECIMALS_MAX = 12
DIGITS_MAX = 64  # of a number as written
REDIRECTS_MAX = 3
_LOOPBACK = ("localhost", "::1")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_CONTEXT = Context(prec=2 * DIGITS_MAX, Emin=-999_999, Emax=999_999)


class FeedError(ProtocolError):
    """No reading; the reason is for people."""


class FetchFailed(FeedError):
    """The document could not be had."""


class BadReading(FeedError):
    """The document came and holds no such number."""


def parse_reading(data: bytes, json_path: str, decimals: int) -> int:
    """The number at `json_path` as a whole number of 10^-decimals, half to even; BadReading otherwise.

    The path goes through objects by key and through lists by index: `a.b.0.c`. The number may be written as text.

    >>> parse_reading(b'{"prices": [{"usd": 1.0181722}]}', "prices.0.usd", 6)
    1018172
    """
    if not 0 <= decimals <= DECIMALS_MAX:
        raise BadReading(f"decimals is 0 to {DECIMALS_MAX}, not {decimals}")
    if len(json_path.encode()) > PATH_BYTES_MAX:
        raise BadReading(f"a path has at most {PATH_BYTES_MAX} bytes")
    if len(data) > DOCUMENT_BYTES_MAX:
        raise BadReading(f"a document has at most {DOCUMENT_BYTES_MAX} bytes, this one {len(data)}")
    try:
        document = json.loads(data, parse_int=_parse_number, parse_float=_parse_number, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadReading(f"not a JSON document: {error}") from error
    return _scale(_follow(document, json_path), json_path, decimals)


@cache
def _read_certificates() -> "ssl.SSLContext":
    """Whom https trusts. Read once: a client that is not given it reads all certificates, for a fetch over http too."""
    import httpx

    return httpx.create_ssl_context()


async def fetch_url(url: str, timeout_s: float, bytes_max: int = DOCUMENT_BYTES_MAX) -> bytes:
    """The body of a GET, at most `bytes_max` bytes, within `timeout_s` seconds in all; FetchFailed otherwise.

    Follows at most REDIRECTS_MAX redirects, never from https to http and never to another scheme.
    """
    # Here, because importing them takes longer than most commands that never fetch anything.
    import httpx
    import trio

    _verify_url(url, url)
    with trio.move_on_after(timeout_s):
        try:
            for _ in range(REDIRECTS_MAX + 1):
                # A proxy from the environment is for the world outside, not for this machine.
                trusted = _read_certificates()
                async with httpx.AsyncClient(
                    timeout=timeout_s, verify=trusted, trust_env=not _is_loopback(url)
                ) as client:
                    target, body = await _get(client, url, bytes_max)
                if target is None:
                    return body
                _verify_url(target, url)
                url = target
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise FetchFailed(f"{url}: {type(error).__name__}: {error}") from error
        raise FetchFailed(f"{url}: more than {REDIRECTS_MAX} redirects")
    raise FetchFailed(f"{url}: no whole answer within {timeout_s} s")


async def _get(client: Any, url: str, bytes_max: int) -> tuple[str | None, bytes]:
    """Where a redirect leads, or the body."""
    # Unpacking would let a small answer grow past any bound: identity, or nothing.
    async with client.stream("GET", url, headers={"accept-encoding": "identity"}) as response:
        if response.is_redirect:
            return urljoin(url, response.headers.get("location", "")), b""
        if response.status_code != 200:
            raise FetchFailed(f"{url}: status {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise FetchFailed(f"{url}: the answer is packed though we asked for none of it")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > bytes_max:
                raise FetchFailed(f"{url}: more than {bytes_max} bytes")
        return None, bytes(body)


def _verify_url(url: str, before: str) -> None:
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    except ValueError as error:
        raise FetchFailed(f"{url[:200]}: {error}") from error
    if scheme not in ("http", "https") or not host:
        raise FetchFailed(f"{url[:200]}: only http and https addresses are fetched")
    if scheme == "http" and urlsplit(before).scheme == "https":
        raise FetchFailed(f"{before[:200]}: redirects from https to http")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in _LOOPBACK or host.startswith("127.")


def _parse_number(text: str) -> Decimal:
    if len(text) > DIGITS_MAX:
        raise ValueError(f"a number of {len(text)} characters, at most {DIGITS_MAX} are read")
    # Decimal would also take 1_5, NaN and the digits of other scripts.
    if not _NUMBER.fullmatch(text):
        raise ValueError("not written as JSON writes numbers")
    return Decimal(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _follow(document: Any, json_path: str) -> Any:
    value = document
    for step in json_path.split(".") if json_path else ():
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isascii() and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise BadReading(f"path {json_path!r} ends at {step!r}: there is {_describe(value)}")
    return value


def _scale(value: Any, json_path: str, decimals: int) -> int:
    if isinstance(value, str):
        try:
            value = _parse_number(value.strip())
        except (ValueError, ArithmeticError) as error:
            raise BadReading(f"the text at {json_path!r} is no number: {value[:40]!r}") from error
    if not isinstance(value, Decimal) or not value.is_finite():
        raise BadReading(f"at {json_path!r} stands no number but {_describe(value)}")
    # The size first, by the exponent alone: 1e999999 must not be written out.
    if value < 0 or value.adjusted() + decimals > 19:
        raise BadReading(f"the number at {json_path!r} is {value:.6E}: not between 0 and {INT_MAX} / 10^{decimals}")
    scaled = int(value.scaleb(decimals, _CONTEXT).to_integral_value(ROUND_HALF_EVEN, _CONTEXT))
    if scaled > INT_MAX:
        raise BadReading(f"the number at {json_path!r} is {value:.6E}: more than {INT_MAX} / 10^{decimals}")
    return scaled


def _describe(value: Any) -> str:
    match value:
        case dict():
            return f"an object with {', '.join(sorted(value)[:8]) or 'nothing in it'}"
        case list():
            return f"a list of {len(value)}"
        case _:
            return f"{type(value).__name__} {str(value)[:40]!r}"
