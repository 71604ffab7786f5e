"""A pass is checked offline: it cannot be forged, stretched, or shown to another app or network."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import encode
from protocol.errors import InvalidProof, RemoteError
from protocol.proofs.pass_file import (
    PassExpired,
    WrongApp,
    decode_pass_file,
    format_token,
    parse_token,
    verify_pass,
    verify_statement,
)
from protocol.signing import sign
from tests.support.apps import APP, DAY, AppWorld

WORLD = AppWorld(check_signatures=True)
USER, OTHER = WORLD.users
HELD = WORLD.buy(USER, periods=2)
FILE = WORLD.make_pass(USER)
DATA = encode(FILE)
TOKEN = format_token(FILE.statement)


def test_a_pass_says_what_is_left_of_its_time_and_how_many_requests_a_period_has() -> None:
    right = verify_pass(decode_pass_file(DATA), WORLD.trusted, APP, HELD.since_ms + DAY.period_ms)
    assert (right.holder, right.since_ms, right.period, right.quota) == (USER.public, HELD.since_ms, 1, DAY.quota)
    assert right.ends_ms == HELD.until_ms


def test_a_pass_ends_by_expiry() -> None:
    verify_pass(FILE, WORLD.trusted, APP, HELD.until_ms - 1)
    with pytest.raises(PassExpired):
        verify_pass(FILE, WORLD.trusted, APP, HELD.until_ms)
    short = WORLD.make_pass(USER, HELD.since_ms + 10)
    assert verify_pass(short, WORLD.trusted, APP, HELD.since_ms + 9).ends_ms == HELD.since_ms + 10
    with pytest.raises(PassExpired):
        verify_pass(short, WORLD.trusted, APP, HELD.since_ms + 10)


def test_its_holder_cannot_stretch_it() -> None:
    stretched = replace(FILE, statement=sign(replace(FILE.statement, until_ms=HELD.until_ms + 1), USER))
    with pytest.raises(InvalidProof, match="bought until"):
        verify_pass(stretched, WORLD.trusted, APP, HELD.since_ms)
    later = replace(FILE, statement=sign(replace(FILE.statement, since_ms=HELD.since_ms + 1), USER))
    with pytest.raises(InvalidProof, match="does not show"):
        verify_pass(later, WORLD.trusted, APP, HELD.since_ms + 1)


def test_nobody_else_can_make_one_of_what_the_ledger_shows_to_all() -> None:
    with pytest.raises(InvalidProof, match="not signed by its holder"):
        verify_pass(replace(FILE, statement=sign(FILE.statement, OTHER)), WORLD.trusted, APP, HELD.since_ms)
    own = sign(replace(FILE.statement, holder=OTHER.public), OTHER)
    with pytest.raises(InvalidProof, match="does not show"):
        verify_pass(replace(FILE, statement=own), WORLD.trusted, APP, HELD.since_ms)


def test_it_is_for_one_app_and_one_network() -> None:
    with pytest.raises(WrongApp, match="not to 'prose'"):
        verify_pass(FILE, WORLD.trusted, "prose", HELD.since_ms)
    with pytest.raises(RemoteError, match="chain"):
        verify_pass(FILE, replace(WORLD.trusted, chain=bytes(8)), APP, HELD.since_ms)
    with pytest.raises(RemoteError):
        verify_pass(replace(FILE, ledger=b""), WORLD.trusted, APP, HELD.since_ms)


@given(at=st.integers(0, len(DATA) - 1), flip=st.integers(1, 255))
def test_every_byte_of_it_is_under_a_hash_or_a_signature(at: int, flip: int) -> None:
    spoilt = DATA[:at] + bytes([DATA[at] ^ flip]) + DATA[at + 1 :]

    def check() -> None:
        verify_pass(decode_pass_file(spoilt), WORLD.trusted, APP, HELD.since_ms)

    with pytest.raises(RemoteError):
        check()


def test_who_has_the_ledger_needs_the_token_alone() -> None:
    statement = parse_token(TOKEN)
    assert statement == FILE.statement
    right = verify_statement(statement, HELD, WORLD.trusted.chain, APP, HELD.since_ms)
    assert right == verify_pass(FILE, WORLD.trusted, APP, HELD.since_ms)
    with pytest.raises(InvalidProof, match="does not show"):
        verify_statement(statement, None, WORLD.trusted.chain, APP, HELD.since_ms)


@given(at=st.integers(0, len(TOKEN) - 1), letter=st.characters(codec="utf-8"))
def test_no_letter_of_the_token_can_be_another(at: int, letter: str) -> None:
    spoilt = TOKEN[:at] + letter + TOKEN[at + 1 :]

    def check() -> None:
        verify_statement(parse_token(spoilt), HELD, WORLD.trusted.chain, APP, HELD.since_ms)

    if spoilt != TOKEN:
        with pytest.raises(RemoteError):
            check()
