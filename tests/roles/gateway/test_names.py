"""Tensors are called as in the model's file, where it can be had, and by their place in any case."""

from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from roles.client_errors import UnknownModel
from roles.gateway import names as books
from roles.gateway.names import NameBook, read_names
from roles.gateway.oip import TensorNames, name_by_place
from testnet.found import MODELS_FOLDER
from tests.support.gateways import ASKED, DIGITS_RECORD, INFER, FakeAsker, serving

FILE = (MODELS_FOLDER / "digits.onnx").read_bytes()
NAMES, PLACES = TensorNames(("pixels",), ("logits",)), TensorNames(("input-0",), ("output-0",))


def test_names_are_those_of_the_file_and_places_where_they_do_not_fit_the_ledger():
    assert read_names(DIGITS_RECORD, FILE) == NAMES
    two = replace(DIGITS_RECORD, inputs=DIGITS_RECORD.inputs * 2)
    assert read_names(two, FILE) == name_by_place(two)
    assert read_names(DIGITS_RECORD, FILE[:-100]) == PLACES
    assert read_names(DIGITS_RECORD, b"") == PLACES


@given(st.binary(max_size=200))
def test_no_file_breaks_it(data):
    assert read_names(DIGITS_RECORD, data) == PLACES


def test_a_file_is_read_once_and_one_that_cannot_be_had_is_asked_for_again_later():
    asked = []

    async def get_model(digest):
        asked.append(digest)
        if len(asked) == 1:
            raise UnknownModel("unknown_model", "no storage node has it")
        return FILE

    async def main():
        book = NameBook(get_model)
        assert [await book.find(DIGITS_RECORD) for _ in range(3)] == [PLACES] * 3
        await trio.sleep(books.AGAIN_S)
        assert [await book.find(DIGITS_RECORD) for _ in range(3)] == [NAMES] * 3

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert asked == [DIGITS_RECORD.digest] * 2


@pytest.mark.parametrize("file", [FILE, None])
def test_tensors_may_be_called_by_name_or_by_place_and_are_answered_as_they_were_asked_for(tmp_path, file):
    async def main():
        async with serving(FakeAsker(file=file), tmp_path) as served:
            told = (await served.http.get("/v2/models/digits")).json()
            names = (told["inputs"][0]["name"], told["outputs"][0]["name"])
            assert names == (("pixels", "logits") if file else ("input-0", "output-0"))
            for given_name, wanted_name in (names, ("input-0", "output-0")):
                body = {"inputs": [ASKED["inputs"][0] | {"name": given_name}], "outputs": [{"name": wanted_name}]}
                answer = (await served.http.post(INFER, json=body)).json()
                assert [output["name"] for output in answer["outputs"]] == [wanted_name]
            assert (await served.http.post(INFER, json=ASKED)).json()["outputs"][0]["name"] == names[1]
            other = {"inputs": [ASKED["inputs"][0] | {"name": "votes"}]}
            refused = await served.http.post(INFER, json=other)
            assert (refused.status_code, names[0] in refused.json()["error"]) == (400, True)

    trio.run(main)
