"""Where readings come from, as far as that can be said without going there: what to fetch, and the number in what came.

A source is pure. It names an address that the node around it fetches within a time and a number of bytes (`feeds`), and
reads one number out of the bytes, exactly: it never makes a float, for what oracles sign must come out the same on
every machine. A user's module adds a kind by `register_source`; observers name it in their options as `source`.
"""

import csv
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import Any, NoReturn

from protocol.errors import LocalError, ProtocolError
from protocol.ledger.feeds import FeedSource
from protocol.types import INT_MAX

DOCUMENT_BYTES_MAX = 256 * 1024
SERIES_BYTES_MAX = 4 * 1024 * 1024
ROWS_MAX = 100_000
PATH_BYTES_MAX = 256
DECIMALS_MAX = 12
DIGITS_MAX = 64  # of a number as written
FILE, PROGRAM = "file:", "exec:"  # addresses of our own, beside http and https
SCHEMES = ("http://", "https://", FILE, PROGRAM)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_CONTEXT = Context(prec=2 * DIGITS_MAX, Emin=-999_999, Emax=999_999)


class FeedError(ProtocolError):
    """No reading; the reason is for people."""


class FetchFailed(FeedError):
    """The document could not be had."""


class BadReading(FeedError):
    """The document came and holds no such number."""


class Source(ABC):
    """Where an observer reads one feed. `options` are its operator's, `address` and `path` those of the feed's terms.

    ValueError for options it cannot do with.
    """

    def __init__(self, options: Mapping[str, Any], address: str, path: str) -> None:
        self._path = str(options.get("path", path))

    @property
    @abstractmethod
    def address(self) -> str:
        """What to fetch; begins with one of SCHEMES. FetchFailed while nobody has said what."""

    @abstractmethod
    def read(self, data: bytes, decimals: int, now_ms: int) -> int:
        """The value of this moment as a whole number of 10^-decimals. BadReading when the bytes do not hold it."""


class HttpJson(Source):
    """The number at `path` in the JSON document at `url`: the feed's own address unless the operator knows another."""

    def __init__(self, options: Mapping[str, Any], address: str, path: str) -> None:
        super().__init__(options, address, path)
        self._url = str(options.get("url", address))
        if self._url and not self._url.startswith(("http://", "https://")):
            raise ValueError(f"{self._url!r} is no http or https address")

    @property
    def address(self) -> str:
        if not self._url:
            raise FetchFailed("neither the feed nor this node's options name an address")
        return self._url

    def read(self, data: bytes, decimals: int, now_ms: int) -> int:
        return parse_reading(data, self._path, decimals)


class Replay(Source):
    """A recorded series in a `file`, one row every `step_ms` since `start_ms`, over and over.

    A file that ends in .csv names its columns in its first row, and `path` is one of them; any other has one JSON
    document a line, and `path` leads to the number. All who replay one file by one clock read the same.
    """

    def __init__(self, options: Mapping[str, Any], address: str, path: str) -> None:
        super().__init__(options, address, path)
        self._file, self._step_ms = str(options["file"]), int(options["step_ms"])
        self._start_ms = int(options.get("start_ms", 0))
        if not self._file.startswith("/") or self._step_ms < 1:
            raise ValueError(f"a replay has a whole path and a step of 1 ms at least: {self._file!r}, {self._step_ms}")

    @property
    def address(self) -> str:
        return FILE + self._file

    def read(self, data: bytes, decimals: int, now_ms: int) -> int:
        rows = _read_column(data, self._path) if self._file.endswith(".csv") else _read_lines(data)
        row = rows[max(0, now_ms - self._start_ms) // self._step_ms % len(rows)]
        return parse_reading(row, "" if self._file.endswith(".csv") else self._path, decimals)


class Program(Source):
    """What a `command`, a list of words, prints: JSON with the number at `path`, or the number alone."""

    def __init__(self, options: Mapping[str, Any], address: str, path: str) -> None:
        super().__init__(options, address, path)
        words = options["command"]
        if not isinstance(words, list) or not words or not all(map(_is_word, words)):
            raise ValueError(f"a command is a list of words, not {words!r}")
        self._words = words

    @property
    def address(self) -> str:
        return PROGRAM + json.dumps(self._words)

    def read(self, data: bytes, decimals: int, now_ms: int) -> int:
        return parse_reading(data, self._path, decimals)


def _is_word(word: object) -> bool:
    return isinstance(word, str) and bool(word) and "\0" not in word


MakeSource = Callable[[Mapping[str, Any], str, str], Source]
_sources: dict[str, MakeSource] = {
    FeedSource.HTTP_JSON: HttpJson,
    FeedSource.REPLAY: Replay,
    FeedSource.COMMAND: Program,
}


def register_source(name: str, make: MakeSource) -> None:
    """Add a kind of source that operators can name. LocalError on a clash."""
    if _sources.setdefault(name, make) is not make:
        raise LocalError(f"source {name!r} is taken")


def make_source(options: Mapping[str, Any], address: str = "", path: str = "") -> Source:
    """The source that an operator's options ask for; KeyError or ValueError, with the reason, for options amiss.

    >>> make_source({"source": "command", "command": ["date", "+%s"]}).address
    'exec:["date", "+%s"]'
    """
    name = str(options.get("source", FeedSource.HTTP_JSON))
    if name not in _sources:
        raise ValueError(f"no source {name!r}; there are {', '.join(_sources)}")
    return _sources[name](options, address, path)


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


@lru_cache(maxsize=4)  # a file is read every few seconds and hardly ever changes
def _read_column(data: bytes, column: str) -> tuple[bytes, ...]:
    """One column of a CSV file, as written."""
    _verify_size(data)
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadReading(f"not a CSV file: {error}") from error
    if not 0 < len(rows) <= ROWS_MAX:
        raise BadReading(f"a series has 1 to {ROWS_MAX} rows, this one {len(rows)}")
    if column not in rows[0]:
        raise BadReading(f"no column {column!r}, there are {', '.join(str(name) for name in list(rows[0])[:8])}")
    return tuple(str(row[column] or "").encode() for row in rows)


@lru_cache(maxsize=4)
def _read_lines(data: bytes) -> tuple[bytes, ...]:
    _verify_size(data)
    rows = tuple(line for line in data.split(b"\n") if line.strip())
    if not 0 < len(rows) <= ROWS_MAX:
        raise BadReading(f"a series has 1 to {ROWS_MAX} rows, this one {len(rows)}")
    return rows


def _verify_size(data: bytes) -> None:
    if len(data) > SERIES_BYTES_MAX:
        raise BadReading(f"a series has at most {SERIES_BYTES_MAX} bytes, this one {len(data)}")


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
    is_huge = value.adjusted() + decimals > 19
    scaled = 0 if is_huge else int(value.scaleb(decimals, _CONTEXT).to_integral_value(ROUND_HALF_EVEN, _CONTEXT))
    if is_huge or abs(scaled) > INT_MAX:
        raise BadReading(f"the number at {json_path!r} is {value:.6E}: beyond {INT_MAX} / 10^{decimals}")
    return scaled


def _describe(value: Any) -> str:
    match value:
        case dict():
            return f"an object with {', '.join(sorted(value)[:8]) or 'nothing in it'}"
        case list():
            return f"a list of {len(value)}"
        case _:
            return f"{type(value).__name__} {str(value)[:40]!r}"
