"""The vote log: cut off or spoilt anywhere, it never lets a validator forget in silence what it has said."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from protocol.consensus.log import encode_record
from protocol.consensus.messages import Justification, Proposal, Vote
from protocol.ledger.block import NOTHING, Ballot, VoteKind, make_final_ballot
from roles import votelog
from roles.role import VoteHistory
from roles.votelog import DAMAGED_NAME, FILE_NAME, DoubleVote, VoteLog, create_vote_log, open_vote_log

CHAIN, VOTE = b"chain-id", b"v" * 32
BLOCK, OTHER = b"b" * 32, b"o" * 32


def vote(height: int, view: int = 1, block: bytes = BLOCK) -> bytes:
    return encode_record(Vote(make_final_ballot(height, view, block), VOTE, bytes(64)))


def propose(height: int, view: int = 1, block: bytes = BLOCK) -> bytes:
    ballot = Ballot(height, view, VoteKind.NOTARISE, 0, block, NOTHING)
    return encode_record(Proposal(ballot, Justification((), ()), VOTE, bytes(64)))


@contextmanager
def opened(directory: Path) -> Iterator[tuple[VoteLog, VoteHistory]]:
    log, history = open_vote_log(directory, CHAIN, VOTE)
    with closing(log):
        yield log, history


def write_three(directory: Path) -> tuple[bytes, list[int]]:
    """A log of three batches; its bytes and where each batch ends."""
    create_vote_log(directory, CHAIN, VOTE)
    path = directory / FILE_NAME
    ends = [path.stat().st_size]
    with opened(directory) as (log, _):
        for batch in ([propose(5), vote(5)], [vote(5, 2)], [vote(6), vote(6, 2)]):
            log.write(batch)
            ends.append(path.stat().st_size)
    return path.read_bytes(), ends


BATCHES = ((propose(5), vote(5)), (vote(5, 2),), (vote(6), vote(6, 2)))


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that open thousands of logs and cut no power."""
    monkeypatch.setattr(votelog.os, "fdatasync", lambda handle: None)
    monkeypatch.setattr(votelog.os, "fsync", lambda handle: None)


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    write_three(tmp_path)
    with opened(tmp_path) as (log, history):
        assert history == VoteHistory(tuple(record for batch in BATCHES for record in batch))
        log.write([vote(7)])
    with opened(tmp_path) as (_, history):
        assert history.records[-1] == vote(7)


@pytest.mark.usefixtures("no_sync")
def test_a_log_cut_off_at_any_byte_holds_every_whole_batch_or_says_that_it_is_lost(tmp_path: Path) -> None:
    data, ends = write_three(tmp_path)
    path = tmp_path / FILE_NAME
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        whole = sum(end <= size for end in ends) - 1
        with opened(tmp_path) as (log, history):
            if whole < 0:
                assert history == VoteHistory((), is_lost=True), size
                continue
            assert history == VoteHistory(tuple(record for batch in BATCHES[:whole] for record in batch)), size
            log.write([vote(9)])
        with opened(tmp_path) as (_, history):
            assert not history.is_lost
            assert history.records[-1] == vote(9)
        path.unlink()


@pytest.mark.usefixtures("no_sync")
def test_a_bit_spoilt_anywhere_is_a_torn_end_or_a_lost_log_and_never_another_vote(tmp_path: Path) -> None:
    data, ends = write_three(tmp_path)
    path = tmp_path / FILE_NAME
    kept = tuple(record for batch in BATCHES[:2] for record in batch)
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes((data[at] ^ 0x10,)) + data[at + 1 :])
        with opened(tmp_path) as (_, history):
            expected = VoteHistory((), is_lost=True) if at < ends[2] else VoteHistory(kept)
            assert history == expected, at
        path.unlink()


def test_a_damaged_log_is_kept_aside_and_stays_lost_until_its_validator_votes_again(tmp_path: Path) -> None:
    data, ends = write_three(tmp_path)
    path = tmp_path / FILE_NAME
    path.write_bytes(data[: ends[1] - 1] + b"?" + data[ends[1] :])
    for _ in range(3):
        with opened(tmp_path) as (log, history):
            assert history == VoteHistory((), is_lost=True)
    assert (tmp_path / DAMAGED_NAME).read_bytes()[ends[1] :] == data[ends[1] :]
    with opened(tmp_path) as (log, _):
        log.write([vote(8)])
    with opened(tmp_path) as (_, history):
        assert history == VoteHistory((vote(8),))


def test_a_missing_log_and_one_of_another_key_are_lost_ones(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, history):
        assert history.is_lost
    (tmp_path / FILE_NAME).unlink()
    create_vote_log(tmp_path, CHAIN, b"w" * 32)
    with opened(tmp_path) as (_, history):
        assert history.is_lost


def test_a_second_vote_of_a_kind_in_a_view_is_stopped_before_it_is_written(tmp_path: Path) -> None:
    write_three(tmp_path)
    with opened(tmp_path) as (log, _):
        log.write([vote(6)])  # the same once more is no contradiction
        for record in (vote(6, 1, OTHER), vote(6, 2, OTHER)):
            with pytest.raises(DoubleVote):
                log.write([record])
        log.write([propose(6), vote(7, 1, OTHER)])
        with pytest.raises(DoubleVote):
            log.write([vote(7)])


def test_a_large_log_begins_anew_with_the_next_height(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votelog, "REWRITE_BYTES", 1_000)
    create_vote_log(tmp_path, CHAIN, VOTE)
    with opened(tmp_path) as (log, _):
        for height in range(1, 40):
            log.write([vote(height), vote(height, 2)])
            assert (tmp_path / FILE_NAME).stat().st_size < 2_000
    with opened(tmp_path) as (log, history):
        assert history.records[-2:] == (vote(39), vote(39, 2))
        with pytest.raises(DoubleVote):
            log.write([vote(39, 1, OTHER)])


def test_a_disk_that_is_full_is_an_error_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_three(tmp_path)
    with opened(tmp_path) as (log, _):

        def write_half(handle: int, data: memoryview) -> int:
            os.pwrite(handle, data[: len(data) // 2], 0)
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(votelog.os, "write", write_half)
            with pytest.raises(OSError, match="No space"):
                log.write([vote(7)])
    with opened(tmp_path) as (_, history):
        assert history == VoteHistory(tuple(record for batch in BATCHES for record in batch))
