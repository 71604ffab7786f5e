"""API keys: what they read like, what they allow, and that no more is ever spent with one than its limits."""

import re
import tempfile
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from protocol.content import format_cid
from roles.config import ConfigError
from roles.gateway import key_book
from roles.gateway.faults import Fault
from roles.gateway.key_book import Hold, KeyBook, NoSuchKey
from roles.gateway.keys import (
    DAY_MS,
    KeyTerms,
    allows,
    compute_hold,
    is_same_key,
    make_key,
    read_key,
    verify_terms,
    verify_usable,
)
from tests.support.gateways import DIGITS_RECORD

NOW_MS = 20_000 * DAY_MS + 5_000
KEY = make_key(b"\1" * 6, b"\2" * 32)


@given(st.binary(min_size=6, max_size=6), st.binary(min_size=32, max_size=32))
def test_a_key_is_read_back_and_its_secret_is_not_in_what_is_kept(key_id, secret):
    key = make_key(key_id, secret)

    assert read_key(key.text) == (key.id, key.digest)
    assert secret.hex() in key.text
    assert key.digest != secret


@given(st.text())
def test_what_is_no_key_is_none(text):
    assert read_key(text) is None
    assert read_key(KEY.text + (text or " ")) is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"label": ""}, "label"),
        ({"label": "a" * 65}, "label"),
        ({"label": 'a"} 1\n'}, "label"),
        ({"limit": 0}, "limit"),
        ({"limit": -1}, "grains"),
        ({"limit": 2**63}, "grains"),
        ({"fee_max": -1}, "grains"),
        ({"window_limit": 1, "window_ms": 999}, "stretch"),
        ({"window_ms": 367 * DAY_MS}, "stretch"),
        ({"models": ("digits",) * 33}, "models"),
    ],
)
def test_terms_that_no_key_may_have_are_refused(change, word):
    with pytest.raises(ValueError, match=word):
        verify_terms(replace(KeyTerms("web", limit=1), **change))


@pytest.mark.parametrize(
    ("models", "is_allowed"),
    [
        ((), True),
        (("pydoc", "digits"), True),
        ((f"digits@{DIGITS_RECORD.version}",), True),
        ((format_cid(DIGITS_RECORD.digest),), True),
        (("pydoc", "digits@7"), False),
    ],
)
def test_a_key_is_for_the_models_it_names(models, is_allowed):
    assert allows(KeyTerms("web", limit=1, models=models), DIGITS_RECORD) is is_allowed


@pytest.fixture
def book(tmp_path):
    with closing(KeyBook(tmp_path, is_synced=False)) as opened:
        yield opened


def add(book: KeyBook, **terms) -> None:
    book.add(KEY, KeyTerms("web", **terms), NOW_MS)


def reserve(book: KeyBook, number: int, wanted: int, now_ms: int = NOW_MS) -> Hold:
    return book.reserve(KEY.id, bytes([number]) * 16, wanted, now_ms)[0]


def refuse(book: KeyBook, now_ms: int = NOW_MS) -> Fault:
    with pytest.raises(Fault) as caught:
        reserve(book, 99, 1, now_ms)
    return caught.value


def test_what_is_left_is_reserved_and_the_next_is_told_to_wait_then_that_all_is_spent(book):
    add(book, limit=10)
    first = reserve(book, 1, 7)
    second = reserve(book, 2, 7)
    assert (first.amount, second.amount) == (7, 3), "as much as there is"
    assert (refuse(book).status, refuse(book).code) == (429, "key_busy")

    book.settle(first, 7)
    book.settle(second, 1)

    assert reserve(book, 3, 7).amount == 2
    book.settle(Hold(b"\3" * 16, KEY.id, 2), 2)
    assert (refuse(book).status, refuse(book).code) == (402, "key_limit_reached")


def test_a_window_gives_anew_and_what_is_settled_later_counts_where_it_was_reserved(book):
    add(book, window_limit=10, window_ms=60_000)
    late, rest = reserve(book, 1, 4), reserve(book, 2, 6)
    book.settle(rest, 6)
    book.settle(late, 4)

    full = refuse(book)
    assert (full.status, full.code, full.retry_s) == (429, "key_window_reached", 55)
    assert full.headers["Retry-After"] == "55"
    assert reserve(book, 3, 100, NOW_MS + 55_000).amount == 10


def test_what_is_reserved_in_one_window_does_not_weigh_on_the_next(book):
    add(book, window_limit=10, window_ms=1_000)
    old = reserve(book, 1, 10)

    assert reserve(book, 2, 10, NOW_MS + 1_000).amount == 10
    book.settle(old, 10)

    state = book.find(KEY.id, NOW_MS + 1_000)
    assert (state.spent, state.window_spent, state.window_held) == (10, 0, 10)


def test_a_request_may_cost_no_more_than_the_key_says(book):
    add(book, limit=100, fee_max=5)

    assert reserve(book, 1, 50).amount == 5
    assert reserve(book, 2, 3).amount == 3


def test_requests_that_wait_to_be_settled_are_bounded(book, monkeypatch):
    monkeypatch.setattr(key_book, "HOLDS_MAX", 2)
    add(book, limit=100)
    reserve(book, 1, 1)
    reserve(book, 2, 1)

    assert (refuse(book).status, refuse(book).code) == (429, "capacity")
    assert book.find(KEY.id, NOW_MS).requests == 2


def test_a_key_counts_until_it_is_revoked_or_has_expired(book):
    add(book, limit=10, expires_ms=NOW_MS + 10)
    state = book.find(KEY.id, NOW_MS)
    verify_usable(state, NOW_MS + 9)
    for gone, now_ms, code in (
        (state, NOW_MS + 10, "key_expired"),
        (book.revoke("web", NOW_MS + 1), NOW_MS + 1, "key_revoked"),
    ):
        with pytest.raises(Fault) as caught:
            verify_usable(gone, now_ms)
        assert (caught.value.status, caught.value.code) == (401, code)
        assert caught.value.headers["WWW-Authenticate"] == "Bearer"
    assert book.revoke(KEY.id, NOW_MS + 5).revoked_ms == NOW_MS + 1, "once"


def test_a_secret_is_compared_with_that_of_its_key_alone(book):
    add(book, limit=10)
    state = book.find(KEY.id, NOW_MS)

    assert is_same_key(state, KEY.digest)
    assert not is_same_key(state, bytes(32))
    assert not is_same_key(None, bytes(32)), "what stands in for a key that is not there is none"


def test_labels_are_taken_once_keys_are_bounded_and_unknown_ones_are_said_to_be(book, monkeypatch):
    add(book, limit=10)
    with pytest.raises(ConfigError, match="there is a key 'web'"):
        book.add(make_key(b"\3" * 6, b"\4" * 32), KeyTerms("web", limit=1), NOW_MS)
    with pytest.raises(NoSuchKey):
        book.revoke("cats", NOW_MS)
    monkeypatch.setattr(key_book, "KEYS_MAX", 1)
    with pytest.raises(ConfigError, match="there are 1 keys"):
        book.add(make_key(b"\3" * 6, b"\4" * 32), KeyTerms("ci", limit=1), NOW_MS)
    assert [state.terms.label for state in book.list_all(NOW_MS)] == ["web"]


def test_a_file_that_is_no_book_is_left_as_it_is(tmp_path):
    path = tmp_path / key_book.BOOK_NAME
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match="cannot be used"):
        KeyBook(tmp_path)
    assert path.read_bytes() == b"no database at all" * 100


def test_a_book_of_another_program_or_version_is_left_as_it_is(tmp_path):
    with closing(KeyBook(tmp_path)) as book:
        book._writer.execute("PRAGMA user_version = 9")
    with pytest.raises(ConfigError, match="can read"):
        KeyBook(tmp_path)


def test_a_book_is_for_its_owner_alone_and_holds_no_secret(tmp_path):
    with closing(KeyBook(tmp_path)) as book:
        add(book, limit=10)
        path = tmp_path / key_book.BOOK_NAME
        assert path.stat().st_mode & 0o077 == 0
        written = b"".join(each.read_bytes() for each in tmp_path.iterdir())
        assert KEY.digest in written
        assert b"\2" * 32 not in written
        assert KEY.text.encode() not in written


class Keys(RuleBasedStateMachine):
    """Two keys, requests that end in every way, commands beside the gateway, kills: what is written never lies."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.now_ms = NOW_MS
        self.next = 0
        self.owed: dict[bytes, int] = {}  # what each request has really cost, whatever the book thinks
        self.kept: dict[bytes, str] = {}
        self.book = KeyBook(Path(self.folder.name), is_synced=False)

    @initialize(limits=st.tuples(st.integers(1, 60), st.integers(1, 30)), fee_max=st.integers(0, 20))
    def begin(self, limits, fee_max):
        self.terms = {
            "a": KeyTerms("a", limit=limits[0], window_limit=limits[1], window_ms=1_000, fee_max=fee_max),
            "b": KeyTerms("b", limit=limits[1]),
        }
        self.keys = {name: make_key(name.encode() * 6, bytes(32)) for name in self.terms}
        for name, terms in self.terms.items():
            self.book.add(self.keys[name], terms, self.now_ms)

    @rule(target=holds, name=st.sampled_from("ab"), wanted=st.integers(1, 40))
    def reserve(self, name, wanted):
        self.next += 1
        before = self.book.find(self.keys[name].id, self.now_ms)
        reserve = partial(self.book.reserve, self.keys[name].id, self.next.to_bytes(16, "big"), wanted, self.now_ms)
        try:
            amount = compute_hold(before, wanted, self.now_ms)
        except Fault as fault:
            with pytest.raises(Fault, match=re.escape(fault.reason)):
                reserve()
            return multiple()
        found, _ = reserve()
        assert found.amount == amount
        assert 1 <= found.amount <= wanted
        self.kept[found.id] = name
        self.owed[found.id] = 0
        return found

    @rule(hold=holds, share=st.floats(0, 1))
    def spend(self, hold, share):
        """Its client gives out vouchers, up to what was reserved; those of before are given out already."""
        self.owed[hold.id] = max(self.owed[hold.id], round(share * hold.amount))

    @rule(hold=holds)
    def note(self, hold):
        self.book.note(hold, self.owed[hold.id])

    @rule(hold=consumes(holds), is_twice=st.booleans())
    def settle(self, hold, is_twice):
        self.book.settle(hold, self.owed[hold.id])
        if is_twice:
            self.book.settle(hold, hold.amount)

    @rule(wait_ms=st.sampled_from([1, 999, 1_000, 5_000]))
    def wait(self, wait_ms):
        self.now_ms += wait_ms

    @rule(name=st.sampled_from("ab"))
    def look_from_a_command(self, name):
        with closing(KeyBook(Path(self.folder.name), is_synced=False)) as other:
            assert other.find(self.keys[name].id, self.now_ms) == self.book.find(self.keys[name].id, self.now_ms)

    @rule()
    def kill(self):
        """Nothing is tidied up: another process finds what was written."""
        old, self.book = self.book, KeyBook(Path(self.folder.name), is_synced=False)
        old.close()

    @invariant()
    def limits_hold(self):
        if not self.kept and not self.next:
            return
        for name, terms in self.terms.items():
            state = self.book.find(self.keys[name].id, self.now_ms)
            cost = sum(self.owed[each] for each, of in self.kept.items() if of == name)
            assert cost <= state.spent + state.held <= terms.limit
            assert min(state.spent, state.held, state.window_spent, state.window_held) >= 0
            if terms.window_limit:
                assert state.window_spent + state.window_held <= terms.window_limit
            held = sum(hold.amount for hold in self.book.list_holds() if hold.key == self.keys[name].id)
            assert held == state.held

    def teardown(self):
        self.book.close()
        self.folder.cleanup()


TestKeys = Keys.TestCase
TestKeys.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
