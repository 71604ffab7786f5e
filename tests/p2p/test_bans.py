"""Bans, pure: faults add up and fade, bans end, keys of one place share their past, everything is bounded."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.bans import (
    BAN_MS_MAX,
    BAN_MS_MIN,
    BANNED_AT,
    BY_HAND_MS_MAX,
    FADED_MS,
    FAULT,
    HALF_LIFE_MS,
    INHERIT_MS_MAX,
    PLACE_STRIKES,
    STRIKE_MS,
    VIOLATION,
    Allow,
    Arrived,
    Ban,
    Bans,
    Blamed,
    Botched,
    Forget,
    HangUp,
    Save,
    compute_ban_ms,
    name_subject,
)
from p2p.doors import Doors, HostLimits

NOW = 1_800_000_000_000
NEEDED = int(BANNED_AT / FAULT)
HERE, NEXT_DOOR, FAR = "198.51.100.7", "198.51.100.8", "203.0.113.9"


def make_bans(*trusted: str) -> Bans:
    return Bans(Doors(HostLimits(trusted=trusted)))


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def offend(bans: Bans, number: int, now_ms: int, address: str = HERE) -> None:
    """A key comes from an address and misbehaves until it is banned."""
    bans.handle(Arrived(key(number), address), now_ms)
    for _ in range(NEEDED):
        bans.handle(Blamed(key(number), "junk"), now_ms)
    assert bans.is_banned(key(number), now_ms)


def test_faults_add_up_fade_and_end_in_a_ban_that_ends_by_itself() -> None:
    bans = make_bans()
    effects = [bans.handle(Blamed(key(1), "junk"), NOW) for _ in range(NEEDED)]
    assert effects == [[]] * (NEEDED - 1) + [[HangUp(key(1)), Save()]]
    assert bans.is_banned(key(1), NOW + BAN_MS_MIN - 1)
    assert not bans.is_banned(key(1), NOW + BAN_MS_MIN)

    bans.handle(Blamed(key(2), "junk"), NOW)
    assert bans.get_faults(key(2), NOW + HALF_LIFE_MS) == pytest.approx(FAULT / 2)


def test_who_does_it_again_waits_longer_and_peace_is_rewarded() -> None:
    bans = make_bans()
    offend(bans, 1, NOW)
    again_ms = NOW + BAN_MS_MIN
    offend(bans, 1, again_ms)
    assert bans.list_sentences(again_ms)[0][1].until_ms == again_ms + compute_ban_ms(2)
    peaceful_ms = again_ms + compute_ban_ms(2) + 2 * STRIKE_MS
    offend(bans, 1, peaceful_ms)
    assert bans.list_sentences(peaceful_ms)[0][1].until_ms == peaceful_ms + BAN_MS_MIN


def test_a_new_key_from_the_same_place_inherits_the_ban_for_a_while_and_known_peers_there_do_not() -> None:
    bans = make_bans()
    offend(bans, 1, NOW)
    assert bans.check_peer(key(2), HERE, False, NOW) == "inherited"
    assert bans.check_peer(key(2), HERE, True, NOW) == ""
    assert bans.check_peer(key(2), NEXT_DOOR, False, NOW) == ""
    assert bans.check_address(HERE, NOW) == "", "others there may still say who they are"
    assert bans.check_peer(key(2), HERE, False, NOW + INHERIT_MS_MAX) == ""


def test_new_keys_wait_ten_minutes_at_most_however_long_the_banned_one_does() -> None:
    bans = make_bans()
    offend(bans, 1, NOW)
    again_ms = NOW + BAN_MS_MIN
    offend(bans, 1, again_ms, FAR)
    third_ms = again_ms + compute_ban_ms(2)
    offend(bans, 1, third_ms, NEXT_DOOR)
    ends_ms = third_ms + INHERIT_MS_MAX
    assert compute_ban_ms(3) > INHERIT_MS_MAX
    assert bans.check_peer(key(2), NEXT_DOOR, False, ends_ms - 1) == "inherited"
    assert bans.check_peer(key(2), NEXT_DOOR, False, ends_ms) == ""
    assert bans.is_banned(key(1), ends_ms)


def test_a_milder_ban_at_a_place_does_not_shorten_the_one_it_has() -> None:
    bans = make_bans()
    bans.handle(Ban(HERE, 9 * INHERIT_MS_MAX), NOW)
    bans.handle(Arrived(key(1), HERE), NOW)
    for _ in range(NEEDED):
        bans.handle(Blamed(key(1), "junk"), NOW)
    assert dict(bans.list_sentences(NOW))[name_subject(HERE)].until_ms == NOW + 9 * INHERIT_MS_MAX


def test_a_clock_that_went_back_makes_no_ban_longer_than_the_operator_could() -> None:
    before, after = make_bans(), make_bans()
    before.handle(Ban(key(1), BY_HAND_MS_MAX), NOW)
    long_ago_ms = NOW - 10 * BY_HAND_MS_MAX
    after.restore(before.to_json(NOW), long_ago_ms)
    assert after.is_banned(key(1), long_ago_ms)
    assert not after.is_banned(key(1), long_ago_ms + BY_HAND_MS_MAX)


def test_three_violations_are_a_ban_and_two_are_not() -> None:
    bans = make_bans()
    effects = [bans.handle(Blamed(key(1), "no frame", VIOLATION), NOW) for _ in range(3)]
    assert [bool(each) for each in effects] == [False, False, True]


def test_keys_of_one_place_share_their_repetitions_and_in_the_end_the_place_is_closed() -> None:
    bans = make_bans()
    now_ms = NOW
    for strike in range(1, PLACE_STRIKES + 1):
        assert bans.check_address(HERE, now_ms) == ""
        offend(bans, strike, now_ms)
        assert dict(bans.list_sentences(now_ms))[key(strike)].strikes == strike
        last_ms, now_ms = now_ms, now_ms + min(compute_ban_ms(strike), INHERIT_MS_MAX)
    assert bans.check_address(HERE, last_ms) == "banned"
    assert bans.check_peer(key(99), HERE, True, last_ms) == "banned"
    assert bans.check_address(FAR, last_ms) == ""


def test_at_a_trusted_place_each_key_answers_for_itself() -> None:
    bans = make_bans("198.51.100.0/24")
    for number in range(2 * PLACE_STRIKES):
        offend(bans, number, NOW)
    assert bans.check_peer(key(99), HERE, False, NOW) == ""
    assert bans.check_address(HERE, NOW) == ""


def test_a_home_with_ipv6_is_one_place() -> None:
    bans = make_bans()
    offend(bans, 1, NOW, "2001:db8::1")
    assert bans.check_peer(key(2), "2001:db8::ffff", False, NOW) == "inherited"
    assert bans.check_peer(key(2), "2001:db8:0:1::1", False, NOW) == ""


def test_the_operators_word_stands_over_faults() -> None:
    bans = make_bans()
    assert bans.handle(Allow(key(1)), NOW) == [Save()]
    for _ in range(2 * NEEDED):
        assert bans.handle(Blamed(key(1), "junk"), NOW) == []
    assert bans.handle(Ban(key(1), 5_000), NOW) == [HangUp(key(1)), Save()]
    assert bans.is_banned(key(1), NOW + 4_999)
    assert not bans.is_allowed(key(1))

    bans.handle(Ban("198.51.100.0/24", 5_000), NOW)
    assert bans.check_address(HERE, NOW) == "banned"
    bans.handle(Allow(HERE), NOW)
    assert (bans.check_address(HERE, NOW), bans.check_address(NEXT_DOOR, NOW)) == ("", "banned")
    bans.handle(Ban(key(3), 5_000), NOW)
    assert bans.check_peer(key(3), HERE, True, NOW) == "banned", "a word about a key stands over one about its address"
    assert bans.check_peer(key(4), HERE, False, NOW) == ""
    bans.handle(Forget("198.51.100.0/24"), NOW)
    assert bans.check_address(NEXT_DOOR, NOW) == ""


def test_forgiving_a_key_frees_its_place() -> None:
    bans = make_bans()
    offend(bans, 1, NOW)
    bans.handle(Forget(key(1)), NOW)
    assert bans.check_peer(key(1), HERE, False, NOW) == ""
    assert bans.check_peer(key(2), HERE, False, NOW) == ""


def test_ten_handshakes_that_come_to_nothing_shut_their_place_and_no_other_for_a_while_that_grows() -> None:
    bans = make_bans()
    now_ms = NOW
    for minutes in (1, 4, 10):
        for _ in range(NEEDED - 1):
            assert bans.handle(Botched(HERE), now_ms) == []
        assert bans.check_address(HERE, now_ms) == ""
        assert bans.handle(Botched(HERE), now_ms) == [Save()]
        assert bans.check_address(NEXT_DOOR, now_ms) == ""
        ends_ms = now_ms + minutes * 60_000
        assert bans.check_address(HERE, ends_ms - 1) == "banned"
        assert bans.check_address(HERE, ends_ms) == ""
        now_ms = ends_ms


def test_handshakes_that_fail_now_and_then_and_those_at_trusted_or_allowed_places_shut_nobody_out() -> None:
    bans = make_bans("203.0.113.0/24")
    bans.handle(Allow(NEXT_DOOR), NOW)
    for number in range(10 * NEEDED):
        bans.handle(Botched(HERE), NOW + number * HALF_LIFE_MS // 4)
        bans.handle(Botched(NEXT_DOOR), NOW)
        bans.handle(Botched(FAR), NOW)
    assert bans.list_sentences(NOW) == []


SUBJECTS = st.one_of(
    st.integers(0, 5).map(key),
    st.sampled_from([HERE, NEXT_DOOR, FAR, "198.51.100.0/24", "2001:db8::1", "2001:db8::/32"]),
)
EVENTS = st.one_of(
    st.builds(Arrived, st.integers(0, 5).map(key), st.sampled_from([HERE, FAR, "2001:db8::1", ""])),
    st.builds(Blamed, st.integers(0, 5).map(key), st.just("junk"), st.floats(0, 200)),
    st.builds(Botched, st.sampled_from([HERE, FAR, "2001:db8::1", ""])),
    st.builds(Ban, SUBJECTS, st.integers(1, 10**9)),
    st.builds(Allow, SUBJECTS),
    st.builds(Forget, SUBJECTS),
)


@given(st.lists(st.tuples(EVENTS, st.integers(0, 10**6)), max_size=40), st.integers(0, 10**8))
def test_a_restart_changes_no_answer(steps: list[tuple[object, int]], later_ms: int) -> None:
    before, after = make_bans(), make_bans()
    now_ms = NOW
    for event, wait_ms in steps:
        now_ms += wait_ms
        before.handle(event, now_ms)  # type: ignore[arg-type]

    after.restore(json.loads(json.dumps(before.to_json(now_ms))), now_ms)

    for at_ms in (now_ms, now_ms + later_ms):
        assert after.list_sentences(at_ms) == before.list_sentences(at_ms)
        for address in (HERE, NEXT_DOOR, FAR, "2001:db8::2"):
            assert after.check_address(address, at_ms) == before.check_address(address, at_ms)
            for number in range(6):
                answer = before.check_peer(key(number), address, False, at_ms)
                assert after.check_peer(key(number), address, False, at_ms) == answer


@given(st.lists(st.tuples(EVENTS, st.integers(0, 10**6)), max_size=40))
def test_every_ban_for_faults_ends_within_a_day(steps: list[tuple[object, int]]) -> None:
    bans = make_bans()
    now_ms = NOW
    for event, wait_ms in steps:
        now_ms += wait_ms
        if not isinstance(event, Ban):
            bans.handle(event, now_ms)  # type: ignore[arg-type]
    assert bans.list_sentences(now_ms + BAN_MS_MAX) == []


def test_nothing_grows_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("PEERS_MAX", 512), ("BANS_MAX", 512), ("ALLOWED_MAX", 32)):
        monkeypatch.setattr(f"p2p.bans.{name}", most)
    bans = make_bans()
    for number in range(612):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        bans.handle(Arrived(key(number), address), NOW)
        bans.handle(Blamed(key(number), "junk", BANNED_AT), NOW + number)
        bans.handle(Blamed(key(10**6 + number), "junk"), NOW)
        bans.handle(Allow(f"192.0.{number >> 8 & 255}.{number & 255}"), NOW)
    assert len(bans._sentences) <= 512
    assert max(len(bans._faults), len(bans._places)) <= 512
    assert len(bans.list_allowed()) <= 32
    assert bans.is_banned(key(611), NOW + 611), "the latest is kept"


@pytest.mark.parametrize("junk", [{}, {"bans": {"x": 1}, "allowed": []}, {"bans": {"node:00": {}}, "allowed": []}, []])
def test_a_memory_that_is_none_is_refused(junk: object) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        make_bans().restore(junk, NOW)  # type: ignore[arg-type]


def test_a_subject_has_one_spelling() -> None:
    assert name_subject("::ffff:198.51.100.7") == name_subject(HERE) == "198.51.100.7/32"
    for junk in ("example.org", "", "1.2.3.4/40", b"short"):
        with pytest.raises(ValueError):
            name_subject(junk)


def test_faults_that_have_faded_are_forgotten_when_others_come() -> None:
    bans = make_bans()
    for number in range(50):
        bans.handle(Blamed(number.to_bytes(32, "big"), "junk"), NOW)
    assert bans.get_sizes()["faults"] == 50
    bans.handle(Blamed(b"\xff" * 32, "junk"), NOW + FADED_MS)
    assert bans.get_sizes()["faults"] == 1
