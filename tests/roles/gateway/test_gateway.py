"""The gateway over real sockets: what it answers, and that one bad client is no other's matter."""

import json
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
import trio

from protocol.content import compute_digest, format_cid
from protocol.proofs.receipt_file import RECEIPT_FILE_BYTES_MAX
from roles.attempts import Outcome
from roles.client_errors import make_error
from roles.gateway import desk as desks
from roles.gateway import server as servers
from roles.oip_tensors import HEAD_HEADER
from tests.support.gateways import ASKED, INFER, FakeAsker, serving

HEAD = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"


def run(folder, asker, check):
    async def main():
        async with serving(asker, folder) as served:
            await check(served)
            assert served.errors == []

    trio.run(main)


def test_a_model_is_found_described_and_run(tmp_path):
    asker = FakeAsker()

    async def check(served):
        assert (await served.http.get("/v2")).json()["extensions"] == ["binary_tensor_data"]
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/digits/ready", "/livez", "/readyz"):
            assert (await served.http.get(path)).status_code == 200, path
        told = (await served.http.get("/v2/models/digits")).json()
        by_cid = (await served.http.get(f"/v2/models/{told['parameters']['cid']}/versions/1")).status_code
        assert by_cid == 404  # a version belongs to a name
        assert (await served.http.get(f"/v2/models/{told['parameters']['cid']}")).json() == told
        for version in ("1", told["parameters"]["cid"]):
            assert (await served.http.get(f"/v2/models/digits/versions/{version}")).json() == told

        answer = await served.http.post(INFER, json=ASKED, headers={"X-Verify": "spot", "X-Max-Fee": "9"})

        assert answer.status_code == 200
        said = answer.json()
        assert said["outputs"] == [{"name": "output-0", "datatype": "INT32", "shape": [1, 10], "data": [0] * 10}]
        assert said["parameters"]["receipt_cid"] == format_cid(compute_digest(b"a receipt"))
        assert answer.headers["X-Receipt-Cid"] == said["parameters"]["receipt_cid"]
        assert answer.headers["X-Request-Id"] == said["parameters"]["request_id"] == "01" * 32
        metrics = (await served.http.get("/metrics")).text
        assert 'rolemesh_gateway_answers_total{api="oip",status="200"} 9' in metrics
        assert 'rolemesh_gateway_seconds_bucket{api="oip",le="+Inf"} 10' in metrics
        assert 'rolemesh_gateway_seconds_count{api="oip"} 10' in metrics

    run(tmp_path, asker, check)
    (asked,) = asker.asked
    assert (asked["mode"], asked["max_fee"], asked["timeout_s"]) == ("batch", 9, 5.0)


def test_a_receipt_is_given_to_whoever_knows_its_cid(tmp_path):
    async def check(served):
        place = (await served.http.post(INFER, json=ASKED)).json()["parameters"]["receipt"]

        assert (await served.http.get(place)).content == b"a receipt"
        head, _, cid = place.rpartition("/")
        for other in (f"{head}/{format_cid(bytes(32))}", f"/receipts/{'02' * 32}/{cid}", f"/receipts/..%2f/{cid}"):
            assert (await served.http.get(other)).status_code == 404, other

    run(tmp_path, FakeAsker(receipts={b"\x01" * 32: b"a receipt"}), check)


@pytest.mark.parametrize(("code", "status"), [("unpaid", 402), ("dissent", 409), ("busy", 429), ("no_worker", 503)])
def test_what_the_network_refuses_is_said_with_its_reason(tmp_path, code, status):
    asker = FakeAsker(error=make_error(Outcome("", False, b"\3" * 32, code=code, reason="has 1, needs 2")))

    async def check(served):
        answer = await served.http.post(INFER, json=ASKED)

        assert answer.status_code == status
        assert answer.json()["error"] == "has 1, needs 2"
        assert answer.headers["X-Request-Id"] == "03" * 32

    run(tmp_path, asker, check)


def test_what_is_not_served_is_said_in_the_same_words(tmp_path):
    async def check(served):
        for path, status, code in (
            ("/v2/models/cats", 404, "model_not_found"),
            ("/v2/models/digits/versions/9", 404, "model_not_found"),
            ("/v2/repository/index", 404, "not_found"),
            (INFER, 405, "method_not_allowed"),
        ):
            answer = await served.http.get(path)
            assert (answer.status_code, answer.json()["code"]) == (status, code), path
        assert "digits" in (await served.http.get("/v2/models/cats")).json()["error"]
        packed = await served.http.post(INFER, content=b"x", headers={"Content-Encoding": "gzip"})
        assert packed.status_code == 415
        large = await served.http.post(INFER, content=bytes(desks.BODY_BYTES_MAX + 1))
        assert large.status_code == 413

    run(tmp_path, FakeAsker(), check)


def test_pages_from_elsewhere_spend_nothing(tmp_path):
    asker = FakeAsker()

    async def check(served):
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example:80"}, {"Origin": "null"}):
            answer = await served.http.post(INFER, json=ASKED, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "foreign"), headers
        own = await served.http.post(INFER, json=ASKED, headers={"Origin": served.url})
        assert own.status_code == 200

    run(tmp_path, asker, check)
    assert len(asker.asked) == 1


def test_whoever_hangs_up_has_the_request_called_off(tmp_path):
    asker = FakeAsker(hold=trio.Event())

    async def check(served):
        stream = await served.connect()
        body = json.dumps(ASKED).encode()
        await stream.send_all(HEAD % (INFER.encode(), len(body)) + body)
        while not asker.asked:
            await trio.sleep(0.005)
        assert served.desk.under_way == 1

        await stream.aclose()

        while served.desk.under_way:
            await trio.sleep(0.005)
        asker.hold.set()
        assert (await served.http.post(INFER, json=ASKED)).status_code == 200

    run(tmp_path, asker, check)
    assert asker.left == 1


@pytest.mark.parametrize("is_under_way", [False, True])
def test_a_connection_that_its_client_ends_is_let_go_at_once(tmp_path, is_under_way):
    asker = FakeAsker(hold=trio.Event())

    async def check(served):
        for _ in range(3):
            asker.asked.clear()
            stream = await served.connect()
            await stream.send_all(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await stream.receive_some(65_536)
            if is_under_way:
                body = json.dumps(ASKED).encode()
                await stream.send_all(HEAD % (INFER.encode(), len(body)) + body)
                while not asker.asked:
                    await trio.sleep(0.005)
            await stream.aclose()
        with trio.fail_after(1):
            while served.server.open:
                await trio.sleep(0.005)

    run(tmp_path, asker, check)
    assert asker.left == 3 * is_under_way


def test_one_too_many_is_told_to_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(desks, "UNDER_WAY_MAX", 2)
    asker = FakeAsker(hold=trio.Event())
    statuses = Counter()

    async def check(served):
        async def ask():
            answer = await served.http.post(INFER, json=ASKED)
            statuses[answer.status_code] += 1
            if answer.status_code == 429:
                assert answer.headers["Retry-After"] == "1"
                asker.hold.set()

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)

    run(tmp_path, asker, check)
    assert statuses == {200: 2, 429: 1}


def test_slow_and_malformed_clients_are_hung_up_on_and_others_served_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(desks, "BODY_S_MAX", 0.3)
    monkeypatch.setattr(servers, "HEAD_S_MAX", 0.3)
    said = {}

    async def check(served):
        async def send(name, data):
            stream, said[name] = await served.connect(), b""
            with suppress(trio.BrokenResourceError):  # hung up on while it was writing
                await stream.send_all(data)
                while chunk := await stream.receive_some(65_536):
                    said[name] += chunk
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, "nothing", b"")
            nursery.start_soon(send, "half a head", b"POST /v2/models")
            nursery.start_soon(send, "half a body", HEAD % (INFER.encode(), 1_000) + b"{")
            nursery.start_soon(send, "no HTTP", b"\0\1\2\3\r\n\r\n")
            nursery.start_soon(send, "endless head", b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000)
            nursery.start_soon(send, "HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
            nursery.start_soon(send, "upgrade", b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n")
            for _ in range(20):
                assert (await served.http.post(INFER, json=ASKED)).status_code == 200

    run(tmp_path, FakeAsker(), check)
    assert said["nothing"] == said["half a head"] == b""
    assert b" 408 " in said["half a body"].splitlines()[0]
    assert said["no HTTP"].startswith(b"HTTP/1.1 4")
    assert b" 200 " not in said["endless head"] + said["HTTP/2"]
    assert b" 200 " in said["upgrade"].splitlines()[0]  # in the HTTP that it came in


def test_a_reader_that_takes_nothing_is_hung_up_on(tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "WRITE_S_MAX", 0.2)
    receipt = bytes(RECEIPT_FILE_BYTES_MAX)
    cid = format_cid(compute_digest(receipt))

    async def check(served):
        stream = await served.connect()
        await stream.send_all(b"GET /receipts/%s/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"05" * 32, cid.encode()))
        await stream.receive_some(100)
        with trio.fail_after(5):
            while served.counts.answers["other", 200] == 0:
                await trio.sleep(0.02)
        assert (await served.http.get("/v2/health/live")).status_code == 200
        await stream.aclose()

    run(tmp_path, FakeAsker(receipts={b"\x05" * 32: receipt}), check)


def test_one_connection_too_many_is_told_so_and_others_are_served_on(tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "CONNECTIONS_MAX", 3)

    async def check(served):
        streams = [await served.connect() for _ in range(3)]
        for stream in streams:
            await stream.send_all(LOOK)
            assert (await stream.receive_some(20)).startswith(b"HTTP/1.1 200")
        for sent in (b"", LOOK, HEAD % (INFER.encode(), 10**9) + bytes(1_000_000)):
            answer = split_answer(await talk(served, sent))
            assert (answer[0], b"Retry-After: 1" in answer[1]) == (503, True)
            assert json.loads(answer[2])["code"] == "capacity"
        await streams[0].send_all(LOOK)
        assert b"binary_tensor_data" in await streams[0].receive_some(65_536)
        for stream in streams:
            await stream.aclose()
        while served.server.open:
            await trio.sleep(0.005)
        metrics = (await served.http.get("/metrics")).text
        assert 'rolemesh_gateway_answers_total{api="other",status="503"} 3' in metrics

    run(tmp_path, FakeAsker(), check)


def test_those_who_do_not_take_their_refusal_are_bounded_too(tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "CONNECTIONS_MAX", 0)
    monkeypatch.setattr(servers, "REFUSED_MAX", 2)
    monkeypatch.setattr(servers, "REFUSE_S", 0.3)

    async def check(served):
        streams = [await served.connect() for _ in range(2)]
        for stream in streams:
            assert b" 503 " in await stream.receive_some(100)
        assert await talk(served, b"") == b"", "no word any more"
        while served.server.refused:
            await trio.sleep(0.01)
        assert b" 503 " in await talk(served, b"")
        for stream in streams:
            await stream.aclose()

    run(tmp_path, FakeAsker(), check)


LOOK = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def talk(served, sent):
    """All that is said to whoever sends this and reads until the end."""
    said, stream = b"", await served.connect()
    with trio.fail_after(5), suppress(trio.BrokenResourceError):
        await stream.send_all(sent)
        while chunk := await stream.receive_some(65_536):
            said += chunk
    await stream.aclose()
    return said


def split_answer(said):
    """Status, head and body."""
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), head, body


@pytest.mark.parametrize(
    ("line", "header", "status"),
    [
        (b"POST /else", b"", 404),
        (b"PUT /v2", b"", 405),
        (b"POST /v2/models/cats/infer", b"", 404),
        (b"POST /v2/models/digits/infer", b"Content-Encoding: gzip\r\n", 415),
        (b"POST /v2/models/digits/infer", b"Origin: https://evil.example\r\n", 403),
        (b"POST /v2/models/digits/infer", b"", 413),
    ],
)
def test_who_sends_without_end_what_nobody_reads_is_answered_and_let_go(tmp_path, monkeypatch, line, header, status):
    monkeypatch.setattr(servers, "CONNECTIONS_MAX", 2)
    heads = []

    async def check(served):
        async def push(stream):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                for _ in range(400):
                    await stream.send_all(bytes(65_536))

        for _ in range(3):
            stream = await served.connect()
            size = b"Content-Length: 26214400\r\n\r\n"
            await stream.send_all(line + b" HTTP/1.1\r\nHost: localhost\r\n" + header + size)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(push, stream)
                with suppress(trio.BrokenResourceError):  # hung up on while it was writing
                    heads.append(await stream.receive_some(100))
                    while await stream.receive_some(65_536):
                        pass
                nursery.cancel_scope.cancel()
            await stream.aclose()
        with trio.fail_after(5):
            while served.server.open:
                await trio.sleep(0.005)
        assert (await served.http.post(INFER, json=ASKED)).status_code == 200

    run(tmp_path, FakeAsker(), check)
    assert {int(head.split()[1]) for head in heads} <= {status}


def test_when_it_stops_what_is_under_way_is_answered_and_what_never_ends_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "GRACE_S", 0.5)
    ended = {}

    async def main(name, asker):
        began_s = trio.current_time()
        async with serving(asker, tmp_path) as served:
            idle = await served.connect()

            async def ask():
                try:
                    ended[name] = (await served.http.post(INFER, json=ASKED)).status_code
                except Exception as error:
                    ended[name] = type(error).__name__

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                while not asker.asked:
                    await trio.sleep(0.005)
                served.stop.set()
                if name == "answered":
                    asker.hold.set()
            assert await idle.receive_some(1) == b""
        assert trio.current_time() - began_s < 3

    trio.run(main, "answered", FakeAsker(hold=trio.Event()))
    trio.run(main, "cut", FakeAsker(hold=trio.Event()))
    assert ended["answered"] == 200
    assert ended["cut"] in ("RemoteProtocolError", "ReadError", 500)


@pytest.mark.parametrize("takes_binary", [False, True])
@pytest.mark.parametrize("sends", ["json", "binary"])
def test_tritons_own_client_is_served_whatever_way_tensors_go(tmp_path, sends, takes_binary):
    from tritonclient.http import InferenceServerClient, InferenceServerException, InferInput, InferRequestedOutput

    rows = np.arange(128, dtype=np.uint8).reshape(2, 64) % 16
    asker, said = FakeAsker(), {}

    def call(url):
        with InferenceServerClient(url.removeprefix("http://")) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("digits", "1")
            metadata = client.get_model_metadata("digits")
            given = InferInput(metadata["inputs"][0]["name"], [2, 64], metadata["inputs"][0]["datatype"])
            given.set_data_from_numpy(rows, binary_data=sends == "binary")
            wanted = [InferRequestedOutput(metadata["outputs"][0]["name"], binary_data=takes_binary)]
            result = client.infer("digits", [given], outputs=wanted, request_id="q1", headers={"X-Verify": "none"})
            said["numbers"], said["response"] = result.as_numpy("output-0"), result.get_response()
            said["packed"] = client.infer(
                "digits", [given], outputs=wanted, response_compression_algorithm="gzip"
            ).as_numpy("output-0")
            default = client.infer("digits", [given])  # asks for raw bytes of all outputs
            said["default"] = default.as_numpy("output-0")
            with pytest.raises(InferenceServerException, match="'cats'"):
                client.get_model_metadata("cats")

    async def check(served):
        await trio.to_thread.run_sync(call, served.url)

    run(tmp_path, asker, check)
    for name in ("numbers", "packed", "default"):
        assert said[name].tolist() == [[0] * 10] * 2, name
    assert said["response"]["id"] == "q1"
    assert said["response"]["parameters"]["receipt_cid"].startswith("bafk")
    assert [item["inputs"][0].data for item in asker.asked] == [rows.tobytes()] * 3
    assert asker.asked[0]["mode"] == "private"


async def ask_raw(served, document, tail):
    head = json.dumps(document).encode()
    return await served.http.post(INFER, content=head + tail, headers={HEAD_HEADER: str(len(head))})


def test_malformed_requests_are_told_what_is_wrong(tmp_path):
    asker = FakeAsker()

    async def check(served):
        short = {"inputs": [{"name": "input-0", "datatype": "UINT8", "shape": [1, 64],
                             "parameters": {"binary_data_size": 64}}]}  # fmt: skip
        answers = [
            await served.http.post(INFER, content=b"<html>"),
            await served.http.post(INFER, json=ASKED, headers={HEAD_HEADER: "-1"}),
            await served.http.post(INFER, json=ASKED, headers={"X-Verify": "zk"}),
            await ask_raw(served, short, bytes(63)),
        ]
        assert [answer.status_code for answer in answers] == [400] * 4
        assert (await ask_raw(served, short, bytes(64))).status_code == 200

    run(tmp_path, asker, check)
    assert len(asker.asked) == 1
