"""Pieces of a streamed answer, on both ends: cut anyhow they come to the same, and nothing else is taken for them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.generation import Generation, StepForm, begin_chain, extend_chain, make_inputs
from protocol.jobs import InferenceRequest, Mode, PaidRequest, Voucher
from protocol.messages import PIECE_TOKENS_MAX, Accepted, Piece, Refused
from protocol.tensor import DIGEST_BYTES
from roles.role import Progressed, Send
from roles.streams_in import BrokenStream, begin_stream
from roles.streams_out import CALLED_OFF_MAX, CALLED_OFF_MS, PIECE, PIECES_IN_FLIGHT, StreamsOut

ID = b"i" * 32
FORM = StepForm(vocabulary=96, axis=3, rows=127)
WANTED = Generation(tuple(range(5)), 300)
TOKENS = tuple(number % 96 for number in range(300))
STEPS = b"".join(number.to_bytes(DIGEST_BYTES, "big") for number in range(5 + 300 - 1))
REQUEST = InferenceRequest(
    chain=bytes(8),
    account=b"a" * 32,
    client=b"c" * 32,
    model=b"m" * 32,
    inputs=make_inputs(WANTED),
    inputs_blob=(),
    proof="reexec",
    verifiers=2,
    fee_max=1,
    epoch=0,
    deadline_ms=1,
    nonce=bytes(16),
    mode=Mode.BATCH,
)
ITEM = PaidRequest(REQUEST, Voucher(b"h" * 32, 1, 1, 1, ID, 1, 1, bytes(64)))


def get_steps(start, end):
    first = 0 if start == 0 else start + 4
    return STEPS[DIGEST_BYTES * first : DIGEST_BYTES * (end + 4)]


def progress(start, end, token="job"):
    return Progressed(token, TOKENS[start:end], get_steps(start, end))


def begin(streams, token="job", now_ms=0):
    streams.want(ITEM)
    assert streams.begin(token, ITEM, now_ms)


def get_pieces(effects):
    return [effect.message for effect in effects if isinstance(effect, Send)]


def cut(*ends):
    """Pieces of the answer that end at these tokens."""
    pieces, chain, start = [], begin_chain(ID, 1), 0
    for index, end in enumerate(ends):
        steps = get_steps(start, end)
        chain = extend_chain(chain, 5, start, TOKENS[start:end], steps)
        pieces.append(Piece(ID, 1, index, TOKENS[start:end], steps, chain))
        start = end
    return pieces


def take_all(pieces):
    stream = begin_stream(WANTED, FORM, ID, 1)
    for number, piece in enumerate(pieces):
        stream.take(piece, f"reply-{number}", now_ms=number)
    return stream


@given(st.lists(st.integers(1, 299), unique=True).map(sorted), st.lists(st.integers(0, 3), max_size=40))
def test_however_fast_the_client_is_it_gets_the_whole_in_order_and_no_more_than_so_much_at_a_time(ends, delays):
    streams, stream = StreamsOut(), begin_stream(WANTED, FORM, ID, 1)
    begin(streams)
    unanswered, waits, start = [], [*delays], 0

    def hear(effects):
        for piece in get_pieces(effects):
            assert len(piece.tokens) <= PIECE_TOKENS_MAX
            unanswered.extend(stream.take(piece, "r", 0))
        assert len(unanswered) <= PIECES_IN_FLIGHT

    for end in [*ends, 300]:
        hear(streams.on_progress(progress(start, end)))
        start = end
        for _ in range(waits.pop() if waits else 0):
            if unanswered:
                unanswered.pop()
                hear(streams.on_answer(f"{PIECE}job", Accepted()))
    while unanswered:
        unanswered.pop()
        hear(streams.on_answer(f"{PIECE}job", Accepted()))

    assert tuple(stream.tokens) == TOKENS
    assert bytes(stream.steps) == STEPS


def test_the_running_hash_does_not_depend_on_where_an_answer_is_cut():
    assert cut(1, 2, 300)[-1].chain == cut(300)[-1].chain == cut(150, 300)[-1].chain


def test_a_piece_that_comes_early_waits_for_its_turn_and_is_answered_then():
    first, second, third = cut(10, 20, 30)
    stream = begin_stream(WANTED, FORM, ID, 1)

    assert stream.take(third, "c", 1) == []
    assert stream.take(second, "b", 2) == []
    assert stream.take(first, "a", 3) == ["a", "b", "c"]
    assert tuple(stream.tokens) == TOKENS[:30]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"index": 0}, "piece 0 came where 1 was due"),
        ({"index": 5}, "piece 5 came where 1 was due"),
        ({"chain": bytes(32)}, "running hash"),
        ({"tokens": (*TOKENS[10:19], 95)}, "running hash"),
        ({"tokens": (*TOKENS[10:19], 96)}, "token 96"),
        ({"tokens": ()}, "0 tokens"),
        ({"tokens": TOKENS[10:19]}, "bytes of step digests"),
        ({"steps": get_steps(10, 19)}, "bytes of step digests"),
        ({"steps": get_steps(11, 21)}, "running hash"),
    ],
)
def test_a_piece_that_is_not_the_next_of_its_answer_says_how_many_tokens_are_good(change, reason):
    first, second = cut(10, 20)
    stream = take_all([first])

    with pytest.raises(BrokenStream, match=reason) as caught:
        stream.take(replace(second, **change), "r", 1)

    assert caught.value.good == 10
    assert tuple(stream.tokens) == TOKENS[:10]


def test_nothing_is_taken_after_the_last_token():
    stream = take_all(cut(150, 300))

    with pytest.raises(BrokenStream, match="after the last"):
        stream.take(Piece(ID, 1, 2, (1,), bytes(32), bytes(32)), "r", 1)


def test_a_token_that_ends_the_text_ends_the_stream():
    stopping = begin_stream(replace(WANTED, stop=7), FORM, ID, 1)

    with pytest.raises(BrokenStream, match="goes on after the token that ends"):
        stopping.take(cut(10)[0], "r", 1)


def test_an_answer_that_is_not_what_was_streamed_is_seen():
    stream = take_all(cut(10, 20))

    stream.verify_begins(TOKENS, STEPS)
    with pytest.raises(Exception, match="20 tokens were streamed"):
        stream.verify_begins((*TOKENS[:19], 95, *TOKENS[20:]), STEPS)
    with pytest.raises(Exception, match="20 tokens were streamed"):
        stream.verify_begins(TOKENS, bytes(len(STEPS)))


def test_a_client_that_takes_nothing_is_sent_nothing_more_and_nothing_gathers():
    streams = StreamsOut()
    begin(streams)
    assert len(get_pieces(streams.on_progress(progress(0, 8)))) == 1

    streams.on_answer(f"{PIECE}job", Refused("enough"))

    assert streams.on_progress(progress(8, 300)) == []
    assert streams.on_answer(f"{PIECE}job", Accepted()) == []


def test_what_was_not_asked_to_be_streamed_is_not_and_what_is_over_neither():
    streams = StreamsOut()
    assert not streams.begin("job", ITEM, 0)
    begin(streams)
    streams.end("job")

    assert streams.on_progress(progress(0, 8)) == []


def test_an_account_that_calls_streams_off_is_served_without_pieces_until_a_while_has_passed():
    streams = StreamsOut()
    for number in range(CALLED_OFF_MAX):
        begin(streams, f"job-{number}", number)
        streams.on_progress(progress(0, 8, f"job-{number}"))
        streams.note_called_off(f"job-{number}", number)
        streams.end(f"job-{number}")
    streams.want(ITEM)
    assert not streams.begin("job", ITEM, CALLED_OFF_MAX)

    begin(streams, now_ms=CALLED_OFF_MAX + CALLED_OFF_MS)


def test_a_stream_called_off_before_a_piece_was_sent_counts_for_nothing():
    streams = StreamsOut()
    for number in range(CALLED_OFF_MAX + 1):
        begin(streams, f"job-{number}", number)
        streams.note_called_off(f"job-{number}", number)
