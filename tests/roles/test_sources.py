"""Sources are read exactly, and survived whatever they do: real servers, files and programs that misbehave."""

import os
import sys
import time
from functools import partial

import pytest
import trio

from protocol.errors import LocalError
from roles.feeds import fetch_address, read_series, run_program
from roles.sources import (
    FILE,
    PROGRAM,
    BadReading,
    FetchFailed,
    HttpJson,
    Source,
    make_source,
    register_source,
)

CSV = b"day,GOOG,AMZN\n2018-01-01,1.0,1.5\n2018-01-08,1.018172,1.25\n2018-01-15,1.03,2\n"
LINES = b'{"v": {"x": 3}}\n\n{"v": {"x": 4.5}}\n'


def make_replay(name: str, path: str, **more: object) -> Source:
    return make_source({"source": "replay", "file": f"/{name}", "path": path, "step_ms": 1_000, **more})


def test_a_csv_column_is_replayed_row_by_row_over_and_over() -> None:
    source = make_replay("stocks.csv", "GOOG", start_ms=500)
    assert source.address == FILE + "/stocks.csv"
    read = [source.read(CSV, 6, now_ms) for now_ms in (0, 500, 1_499, 1_500, 2_500, 3_500)]
    assert read == [1_000_000, 1_000_000, 1_000_000, 1_018_172, 1_030_000, 1_000_000]


def test_json_lines_are_replayed_along_a_path() -> None:
    source = make_replay("rain.jsonl", "v.x")
    assert [source.read(LINES, 1, now_ms) for now_ms in (0, 1_000, 2_000)] == [30, 45, 30]


@pytest.mark.parametrize(
    ("name", "data", "path", "reason"),
    [
        ("a.csv", b"", "GOOG", "rows"),
        ("a.csv", b"day,GOOG\n", "GOOG", "rows"),
        ("a.csv", CSV, "NONE", "no column"),
        ("a.csv", b"day,GOOG\nx\n", "GOOG", "not a JSON"),
        ("a.csv", b"day,GOOG\nx,lots\n", "GOOG", "not a JSON"),
        ("a.csv", b"\xff\xfe", "GOOG", "not a CSV"),
        ("a.csv", b"a,b\n" + b"x" * 200_000, "b", "CSV|rows|JSON"),
        ("a.jsonl", b"\n\n", "x", "rows"),
        ("a.jsonl", b"nonsense\n", "x", "not a JSON"),
        ("a.jsonl", b" " * (5 * 1024 * 1024), "x", "at most"),
    ],
)
def test_a_series_that_holds_no_such_number_says_why(name, data, path, reason) -> None:
    with pytest.raises(BadReading, match=reason):
        make_replay(name, path).read(data, 2, 0)


def test_a_feed_says_where_it_is_read_and_its_observers_operator_may_know_better() -> None:
    assert make_source({}, "http://a.example/", "x").address == "http://a.example/"
    assert make_source({"url": "http://b.example/"}, "http://a.example/", "x").address == "http://b.example/"
    assert make_source({}, "", "x.y").read(b'{"x": {"y": 7}}', 0, 0) == 7
    assert make_source({"path": "z"}, "", "x.y").read(b'{"z": 8}', 0, 0) == 8
    with pytest.raises(FetchFailed, match="neither"):
        _ = make_source({}).address


@pytest.mark.parametrize(
    "options",
    [
        {"source": "rumour"},
        {"url": "file:///etc/passwd"},
        {"source": "replay", "step_ms": 1},
        {"source": "replay", "file": "relative.csv", "step_ms": 1},
        {"source": "replay", "file": "/a.csv", "step_ms": 0},
        {"source": "command"},
        {"source": "command", "command": "date"},
        {"source": "command", "command": []},
        {"source": "command", "command": ["date", 1]},
        {"source": "command", "command": ["da\0te"]},
    ],
)
def test_options_amiss_are_refused_before_anything_is_read(options) -> None:
    with pytest.raises((ValueError, KeyError)):
        make_source(options)


def test_a_module_of_a_users_brings_a_source_of_its_own() -> None:
    class Doubled(HttpJson):
        def read(self, data: bytes, decimals: int, now_ms: int) -> int:
            return 2 * super().read(data, decimals, now_ms)

    register_source("doubled", Doubled)
    register_source("doubled", Doubled)
    assert make_source({"source": "doubled"}, "http://a.example/", "x").read(b'{"x": 4}', 0, 0) == 8
    with pytest.raises(LocalError):
        register_source("doubled", HttpJson)


# Going there


@pytest.fixture
def answers():
    """A real server on loopback: a function that gives the result of fetching from it, answering by another."""

    def serve_and_fetch(talk, timeout_s=5.0):
        async def main():
            async with trio.open_nursery() as nursery:
                (listener,) = await nursery.start(partial(trio.serve_tcp, talk, 0, host="127.0.0.1"))
                port = listener.socket.getsockname()[1]
                try:
                    return await fetch_address(f"http://127.0.0.1:{port}/", timeout_s)
                finally:
                    nursery.cancel_scope.cancel()

        try:
            return trio.run(main)
        except* FetchFailed as group:
            raise group.exceptions[0] from None

    return serve_and_fetch


async def take_request(stream) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        request += await stream.receive_some(4_096)


def test_a_source_that_sends_100_megabytes_is_left_after_a_fraction_of_them(answers) -> None:
    sent = 0

    async def talk(stream):
        nonlocal sent
        await take_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n")
        chunk = b'{"value": 1, "x": "' + b"x" * 65_536
        try:
            for _ in range(1_600):
                await stream.send_all(chunk)
                sent += len(chunk)
        except trio.BrokenResourceError:
            return

    with pytest.raises(FetchFailed, match="more than 262144 bytes"):
        answers(talk)
    assert sent < 30 * 1024 * 1024


def test_a_source_that_stalls_after_every_byte_is_given_up_on_in_time(answers) -> None:
    async def talk(stream):
        await take_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while True:
            await stream.send_all(b" ")
            await trio.sleep(0.05)

    begun_s = time.monotonic()
    with pytest.raises(FetchFailed, match=r"no whole answer|Timeout"):
        answers(talk, timeout_s=0.3)
    assert time.monotonic() - begun_s < 3


def test_a_source_that_hangs_up_is_a_failure(answers) -> None:
    async def talk(stream):
        await take_request(stream)
        await stream.aclose()

    with pytest.raises(FetchFailed):
        answers(talk)


def test_a_source_that_lies_about_its_kind_of_number_gives_no_reading(answers) -> None:
    async def talk(stream):
        await take_request(stream)
        body = b'{"value": "much"}'
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    with pytest.raises(BadReading):
        make_source({}, "", "value").read(answers(talk), 2, 0)


def test_a_file_is_read_whole_and_only_a_file(tmp_path) -> None:
    path = tmp_path / "series.csv"
    path.write_bytes(CSV)
    assert trio.run(fetch_address, f"{FILE}{path}", 5.0) == CSV
    with pytest.raises(FetchFailed, match="more than 10 bytes"):
        trio.run(read_series, str(path), 5.0, 10)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "none", tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(FetchFailed):
            trio.run(read_series, str(other), 5.0)


def run_python(code: str, timeout_s: float = 10.0) -> bytes:
    return trio.run(run_program, [sys.executable, "-S", "-E", "-c", code], timeout_s)


def test_what_a_program_prints_is_its_reading() -> None:
    source = make_source({"source": "command", "command": ["/bin/echo", '{"x": 12.5}'], "path": "x"})
    assert source.address.startswith(PROGRAM)
    assert source.read(trio.run(fetch_address, source.address, 5.0), 2, 0) == 1_250


def test_a_program_that_prints_without_end_or_fails_is_a_failure() -> None:
    with pytest.raises(FetchFailed, match="printed more than"):
        run_python("while True: print('x' * 10000)")
    with pytest.raises(FetchFailed, match="ended with 3"):
        run_python("print(1); raise SystemExit(3)")
    with pytest.raises(FetchFailed, match="No such file"):
        trio.run(run_program, ["/no/such/program"], 5.0)


def test_a_program_that_does_not_end_is_killed_with_all_it_has_started(tmp_path) -> None:
    told = tmp_path / "pid"
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(told)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(FetchFailed, match="did not end within"):
        run_python(code, timeout_s=1.0)
    child = int(told.read_text())
    deadline_s = time.monotonic() + 5
    while _is_alive(child) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not _is_alive(child)


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
