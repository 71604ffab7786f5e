"""The node's event log: what it did, one JSON object per line, for reports, dashboards and people.

`{"time_ms": …, "node": …, "name": "claim.made", …}`; bytes are hex. One schema for simulator and real nodes.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

FILE_NAME = "events.jsonl"
LOG_FILE_BYTES_MAX = 64 * 1024 * 1024  # then the file becomes `events.jsonl.1`, and what that was is gone
DROPPED = "log.dropped"  # the first line of a file that says that something is gone
LINE_BYTES_MAX = 64 * 1024
_HEAD = ("time_ms", "node", "name")
_quote = json.encoder.encode_basestring_ascii


def format_event(time_ms: int, node: str, name: str, fields: Mapping[str, Any]) -> str:
    """One line, without its end.

    >>> format_event(7, "a", "claim.made", {"claim": bytes(2)})
    '{"time_ms":7,"node":"a","name":"claim.made","claim":"0000"}'
    """
    head = f'{{"time_ms":{time_ms},"node":{_quote(node)},"name":{_quote(name)}'
    parts = [f",{_quote(key)}:{_format(value)}" for key, value in fields.items() if key not in _HEAD]
    text = f"{head}{''.join(parts)}}}"
    return text if len(text) <= LINE_BYTES_MAX else f'{head},"dropped_bytes":{len(text)}}}'


class EventLog:
    """Appends lines to `events.jsonl`, buffered until `flush`, in at most two files of `file_bytes_max`."""

    def __init__(self, directory: Path, node: str, file_bytes_max: int = LOG_FILE_BYTES_MAX) -> None:
        """Opens the log. Raises OSError."""
        self._path = directory / FILE_NAME
        self._node = node
        self._file_bytes_max = file_bytes_max
        self._lines: list[str] = []
        self._time_ms = 0  # of the last event
        self._file = self._path.open("ab", buffering=0)  # `_lines` is the buffer
        self._size = self._file.seek(0, os.SEEK_END)
        # A killed process may have left half a line; what follows must not become part of it.
        if self._size and not _ends_in_newline(self._path):
            self._write(b"\n")

    def write(self, time_ms: int, name: str, fields: Mapping[str, Any]) -> None:
        """Take one event; it is on its way to disk with the next `flush`."""
        self._time_ms = time_ms
        self._lines.append(format_event(time_ms, self._node, name, fields))

    def flush(self) -> None:
        """Hand all taken lines to the operating system. Raises OSError, on a full disk for instance."""
        if not self._lines:
            return
        data = ("\n".join(self._lines) + "\n").encode()
        self._lines.clear()
        if self._size and self._size + len(data) > self._file_bytes_max:
            self._rotate()
        self._write(data)

    def close(self) -> None:
        """Flush and close. Raises OSError."""
        try:
            self.flush()
        finally:
            self._file.close()

    def _rotate(self) -> None:
        older = _older(self._path)
        dropped_bytes = older.stat().st_size if older.exists() else 0
        self._file.close()
        os.replace(self._path, older)
        self._file = self._path.open("ab", buffering=0)
        self._size = 0
        if dropped_bytes:
            self._write(format_event(self._time_ms, self._node, DROPPED, {"bytes": dropped_bytes}).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            written = self._file.write(left)
            self._size += written
            left = left[written:]


def read_events(directory: Path) -> Iterator[dict[str, Any]]:
    """Every whole event of a data directory, oldest first. Lines a killed process left torn are passed over."""
    path = directory / FILE_NAME
    for part in (_older(path), path):
        if not part.exists():
            continue
        with part.open("rb") as file:
            for line in _read_lines(file):
                event = _parse(line)
                if event is not None:
                    yield event


def has_lost(directory: Path) -> bool:
    """Whether the oldest events of a data directory are gone: its log outgrew its bound."""
    path = directory / FILE_NAME
    return any(_starts_anew(part) for part in (_older(path), path) if part.exists())


def _starts_anew(path: Path) -> bool:
    with path.open("rb") as file:
        event = _parse(file.readline(LINE_BYTES_MAX))
    return event is not None and event["name"] == DROPPED


def _read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of at most LINE_BYTES_MAX; longer ones, which no log of ours has, are passed over."""
    is_start = True
    while line := file.readline(LINE_BYTES_MAX + 1):
        if is_start:
            yield line
        is_start = line.endswith(b"\n")


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and "name" in event else None


def _format(value: Any) -> str:
    """As JSON. The encoder takes ten times as long for the values that most fields have."""
    kind = type(value)
    if kind is bytes:
        return f'"{value.hex()}"'
    if kind is int:
        return str(value)
    return _quote(value) if kind is str else _encoder.encode(value)


def _encode(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)


_encoder = json.JSONEncoder(default=_encode, separators=(",", ":"))


def _older(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
