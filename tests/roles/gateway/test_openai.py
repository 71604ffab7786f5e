"""OpenAI's own client against the gateway, and what its API may ask of a model that goes on with a text."""

import json

import openai
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from protocol.content import compute_digest, format_cid
from roles.gateway.faults import Fault
from roles.gateway.openai import read_document, read_text_request
from tests.support.gateways import FakeAsker, serving

CID = format_cid(compute_digest(b"a receipt"))
CHAT = [{"role": "system", "content": "Go on."}, {"role": "user", "content": [{"type": "text", "text": "The "}]}]


def run(folder, asker, call):
    """`call` gets OpenAI's client, in a thread as it waits."""
    kept = []

    def call_with_client(url):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20) as client:
            return call(client)

    async def main():
        async with serving(asker, folder) as served:
            kept.append(await trio.to_thread.run_sync(call_with_client, served.url))
            while served.desk.under_way:  # the client has its last word a moment before the call is over here
                await trio.sleep(0.005)
            assert served.errors == []

    trio.run(main)
    return kept[0]


def test_models_are_listed_with_their_limits_and_others_are_not_found(tmp_path):
    def call(client):
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("digits")  # it makes no text
        assert caught.value.code == "model_not_found"
        return list(client.models.list()), client.models.retrieve("pydoc")

    listed, model = run(tmp_path, FakeAsker(), call)

    assert [item.id for item in listed] == ["pydoc"]
    assert listed == [model]
    assert (model.prompt_tokens_max, model.completion_tokens_max) == (512, 512)
    assert "é" not in model.characters


def test_a_text_is_gone_on_with_and_its_receipt_named(tmp_path):
    asker = FakeAsker(pieces=("one ", "two."))

    def call(client):
        return client.completions.with_raw_response.create(
            model="pydoc", prompt="The ", max_tokens=9, temperature=0, seed=5, stop=".",
            extra_headers={"X-Verify": "spot", "X-Max-Fee": "99"},
        )  # fmt: skip

    raw = run(tmp_path, asker, call)
    answer = raw.parse()

    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("one two", "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 8, 12)
    assert answer.x_receipt["receipt_cid"] == raw.headers["x-receipt-cid"] == CID
    assert answer._request_id == "04" * 32
    (asked,) = asker.asked
    assert {name: asked[name] for name in ("text", "max_tokens", "temperature", "seed", "stop", "mode", "max_fee")} == {
        "text": "The ", "max_tokens": 9, "temperature": 0, "seed": 5, "stop": ".", "mode": "batch", "max_fee": 99,
    }  # fmt: skip


def test_a_conversation_is_one_text(tmp_path):
    asker = FakeAsker(pieces=("one",))

    answer = run(tmp_path, asker, lambda client: client.chat.completions.create(model="pydoc", messages=CHAT))

    message = answer.choices[0].message
    assert (message.role, message.content, answer.choices[0].finish_reason) == ("assistant", "one", "length")
    assert asker.asked[0]["text"] == "Go on.\nThe "
    assert (asker.asked[0]["max_tokens"], asker.asked[0]["temperature"]) == (100, 1)


def test_texts_are_streamed_with_the_receipt_in_the_last_piece(tmp_path):
    def call(client):
        options = {"model": "pydoc", "stream": True, "stop": "."}
        chat = list(client.chat.completions.create(messages=CHAT, stream_options={"include_usage": True}, **options))
        return chat, list(client.completions.create(prompt="The ", **options))

    chat, text = run(tmp_path, FakeAsker(pieces=("one ", "two", " three.")), call)

    assert [chunk.choices[0].delta.content for chunk in chat[:3]] == ["one ", "two", " three"]
    assert [chunk.choices[0].delta.role for chunk in chat[:3]] == ["assistant", None, None]
    assert (chat[3].choices[0].finish_reason, chat[3].x_receipt["receipt_cid"]) == ("stop", CID)
    assert (chat[4].choices, chat[4].usage.completion_tokens) == ([], 14)
    assert len({chunk.id for chunk in chat}) == 1
    assert "".join(chunk.choices[0].text for chunk in text) == "one two three"
    assert text[-1].choices[0].finish_reason == "stop"


def test_its_async_client_is_served_under_trio(tmp_path):
    async def main():
        async with (
            serving(FakeAsker(pieces=("one ", "two")), tmp_path) as served,
            openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client,
        ):
            stream = await client.completions.create(model="pydoc", prompt="The ", stream=True)
            return [chunk.choices[0].text async for chunk in stream]

    assert trio.run(main) == ["one ", "two", ""]


def test_what_fails_before_the_first_piece_has_a_status_and_later_is_an_event(tmp_path):
    def fails(client, streams):
        with pytest.raises(openai.APIError) as caught:
            list(client.completions.create(model="pydoc", prompt="The ", stream=streams))
        return caught.value

    before = FakeAsker(ends_with="no_worker")
    for streams in (False, True):
        error = run(tmp_path, before, lambda client: fails(client, streams))  # noqa: B023
        assert (type(error), error.code) == (openai.InternalServerError, "no_provider")
    later = run(tmp_path, FakeAsker(pieces=("one ",), ends_with="diverged"), lambda client: fails(client, True))
    assert (type(later), later.code, later.message) == (openai.APIError, "verification_failed", "the other one differs")
    whole = run(tmp_path, FakeAsker(pieces=("one ",), ends_with="diverged"), lambda client: fails(client, False))
    assert isinstance(whole, openai.ConflictError)


def test_whoever_leaves_a_stream_has_it_called_off(tmp_path):
    asker = FakeAsker(pieces=("one ",), hangs=True)

    def call(client):
        with client.completions.create(model="pydoc", prompt="The ", stream=True) as stream:
            return next(iter(stream)).choices[0].text

    async def main():
        async with serving(asker, tmp_path) as served:

            def leave():
                with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
                    return call(client)

            assert await trio.to_thread.run_sync(leave) == "one "
            while served.desk.under_way:
                await trio.sleep(0.005)
            assert served.errors == []

    trio.run(main)
    assert asker.left == 1


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"n": 2}, "unsupported_parameter"),
        ({"logprobs": 3}, "unsupported_parameter"),
        ({"echo": True}, "unsupported_parameter"),
        ({"top_p": 0.5}, "unsupported_parameter"),
        ({"unheard_of": 1}, "unsupported_parameter"),
        ({"prompt": "x" * 513}, "context_length_exceeded"),
        ({"prompt": ""}, "bad_input"),
        ({"prompt": ["a", "b"]}, "bad_input"),
        ({"prompt": [1, 2]}, "bad_input"),
        ({"max_tokens": 513}, "bad_input"),
        ({"max_tokens": True}, "bad_input"),
        ({"temperature": -0.1}, "bad_input"),
        ({"temperature": float("nan")}, "bad_input"),
        ({"seed": -1}, "bad_input"),
        ({"stop": ["a", "b"]}, "bad_input"),
        ({"stop": "ab"}, "bad_input"),
        ({"stream": "yes"}, "bad_input"),
        ({"stream_options": {"include_usage": 1}}, "bad_input"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(fields, code):
    with pytest.raises(Fault) as caught:
        read_text_request({"model": "pydoc", "prompt": "The "} | fields, is_chat=False)

    assert (caught.value.status, caught.value.code) == (400, code)


def test_what_changes_nothing_is_let_through():
    neutral = {"n": 1, "top_p": 1.0, "echo": False, "logprobs": None, "presence_penalty": 0.0, "user": "me"}

    wanted = read_text_request({"model": "pydoc", "prompt": ["The "]} | neutral, is_chat=False)

    assert (wanted.prompt, wanted.max_tokens, wanted.seed, wanted.stop, wanted.streams) == ("The ", 16, None, "", False)


@pytest.mark.parametrize(
    "messages", [None, [], "hi", [1], [{"role": "user"}], [{"content": "x"}], [{"role": "user", "content": [{}]}]]
)
def test_a_conversation_that_is_none_is_refused(messages):
    with pytest.raises(Fault, match="message"):
        read_text_request({"model": "pydoc", "messages": messages}, is_chat=True)


def test_a_character_the_model_does_not_know_is_named(tmp_path):
    def call(client):
        with pytest.raises(openai.BadRequestError, match="'é'") as caught:
            client.completions.create(model="pydoc", prompt="café")
        return caught.value

    assert run(tmp_path, FakeAsker(), call).code == "bad_input"


def nest(inner):
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), nest), st.booleans())
def test_no_document_breaks_it(value, is_chat):
    fields = {"model": "pydoc", "messages" if is_chat else "prompt": value, "stop": value}
    try:
        said = read_text_request(read_document(json.dumps(fields).encode()), is_chat).prompt
    except Fault as fault:
        said = fault.code
    assert said
