"""Text from a whole network of real nodes: handed over piece by piece, vouched for at the end."""

import pytest
import trio

from roles.attempts import Outcome
from roles.client import Client
from roles.client_errors import BadInput, StreamBroken, TooDear, make_error
from roles.client_stream import decode_tokens, encode_text
from roles.eventlog import read_events
from testnet.found import load_model_files
from testnet.genesis import load_models
from tests.support.generations import ENTRY
from tests.support.node_network import run_network

(PYDOC,) = load_models(("pydoc",))


@pytest.mark.full
def test_text_comes_in_pieces_and_is_vouched_for_at_the_end(tmp_path):
    said = {}

    async def main():
        async with run_network(tmp_path, load_model_files({"pydoc"})) as directory, Client.join(directory) as client:
            async with client.stream("pydoc", "The ", max_tokens=200) as stream:
                with pytest.raises(ValueError, match="not ended"):
                    _ = stream.answer
                said["pieces"] = [piece async for piece in stream]
            said["answer"] = stream.answer
            said["findings"] = client.verify(stream.answer.receipt)
            for name in ("one", "two"):
                async with client.stream(
                    "pydoc", "class ", max_tokens=60, temperature=0.8, seed=7, mode="batch"
                ) as drawn:
                    said[name] = "".join([piece.text async for piece in drawn])
            async with client.stream("pydoc", "The ", max_tokens=500, mode="batch") as left:
                async for _ in left:
                    break
            while True:
                with trio.move_on_after(0.05):
                    await trio.sleep_forever()
                refusals = [
                    event
                    for event in read_events(directory)
                    if event["name"] == "request.left" and event["code"] == "cancelled"
                ]
                if refusals:
                    break
            with pytest.raises(TooDear):
                async for _ in client.stream("pydoc", "The ", max_tokens=10, max_fee=1_000_000):
                    pass

    trio.run(main)

    pieces, answer = said["pieces"], said["answer"]
    text = "".join(piece.text for piece in pieces)
    assert text == ENTRY["sample"]["text"]
    assert len(pieces) > 1
    assert [piece.start for piece in pieces] == [
        sum(len(before.tokens) for before in pieces[:number]) for number in range(len(pieces))
    ]
    assert answer.is_attested
    assert answer.fee == 204 * 1_000_000
    assert {finding.level: finding.is_shown for finding in said["findings"]}["attested"]
    assert said["one"] == said["two"]
    assert len(said["one"]) == 60


def test_a_text_with_a_character_the_model_does_not_know_names_it():
    assert decode_tokens(PYDOC, encode_text(PYDOC, "def f(x):\n")) == "def f(x):\n"
    with pytest.raises(BadInput, match="'é'"):
        encode_text(PYDOC, "café")


@pytest.mark.parametrize("code", ["cut", "diverged"])
def test_a_broken_stream_says_how_many_tokens_stand(code):
    error = make_error(Outcome("", False, b"", code=code, reason="why", good=7))

    assert isinstance(error, StreamBroken)
    assert error.good == 7
    assert error.hint
