"""The event log: whole lines, in order, bounded, whatever a crash did to the last one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.eventlog import DROPPED, EventLog, format_event, has_lost, read_events


def test_events_are_read_as_they_were_written(tmp_path):
    log = EventLog(tmp_path, "inference-0")
    log.write(5, "claim.made", {"claim": b"\x0a\xff", "count": 3})
    log.write(6, "lie.told", {"nested": {"digest": b"\x01"}, "list": [b"\x02"]})
    log.close()

    assert list(read_events(tmp_path)) == [
        {"time_ms": 5, "node": "inference-0", "name": "claim.made", "claim": "0aff", "count": 3},
        {"time_ms": 6, "node": "inference-0", "name": "lie.told", "nested": {"digest": "01"}, "list": ["02"]},
    ]


def test_a_field_cannot_pretend_to_be_another_event():
    assert json.loads(format_event(1, "a", "real", {"name": "forged", "node": "b", "time_ms": 9, "text": "x\n{"})) == {
        "time_ms": 1,
        "node": "a",
        "name": "real",
        "text": "x\n{",
    }


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ),
    )
)
def test_whatever_the_fields_hold_a_line_is_one_json_object(fields):
    def spell(value):
        match value:
            case bytes():
                return value.hex()
            case list():
                return [spell(each) for each in value]
            case dict():
                return {key: spell(each) for key, each in value.items()}
        return value

    line = format_event(7, 'a"b', "tick\n", fields)

    head = {"time_ms": 7, "node": 'a"b', "name": "tick\n"}
    assert "\n" not in line
    assert json.loads(line) == {**spell(fields), **head}


def test_a_line_a_killed_process_left_torn_spoils_no_other(tmp_path):
    log = EventLog(tmp_path, "a")
    log.write(1, "one", {})
    log.close()
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"time_ms":2,"node":"a","na')

    log = EventLog(tmp_path, "a")
    log.write(3, "three", {})
    log.close()

    assert [event["name"] for event in read_events(tmp_path)] == ["one", "three"]


def test_the_log_keeps_to_its_bound_and_loses_the_oldest_first(tmp_path):
    log = EventLog(tmp_path, "a", file_bytes_max=1_000)
    for number in range(200):
        log.write(number, "tick", {})
        log.flush()
    log.close()

    events = list(read_events(tmp_path))
    kept = [event["time_ms"] for event in events if event["name"] == "tick"]
    assert kept == list(range(kept[0], 200))
    assert kept[0] > 0
    assert any(event["name"] == DROPPED and event["bytes"] > 500 for event in events)
    assert has_lost(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2_000


def test_a_log_that_has_lost_nothing_does_not_say_so(tmp_path):
    log = EventLog(tmp_path, "a", file_bytes_max=1_000)
    for number in range(30):
        log.write(number, "tick", {})
        log.flush()
    log.close()

    assert [event["time_ms"] for event in read_events(tmp_path)] == list(range(30))
    assert (tmp_path / "events.jsonl.1").exists()
    assert not has_lost(tmp_path)


NO_EVENTS = (b"[" * 60_000, b'{"name":"x"' + b" " * 200_000 + b"}", b"\xff\x00", b"7", b'{"a":1}', b"")


@pytest.mark.parametrize("line", NO_EVENTS)
def test_a_line_that_is_no_event_is_passed_over_whatever_its_length(tmp_path, line):
    one, two = (format_event(number, "a", "tick", {}).encode() for number in (1, 2))
    (tmp_path / "events.jsonl").write_bytes(one + b"\n" + line + b"\n" + two + b"\n")

    assert [event["time_ms"] for event in read_events(tmp_path)] == [1, 2]


def test_one_huge_event_does_not_become_one_huge_line():
    line = format_event(1, "a", "big", {"data": bytes(1_000_000)})

    assert json.loads(line) == {"time_ms": 1, "node": "a", "name": "big", "dropped_bytes": 2_000_047}


def test_nothing_reaches_the_disk_before_the_flush(tmp_path):
    log = EventLog(tmp_path, "a")
    log.write(1, "one", {})
    assert list(read_events(tmp_path)) == []

    log.flush()
    assert len(list(read_events(tmp_path))) == 1
    log.close()


def test_a_full_disk_is_reported(tmp_path):
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    log = EventLog(tmp_path, "a")
    log.write(1, "one", {})

    with pytest.raises(OSError, match="No space left"):
        log.flush()
