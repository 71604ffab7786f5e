"""A feed's history is read from a file by whoever holds the genesis, exactly as the ledger holds it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.candles import NoHistory
from protocol.codec import encode
from protocol.errors import InvalidProof, MalformedMessage, RemoteError
from protocol.ledger.light import trust_genesis
from protocol.proofs.feed_proof import (
    list_candle_entries,
    list_feed_entries,
    read_shown_candles,
    read_shown_feed,
    read_state_candles,
)
from protocol.proofs.ledger_file import (
    VERSION,
    LedgerFile,
    Section,
    Shown,
    build_state_proof,
    decode_ledger_file,
    verify_ledger_file,
)
from protocol.queries import CandleQuery
from tests.support.feeds import TERMS, begin_round, found_feed, report
from tests.support.ledgers import Ledger

QUERY = CandleQuery(TERMS.name, 2_000, 8)


def make_history(rounds: int = 24) -> Ledger:
    ledger = found_feed(oracles=1)
    for number in range(rounds):
        if number % 5:
            ledger.do(ledger.spare(), report(ledger, {"oracle-0": 1_000 + number * 7 % 50}))
        begin_round(ledger)
    return ledger


LEDGER = make_history()


def make_file(ledger: Ledger, entries: list[tuple[str, bytes]]) -> LedgerFile:
    block, certificate, state = ledger.blocks[-1]
    proof = build_state_proof(state, entries)
    return LedgerFile(VERSION, (), (), (Section(block.header, certificate, (proof,), ()),))


def check(data: bytes) -> Shown:
    return verify_ledger_file(decode_ledger_file(data), trust_genesis(LEDGER.foundation.genesis))


PROOF = encode(make_file(LEDGER, list_candle_entries(LEDGER.state, QUERY)))


@pytest.mark.parametrize("newest_first", [0, 1])
@pytest.mark.parametrize(("duration_ms", "count"), [(1_000, 20), (2_000, 8), (5_000, 3), (12_000, 1)])
def test_what_a_file_shows_is_what_the_ledger_holds(duration_ms, count, newest_first) -> None:
    query = CandleQuery(TERMS.name, duration_ms, count, newest_first)
    shown = check(encode(make_file(LEDGER, list_candle_entries(LEDGER.state, query))))
    found = read_shown_candles(shown.entries, query, shown.time_ms)
    assert found == read_state_candles(LEDGER.state, query)
    assert found
    terms, feed = read_shown_feed(shown.entries, TERMS.name)
    assert (terms, feed) == (LEDGER.state.feed_terms[TERMS.name], LEDGER.state.feeds[TERMS.name])


@given(st.integers(0, len(PROOF) - 1), st.integers(1, 255))
def test_no_byte_of_a_file_can_be_changed(at, by) -> None:
    changed = bytearray(PROOF)
    changed[at] ^= by
    with pytest.raises((RemoteError, MalformedMessage)):
        check(bytes(changed))


def test_a_file_that_leaves_out_a_page_is_no_answer() -> None:
    shown = check(encode(make_file(LEDGER, list_feed_entries(TERMS.name))))
    with pytest.raises(InvalidProof, match="leaves out page"):
        read_shown_candles(shown.entries, QUERY, shown.time_ms)


def test_a_file_about_another_feed_is_no_answer() -> None:
    shown = check(PROOF)
    with pytest.raises(InvalidProof, match="no feed"):
        read_shown_candles(shown.entries, replace(QUERY, feed="GOOG"), shown.time_ms)


def test_that_there_is_no_history_is_shown_too() -> None:
    ledger = found_feed(oracles=1)
    data = encode(make_file(ledger, list_candle_entries(ledger.state, QUERY)))
    shown = verify_ledger_file(decode_ledger_file(data), trust_genesis(ledger.foundation.genesis))
    assert read_shown_candles(shown.entries, QUERY, shown.time_ms) == ()


def test_what_the_ledger_does_not_keep_it_does_not_prove() -> None:
    with pytest.raises(NoHistory):
        list_candle_entries(LEDGER.state, replace(QUERY, duration_ms=1_500))
