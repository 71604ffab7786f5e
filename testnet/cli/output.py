"""What a command prints and how it fails: exit codes, the error envelope, one object with `--json`.

Results go to standard output, progress and diagnostics to standard error. With `--json` standard output holds exactly
one JSON object, an error included, and nothing ever prompts.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """What the shell is told. Scripts rely on these numbers."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    CONFIG = 3
    UNREACHABLE = 4
    VERIFICATION_FAILED = 5
    INVARIANT_VIOLATED = 6
    TIMEOUT = 7
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot do what was asked: a stable code for programs, a message and the next step for people."""

    def __init__(
        self, code: str, message: str, hint: str, exit_code: ExitCode = ExitCode.FAILURE, **details: object
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        self.details = details


@dataclass(frozen=True)
class Output:
    """Where a command's words go."""

    is_json: bool

    def say(self, text: str = "") -> None:
        """A line of the result, for people. Silent with `--json`."""
        if not self.is_json:
            print(text, flush=True)

    def note(self, text: str) -> None:
        """A line of progress or diagnosis; never part of the result."""
        print(text, file=sys.stderr, flush=True)

    def give(self, result: Mapping[str, Any]) -> None:
        """The result, for programs. Silent without `--json`."""
        if self.is_json:
            print(json.dumps(result, default=to_json), flush=True)


def to_json(value: object) -> object:
    """Bytes as hex and paths as text, so that every result can be printed."""
    return value.hex() if isinstance(value, bytes) else str(value)


def print_error(error: CommandError, is_json: bool) -> None:
    """The failure on standard error for people, and as the one envelope on standard output with `--json`."""
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  next: {error.hint}", file=sys.stderr, flush=True)
    if is_json:
        fields = {"code": error.code, "message": error.message, "hint": error.hint, "details": error.details}
        print(json.dumps({"error": fields}, default=to_json), flush=True)


def format_count(number: int, noun: str) -> str:
    """A number of things.

    >>> format_count(1, "row"), format_count(3, "row")
    ('1 row', '3 rows')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns padded to their widest cell, two spaces apart."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def format_decimal(value: int, decimals: int) -> str:
    """A whole number of 10^-decimals as it is written.

    >>> format_decimal(1_018_172, 6), format_decimal(7, 0), format_decimal(-25, 1)
    ('1.018172', '7', '-2.5')
    """
    if not decimals:
        return str(value)
    whole, part = divmod(abs(value), 10**decimals)
    return f"{'-' if value < 0 else ''}{whole}.{part:0{decimals}d}"


def format_role(grains: int) -> str:
    """Grains as ROLE with all nine decimals that matter.

    >>> format_role(1_500_000_000), format_role(7)
    ('1.5 ROLE', '0.000000007 ROLE')
    """
    whole, part = divmod(abs(grains), 1_000_000_000)
    text = f"{whole}.{part:09d}".rstrip("0").rstrip(".")
    return f"{'-' if grains < 0 else ''}{text} ROLE"


def format_time(time_ms: int) -> str:
    """A time in ms since 1970 for people, in UTC.

    >>> format_time(1_700_000_000_000)
    '2023-11-14 22:13:20'
    """
    return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def format_bytes(count: int) -> str:
    """A count of bytes for people.

    >>> format_bytes(512), format_bytes(2_048), format_bytes(10 * 1024**3)
    ('512 B', '2.0 KiB', '10.0 GiB')
    """
    if count < 1024:
        return f"{count} B"
    if count < 1024 * 1024:
        return f"{count / 1024:.1f} KiB"
    return f"{count / 1024**2:.1f} MiB" if count < 1024**3 else f"{count / 1024**3:.1f} GiB"
