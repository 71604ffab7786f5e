"""The vote log: what a validator has signed, on disk before it leaves, so that no crash makes it contradict itself.

A file of frames, `mark (4) ‖ length (4) ‖ CRC-32 (4) ‖ content`, each batch one frame; the first names chain and vote
key. It is made together with the vote key, so a missing one is a lost one. A batch at the end that is not whole was
never synced, so nothing of it was ever said: it is cut off. Anything else that is not whole is damage: then the log
shows nothing, and its validator is silent until it cannot contradict itself. Source: facts on consensus, section 4.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import structlog

from protocol.codec import decode, encode
from protocol.consensus.log import decode_record, get_height
from protocol.consensus.messages import Proposal, Vote
from protocol.errors import LocalError, MalformedMessage
from protocol.types import AtMost, ChainId, PublicKey, UpTo
from roles import framed
from roles.files import sync_directory
from roles.role import VoteHistory

FILE_NAME = "votes.log"
DAMAGED_NAME = "votes.log.damaged"
REWRITE_BYTES = 8 * 1024 * 1024  # beyond it a new height begins a new file
BATCH_MAX = 1_024
_MARK = b"RMV1"

log = structlog.get_logger()


@dataclass(frozen=True)
class LogStart:
    """The first frame: whose votes these are, and whether earlier ones were lost."""

    chain: ChainId
    vote: PublicKey
    is_after_loss: Annotated[int, UpTo(1)]


@dataclass(frozen=True)
class Batch:
    """Records that were synced together."""

    records: Annotated[tuple[Annotated[bytes, AtMost(4 * 1024 * 1024)], ...], AtMost(BATCH_MAX)]


class DoubleVote(LocalError):
    """About to sign two different things of one kind at one height and view: a bug, stopped before it leaves."""


@dataclass(frozen=True)
class VotesHeld:
    """Whose log it is, every record of it, and how many of its bytes are whole."""

    start: LogStart
    records: tuple[bytes, ...]
    end: int

    @property
    def history(self) -> VoteHistory:
        """For the validator's start: until it has voted once, one whose log was lost may have to be silent still."""
        return VoteHistory(self.records, is_lost=bool(self.start.is_after_loss and not self.records))


@dataclass(frozen=True)
class _Frames:
    """What a file holds: contents of whole frames, where they end, and whether something whole follows a broken one."""

    contents: tuple[bytes, ...]
    end: int
    is_damaged: bool


class VoteLog:
    """The open log of one validator. Use `open_vote_log`."""

    def __init__(self, path: Path, start: LogStart, records: Sequence[bytes]) -> None:
        self._path = path
        self._start = start
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._signed: dict[tuple[int, int, str], bytes] = {}
        self._height = 0
        for record in records:
            self._guard(record)

    def write(self, records: Sequence[bytes]) -> None:
        """Append records as one batch; on disk when this returns. OSError when the disk does not take it."""
        before = self._height
        for record in records:
            self._guard(record)
        frame = encode_batch(records)
        if self._height > before and os.fstat(self._handle).st_size > REWRITE_BYTES:
            self._begin_anew(frame)
            return
        framed.write_all(self._handle, frame)
        os.fdatasync(self._handle)

    def close(self) -> None:
        os.close(self._handle)

    def _guard(self, data: bytes) -> None:
        """Refuse a record that contradicts an earlier one, whatever made it."""
        record = decode_record(data)
        height = get_height(record)
        if height > self._height:
            self._height = height
            self._signed.clear()
        if not isinstance(record, Vote | Proposal) or height < self._height:
            return
        ballot = record.ballot
        kind = f"vote {ballot.kind}" if isinstance(record, Vote) else "proposal"
        known = self._signed.setdefault((height, ballot.view, kind), encode(ballot))
        if known != encode(ballot):
            raise DoubleVote(f"a second {kind} at height {height}, view {ballot.view}")

    def _begin_anew(self, frame: bytes) -> None:
        """Earlier heights are decided and in the database: only the new one's votes count."""
        temporary = self._path.with_name(f".{self._path.name}.new")
        _write_file(temporary, encode_start(self._start) + frame)
        os.replace(temporary, self._path)
        sync_directory(self._path.parent)
        os.close(self._handle)
        self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)


def create_vote_log(directory: Path, chain: bytes, vote: bytes, name: str = FILE_NAME) -> None:
    """Make the log of a vote key that has signed nothing yet. FileExistsError when there is one."""
    path = directory / name
    if path.exists():
        raise FileExistsError(path)
    _begin(path, LogStart(chain, vote, is_after_loss=0))


def open_vote_log(directory: Path, chain: bytes, vote: bytes) -> tuple[VoteLog, VoteHistory]:
    """Open the log and say what it held. A torn end is cut off; a damaged log is kept aside and a new one begun.

    Raises OSError for what is the disk's fault.
    """
    path = directory / FILE_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    held = read_votes(data)
    if held is None or (held.start.chain, held.start.vote) != (chain, vote):
        log.error("votes.lost", path=str(path), size_bytes=len(data))
        if data:
            os.replace(path, directory / DAMAGED_NAME)
        start = LogStart(chain, vote, is_after_loss=1)
        _begin(path, start)
        return VoteLog(path, start, ()), VoteHistory((), is_lost=True)
    if held.end < len(data):
        log.warning("votes.torn", cut_bytes=len(data) - held.end)
        os.truncate(path, held.end)
    return VoteLog(path, held.start, held.records), held.history


def encode_start(start: LogStart) -> bytes:
    """The first frame of a log."""
    return framed.pack(_MARK, encode(start))


def encode_batch(records: Sequence[bytes]) -> bytes:
    """The frame of records that are synced together."""
    return framed.pack(_MARK, encode(Batch(tuple(records))))


def read_votes(data: bytes) -> VotesHeld | None:
    """What a log holds, without a torn batch at its end; None when it is not to be trusted."""
    frames = _read_frames(data)
    if frames.is_damaged or not frames.contents:
        return None
    try:
        start = decode(LogStart, frames.contents[0])
        records = [record for content in frames.contents[1:] for record in decode(Batch, content).records]
        for record in records:
            decode_record(record)
    except MalformedMessage:
        return None
    return VotesHeld(start, tuple(records), frames.end)


def _begin(path: Path, start: LogStart) -> None:
    _write_file(path, encode_start(start))
    sync_directory(path.parent)


def _read_frames(data: bytes) -> _Frames:
    contents, at = framed.read_all(_MARK, data)
    # Behind a torn batch there is nothing. Whatever is whole there was synced later, so what is broken was synced too.
    behind = data.find(_MARK, at)
    while behind >= 0:
        if framed.read(_MARK, data, behind) is not None:
            return _Frames(tuple(contents), at, True)
        behind = data.find(_MARK, behind + 1)
    return _Frames(tuple(contents), at, False)


def _write_file(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        framed.write_all(handle, data)
        os.fdatasync(handle)
    finally:
        os.close(handle)
