"""What programs import to ask for inference, against a whole network of real nodes in the same trio loop."""

import time
from dataclasses import replace

import numpy as np
import pytest
import trio

from protocol.errors import ProtocolError
from protocol.tensor import compute_tensors_digest
from roles.attempts import Outcome
from roles.client import Client, make_tensors, read_answer
from roles.client_errors import (
    HINTS,
    BadInput,
    Busy,
    ClientError,
    NotJoined,
    NoWorker,
    Refused,
    TimedOut,
    TooDear,
    Unattested,
    UnknownModel,
    UnknownRequest,
    Unpaid,
    make_error,
)
from roles.config import UserError
from roles.eventlog import read_events
from testnet.found import NetworkPlan, found_network, load_model_files
from tests.support.node_network import ROLES, run_network

PRICE = 1_000_000


def make_rows(number, count=1):
    return np.full((count, 64), number % 16, dtype=np.uint8)


def test_a_program_joins_asks_side_by_side_verifies_and_asks_again(tmp_path):
    answers, said = {}, {}

    async def main():
        async with run_network(tmp_path, load_model_files()) as directory:
            async with Client.join(directory) as client:

                async def ask(number, **options):
                    answers[number] = await client.infer("digits", make_rows(number), **options)

                async with trio.open_nursery() as nursery:
                    for number in range(4):
                        nursery.start_soon(ask, number)
                answers["batch"] = await client.infer("digits", [make_rows(9, 3)], mode="batch", max_fee=3 * PRICE)
                said["at once"] = await client.ask_again(answers["batch"].request_id)
                said["findings"] = client.verify(answers[0].receipt)
                for name, work in {
                    "unknown": client.infer("cats", make_rows(1)),
                    "wrong": client.infer("digits", make_rows(1).astype(np.float64)),
                    "dear": client.infer("digits", make_rows(1), max_fee=PRICE - 1),
                    "late": client.infer("digits", make_rows(1), timeout_s=0),
                    "strange": client.ask_again(bytes(32)),
                }.items():
                    with pytest.raises(ClientError) as caught:
                        await work
                    said[name] = caught.value
            # Another process of the same client, later.
            async with Client.join(directory) as client:
                said["again"] = await client.ask_again(answers[1].request_id)

    trio.run(main)
    assert {number for number in range(4) if answers[number].is_attested} == {0, 1, 2, 3}
    assert len({answers[number].request_id for number in range(4)}) == 4
    assert all(len(answers[number].verifiers) == 2 for number in range(4))
    assert (answers["batch"].is_attested, answers["batch"].fee) == (False, 3 * PRICE)
    assert answers["batch"].outputs[0].shape == (3, 10)
    assert said["at once"].receipt == answers["batch"].receipt
    assert {item.level: item.is_shown for item in said["findings"]}["drawn"]
    assert said["again"] == replace(answers[1], was_direct=said["again"].was_direct, attempts=said["again"].attempts)
    kinds = {"unknown": UnknownModel, "wrong": BadInput, "dear": TooDear, "late": TimedOut, "strange": UnknownRequest}
    for name, kind in kinds.items():
        assert type(said[name]) is kind, name
        assert said[name].reason
        assert said[name].hint
        assert said[name].code
    assert str(PRICE) in said["dear"].reason


def test_cancelling_a_request_tells_its_worker(tmp_path):
    async def main():
        async with run_network(tmp_path, load_model_files()) as directory, Client.join(directory) as client:
            await client.infer("digits", make_rows(1), mode="batch")
            requests = 1
            while not any(event["name"] == "request.called_off" for event in list_events(directory)):
                requests += 1  # the one before was answered before we looked

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.infer, "digits", make_rows(2))
                    while not sent(directory, requests):
                        await trio.sleep(0.01)
                    nursery.cancel_scope.cancel()
            # The client is there for others as before.
            assert (await client.infer("digits", make_rows(3), mode="batch")).outputs

    trio.run(main)


def list_events(directory):
    return list(read_events(directory))


def sent(directory, count):
    ids = {event["request_id"] for event in list_events(directory) if event["name"] == "request.sent"}
    return len(ids) >= count


def test_without_a_network_joining_says_so(tmp_path):
    found_network(NetworkPlan(tmp_path, 13, ROLES, load_model_files()), time.time_ns() // 1_000_000)

    async def main():
        async with Client.join(tmp_path / "nodes" / "client-0", timeout_s=0.5):
            pytest.fail("joined nobody")

    with pytest.raises(NotJoined, match="0 peers"):
        trio.run(main)


def test_a_directory_that_is_none_is_named_with_what_to_do(tmp_path):
    async def main():
        async with Client.join(tmp_path / "nothing"):
            pytest.fail("joined nobody")

    with pytest.raises(UserError) as caught:
        trio.run(main)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("busy", Busy),
        ("dissent", Unattested),
        ("unattested", Unattested),
        ("no_answer", TimedOut),
        ("expired", TimedOut),
        ("price", TooDear),
        ("unpaid", Unpaid),
        ("no_worker", NoWorker),
        ("failed", Refused),
        ("policy", Refused),
        ("a code of a later version", Refused),
    ],
)
def test_every_way_to_get_no_answer_is_an_error_with_a_reason_and_a_next_step(code, kind):
    error = make_error(Outcome("a", False, b"r" * 32, attempts=2, code=code, reason="because"))

    assert type(error) is kind
    assert (error.code, error.reason, error.request_id, error.attempts) == (code, "because", b"r" * 32, 2)
    assert error.hint
    assert all(HINTS.values())


@pytest.mark.parametrize("body", [b"", b"busy", b'{"error":{"code":"busy"}}', b"\x90", b"\xc0"])
def test_no_answer_is_read_from_an_empty_or_an_error_body(body):
    with pytest.raises(ProtocolError):
        read_answer(body)


def test_arrays_become_tensors_whatever_their_byte_order_and_layout():
    array = np.arange(6, dtype=np.int32).reshape(2, 3)

    same = [make_tensors(each) for each in (array, array.astype(">i4"), np.asfortranarray(array), [array])]

    assert len({compute_tensors_digest(tensors) for tensors in same}) == 1
    assert same[0][0].shape == (2, 3)
