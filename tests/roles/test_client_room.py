"""What a client asks at once, seen through `handle` alone: the rest waits, gets its turn, or is refused."""

from protocol.jobs import Mode
from protocol.messages import Requests
from roles.congestion import ENDS_MIN, ROOM_FIRST, ROUND_MS
from roles.role import Publish, Record
from tests.roles.test_client_role import Story, find_all, get_outcome

STEP = 1_000  # vouchers with one worker: no limit here


def count_sent(effects) -> int:
    sent = (item.message for item in find_all(effects, Publish))
    return sum(len(message.items) for message in sent if isinstance(message, Requests))


def fill(story: Story) -> list:
    """As many requests as there is room for; what was done for each."""
    sent = [story.ask(f"f{number}", mode=Mode.BATCH) for number in range(ROOM_FIRST)]
    assert all(count_sent(effects) == 1 for effects in sent)
    return sent


def test_what_has_no_room_waits_and_goes_out_when_an_answer_makes_some():
    story = Story(STEP)
    sent = fill(story)
    waiting = story.ask("last", mode=Mode.BATCH)
    assert count_sent(waiting) == 0
    assert get_outcome(waiting) is None

    _, _, answered = story.answer(sent[0])

    assert count_sent(answered) == 1


def list_asked(effects) -> list[tuple[bytes, bytes]]:
    """Which requests went to which workers."""
    sent = (item.fields for item in find_all(effects, Record) if item.name == "request.sent")
    return [(fields["request_id"], fields["worker"]) for fields in sent]


def refuse_everywhere(story: Story, effects, code: str) -> list[tuple[bytes, bytes]]:
    """Who was asked for what, as all three workers refuse a request in turn."""
    asked = list_asked(effects)
    request_id = asked[0][0]
    for number in (1, 2, 3):
        asked += list_asked(story.refuse(asked[-1][1], request_id, number, code))
    return asked


def test_a_request_that_every_worker_refuses_leaves_its_room_to_the_next():
    story = Story(STEP)
    sent = fill(story)
    assert not list_asked(story.ask("last", mode=Mode.BATCH))

    asked = refuse_everywhere(story, sent[0], "committee")

    assert [each == asked[0][0] for each, _ in asked] == [True, True, True, False]
    assert len({worker for _, worker in asked[:3]}) == 3


def test_workers_that_all_turn_one_away_for_want_of_room_are_given_no_more_before_one_has_answered():
    story = Story(STEP)
    sent = fill(story)
    assert not list_asked(story.ask("last", mode=Mode.BATCH))

    assert len(refuse_everywhere(story, sent[0], "busy")) == 3

    assert count_sent(story.answer(sent[1])[2]) == 1


def test_a_worker_that_has_turned_one_away_is_passed_over_while_others_have_room():
    story = Story(STEP)
    first = story.ask("first", mode=Mode.BATCH)
    [(request_id, full)] = list_asked(first)
    story.refuse(full, request_id, 1, "busy")  # it may have one more

    later = [list_asked(story.ask(f"later {number}", mode=Mode.BATCH)) for number in range(12)]

    assert sum(worker == full for [(_, worker)] in later) == 1


def test_what_would_wait_too_long_is_refused_at_once():
    story = Story(STEP)
    sent = fill(story)
    for number in range(400):
        assert get_outcome(story.ask(f"w{number}", mode=Mode.BATCH, timeout_ms=10_000)) is None
    for effects in sent[: 2 * ENDS_MIN]:
        story.now_ms += ROUND_MS // ENDS_MIN
        story.answer(effects)

    outcome = get_outcome(story.ask("late", mode=Mode.BATCH, timeout_ms=10_000))
    patient = get_outcome(story.ask("patient", mode=Mode.BATCH, timeout_ms=120_000))

    assert outcome is not None
    assert outcome.code == "busy"
    assert patient is None
