"""The keeper's book: whom to dial and when. Pure, so time is a number here."""

import random

from hypothesis import given
from hypothesis import strategies as st

from p2p.keeper import (
    ADDRESSES_MAX,
    ALL_UP_TO,
    BOOK_MAX,
    DIALS_MAX,
    FORGET_S,
    HURRY_S,
    KNOWN_S,
    OUTBOUND_MIN,
    PAUSE_S_MAX,
    PEERS_SOUGHT_MAX,
    PEERS_WANTED,
    REMEMBERED_MAX,
    SEEK_DIALS,
    SEEK_S,
    STABLE_S,
    AddressBook,
)

ME = bytes(32)
PEER = bytes([9]) * 32
ADDRESS = "/ip4/127.0.0.9/tcp/4001"
NOBODY: frozenset[bytes] = frozenset()


def make_book(peers: int = 0) -> AddressBook:
    book = AddressBook(ME, random.Random(1))
    for i in range(peers):
        book.learn(i.to_bytes(32, "big")[::-1][:31] + b"\1", (f"/ip4/127.0.{i // 256}.{i % 256}/tcp/1",), 0.0)
    return book


def test_a_peer_is_dialled_as_soon_as_its_address_is_known() -> None:
    book = make_book()
    assert book.choose(NOBODY, NOBODY, 0.0) == ([], float("inf"))
    book.learn(PEER, (ADDRESS,), 5.0)
    assert book.choose(NOBODY, NOBODY, 5.0)[0] == [PEER]
    assert book.choose(frozenset((PEER,)), NOBODY, 5.0) == ([], float("inf"))
    assert book.choose(NOBODY, frozenset((PEER,)), 5.0) == ([], float("inf"))


def test_of_two_peers_that_know_each_other_one_dials_first() -> None:
    mine, theirs = make_book(), AddressBook(PEER, random.Random(2))
    mine.learn(PEER, (ADDRESS,), 0.0)
    theirs.learn(ME, (ADDRESS,), 0.0)
    assert mine.choose(NOBODY, NOBODY, 0.0)[0] == [PEER]
    now, later_s = theirs.choose(NOBODY, NOBODY, 0.0)
    assert now == []
    assert 0 < later_s < 1


def test_we_do_not_dial_ourselves_nor_what_is_no_address() -> None:
    book = make_book()
    book.learn(ME, (ADDRESS,), 0.0)
    book.learn(PEER, ("", "127.0.0.1:1", "/dns4/example/tcp/1", "/ip4/127.0.0.1/udp/1", "/ip4/1.2.3/tcp/1"), 0.0)
    assert book.entries == {}


@given(st.integers(1, 40))
def test_each_failure_waits_longer_up_to_a_limit(failures: int) -> None:
    book = make_book()
    book.learn(PEER, (ADDRESS,), 0.0)
    for _ in range(failures):
        book.note_failed(PEER, 100.0)
    wait = book.entries[PEER].due_s - 100.0
    expected = min(0.25 * 2**failures, PAUSE_S_MAX)
    assert 0.5 * expected <= wait <= 1.5 * expected


def test_a_lost_peer_is_dialled_again_at_once_and_one_that_keeps_hanging_up_later_and_later() -> None:
    book = make_book()
    book.learn(PEER, (ADDRESS,), 0.0)
    book.note_up(PEER, 0.0)
    book.note_down(PEER, STABLE_S)
    assert book.entries[PEER].due_s < STABLE_S + 1
    waits = []
    for now_s in (10.0, 20.0, 30.0, 40.0, 50.0):
        book.note_up(PEER, now_s)
        book.note_down(PEER, now_s + 0.01)
        waits.append(book.entries[PEER].due_s - now_s)
    assert waits[-1] > 5 * waits[0]


def test_a_peer_that_stays_silent_is_forgotten_and_can_be_learnt_again() -> None:
    book = make_book()
    book.learn(PEER, (ADDRESS,), 0.0)
    book.note_failed(PEER, FORGET_S + 1)
    assert PEER not in book.entries
    book.learn(PEER, (ADDRESS,), FORGET_S + 2)
    assert PEER in book.entries


def test_a_new_address_is_tried_first_and_at_once() -> None:
    book = make_book()
    book.learn(PEER, (ADDRESS,), 0.0)
    for _ in range(9):
        book.note_failed(PEER, 1.0)
    other = "/ip4/127.0.0.10/tcp/4001"
    book.learn(PEER, (other,), 2.0)
    assert book.get_addresses(PEER) == (other, ADDRESS)
    assert book.choose(NOBODY, NOBODY, 2.0)[0] == [PEER]
    book.learn(PEER, tuple(f"/ip4/127.0.1.{i}/tcp/1" for i in range(50)), 3.0)
    assert len(book.get_addresses(PEER)) == ADDRESSES_MAX


def test_a_small_book_is_dialled_whole_a_few_at_a_time() -> None:
    book = make_book(ALL_UP_TO)
    busy: frozenset[bytes] = NOBODY
    connected: frozenset[bytes] = NOBODY
    while (now := book.choose(connected, busy, 1.0)[0]) != []:
        assert len(now) <= DIALS_MAX
        connected |= frozenset(now)
    assert len(connected) == ALL_UP_TO


def test_of_a_large_book_some_are_dialled() -> None:
    book = make_book(ALL_UP_TO + 1)
    connected: frozenset[bytes] = NOBODY
    while (now := book.choose(connected, NOBODY, 1.0)[0]) != []:
        connected |= frozenset(now)
    assert len(connected) == PEERS_WANTED


def test_the_book_is_bounded_and_the_longest_silent_go_first() -> None:
    book = make_book(BOOK_MAX)
    first, second = list(book.entries)[:2]
    book.note_up(first, 50.0)
    book.learn(PEER, (ADDRESS,), 60.0)
    assert len(book.entries) == BOOK_MAX
    assert first in book.entries
    assert second not in book.entries


@given(st.lists(st.tuples(st.sampled_from(["up", "down", "failed", "hurry", "learn"]), st.integers(0, 5)), max_size=60))
def test_looking_again_is_never_due_in_the_past(steps: list[tuple[str, int]]) -> None:
    book = make_book(3)
    now_s = 0.0
    connected: set[bytes] = set()
    for what, wait in steps:
        now_s += wait / 4
        peer = sorted(book.entries)[wait % len(book.entries)] if book.entries else PEER
        match what:
            case "up":
                book.note_up(peer, now_s)
                connected.add(peer)
            case "down":
                book.note_down(peer, now_s)
                connected.discard(peer)
            case "failed":
                book.note_failed(peer, now_s)
            case "hurry":
                book.hurry("t", now_s)
            case _:
                book.learn(PEER, (ADDRESS,), now_s)
        chosen, later_s = book.choose(frozenset(connected), NOBODY, now_s)
        assert later_s > now_s
        assert not connected & set(chosen)


def test_with_peers_enough_but_all_of_their_choosing_we_still_choose_some_ourselves() -> None:
    book = make_book(200)
    inbound = frozenset(bytes([1]) * 31 + bytes([number]) for number in range(PEERS_WANTED))
    assert book.choose(inbound, NOBODY, 1.0, PEERS_WANTED) == ([], float("inf"))
    assert len(book.choose(inbound, NOBODY, 1.0, 0)[0]) == OUTBOUND_MIN
    assert len(book.choose(inbound, NOBODY, 1.0, OUTBOUND_MIN - 1)[0]) == 1


def test_a_publish_nobody_heard_does_not_wait_for_redials_that_are_put_off() -> None:
    book = make_book()
    book.learn(PEER, (ADDRESS,), 0.0)
    for _ in range(9):
        book.note_failed(PEER, 1.0)
    assert book.choose(NOBODY, NOBODY, 2.0)[0] == []
    assert book.hurry("t", 2.0)
    assert book.choose(NOBODY, NOBODY, 2.0)[0] == [PEER]


def test_a_direct_peer_comes_before_all_others_that_are_due() -> None:
    book = make_book(200)
    direct = b"\xff" * 32
    book.always = frozenset((direct,))
    book.learn(direct, (ADDRESS,), 0.5)
    enough = frozenset(sorted(book.entries)[:PEERS_WANTED])
    assert book.choose(enough, NOBODY, 1.0)[0] == [direct]


def test_who_needs_one_more_peer_dials_one_and_no_peer_before_it_is_due() -> None:
    book = make_book(200)
    connected = frozenset(sorted(book.entries)[:PEERS_WANTED])
    book.wants_more = True
    assert len(book.choose(connected, NOBODY, 1.0)[0]) == 1
    assert book.choose(connected, NOBODY, 1.0) == ([], float("inf")), "that was one"
    for peer in book.entries:
        book.note_failed(peer, 1.0)
    book.wants_more = True
    assert book.choose(connected, NOBODY, 1.0)[0] == []
    assert len(book.choose(connected, NOBODY, 2.0)[0]) == 1
    book.wants_more = True
    many = frozenset(sorted(book.entries)[:PEERS_SOUGHT_MAX])
    assert book.choose(many, NOBODY, 2.0) == ([], float("inf"))


def test_a_publish_nobody_heard_has_peers_of_that_topic_dialled_first_and_not_for_ever() -> None:
    book = make_book(200)
    listener = sorted(book.entries)[150]
    book.note_topics(listener, ("t",))
    connected = frozenset(sorted(book.entries)[:PEERS_WANTED])
    assert book.choose(connected, NOBODY, 1.0) == ([], float("inf"))
    assert book.hurry("t", 1.0)
    assert not book.hurry("t", 1.0 + HURRY_S / 2)
    chosen = book.choose(connected, NOBODY, 1.0)[0]
    assert chosen[0] == listener
    assert len(chosen) == SEEK_DIALS
    assert book.choose(connected, NOBODY, 1.0 + SEEK_S) == ([], float("inf"))
    assert book.hurry("t", 20.0)
    many = frozenset(sorted(book.entries)[:PEERS_SOUGHT_MAX])
    assert book.choose(many, NOBODY, 20.0) == ([], float("inf"))


def test_what_was_reached_is_remembered_known_and_sought_by_topic_in_the_next_process() -> None:
    book = make_book(REMEMBERED_MAX + 10)
    for number, peer in enumerate(sorted(book.entries)):
        book.note_reached(peer, 5.0)
        book.note_up(peer, float(number))
        assert not book.is_known(peer, 5.0)
        assert book.is_known(peer, 5.0 + KNOWN_S)
    latest = sorted(book.entries)[-1]
    book.note_topics(latest, ("t",))
    book.note_topics(latest, ())

    after = make_book()
    after.restore(book.remember(), 1_000.0)

    assert len(after.entries) == REMEMBERED_MAX
    assert after.is_known(latest, 1_000.0)
    assert after.entries[latest].topics == ("t",)
    assert after.get_addresses(latest) == book.get_addresses(latest)


def test_only_peers_that_were_found_where_they_should_be_are_remembered() -> None:
    book = make_book(5)
    found = sorted(book.entries)[3]
    book.note_reached(found, 5.0)
    assert [bytes.fromhex(fields["node"]) for fields in book.remember()] == [found]


def test_two_nodes_that_lost_the_same_peer_do_not_come_back_at_the_same_moment() -> None:
    waits = set()
    for seed in range(20):
        book = AddressBook(ME, random.Random(seed))
        book.learn(PEER, (ADDRESS,), 0.0)
        book.note_failed(PEER, 100.0)
        waits.add(book.entries[PEER].due_s)
    assert len(waits) == 20
