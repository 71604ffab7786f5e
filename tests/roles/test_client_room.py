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


def test_a_request_that_every_worker_refuses_leaves_its_room_to_the_next():
    story = Story(STEP)
    sent = fill(story)
    assert not list_asked(story.ask("last", mode=Mode.BATCH))
    asked = list_asked(sent[0])
    request_id = asked[0][0]

    for number in (1, 2, 3):
        asked += list_asked(story.refuse(asked[-1][1], request_id, number, "busy"))

    assert [each == request_id for each, _ in asked] == [True, True, True, False]
    assert len({worker for _, worker in asked[:3]}) == 3


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
