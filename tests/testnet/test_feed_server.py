"""The feed server as a process of its own, read the way oracles read it."""

import json
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from roles.feeds import fetch_url
from roles.sources import parse_reading
from testnet.feed_server import compute_reading, main, parse_listen, parse_series, read_stocks

ROOT = Path(__file__).parents[2]
CSV = b"date,price,note\n2020-01-01,1.50,x\n2020-01-02,2.25,\n2020-01-03,0.1,\n"


@contextmanager
def running_server(*words):
    command = [sys.executable, "-m", "testnet.feed_server", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_the_stocks_that_ship_with_plotly_are_replayed_without_importing_it():
    pytest.importorskip("plotly", reason="the series ships with plotly")
    series = parse_series(read_stocks(), "GOOG", "plotly.data.stocks GOOG")

    assert len(series.values) == 105
    assert series.dates[0] == "2018-01-01"
    assert series.dates[-1] == "2019-12-30"
    assert series.values[:2] == ("1.0", "1.0181722783479359")
    code = "import sys; from testnet.feed_server import read_stocks; read_stocks(); sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_a_step_passes_with_the_time_and_laps_are_counted():
    series = parse_series(CSV, "price", "prices")

    readings = [compute_reading(series, elapsed_ms, 100) for elapsed_ms in (0, 99, 100, 299, 300, 1_000)]

    assert [(each["date"], each["value"], each["index"], each["lap"]) for each in readings] == [
        ("2020-01-01", 1.5, 0, 0),
        ("2020-01-01", 1.5, 0, 0),
        ("2020-01-02", 2.25, 1, 0),
        ("2020-01-03", 0.1, 2, 0),
        ("2020-01-01", 1.5, 3, 1),
        ("2020-01-02", 2.25, 10, 3),
    ]


def test_the_server_tells_its_address_serves_changing_values_and_stops_when_told(tmp_path):
    (tmp_path / "prices.csv").write_bytes(CSV)
    url_file = tmp_path / "url"
    words = ("--csv", str(tmp_path / "prices.csv"), "--column", "price", "--step-ms", "20", "--url-file", str(url_file))

    async def read_until_it_changes(url):
        with trio.fail_after(30):
            first = await fetch_url(url, 5)
            while (later := await fetch_url(url, 5)) == first:
                await trio.sleep(0.005)
            return first, later, await fetch_url(url.replace("/latest", "/series"), 5)

    with running_server(*words) as (process, url):
        first, later, whole = trio.run(read_until_it_changes, url)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0

    assert url_file.read_text().strip() == url
    assert json.loads(first)["series"] == "prices.csv price"
    assert json.loads(later)["index"] > json.loads(first)["index"]
    assert {parse_reading(each, "value", 2) for each in (first, later)} <= {150, 225, 10}
    assert parse_reading(whole, "rows.1.value", 2) == 225


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"date,price\n", "0 rows"),
        (b"date,other\nx,1\n", "no column 'price', there are other"),
        (b"date,price\nx,one\n", "line 2: 'one' is no number"),
        (b"date,price\nx\n", "line 2: None is no number"),
        (b"date,price\nx,nan\n", "line 2: 'nan' is no number"),
        (b"\xff", "decode"),
    ],
)
def test_a_file_that_holds_no_series_is_refused_with_the_line(data, reason):
    with pytest.raises(ValueError, match=reason):
        parse_series(data, "price", "prices")


def test_an_address_in_use_is_one_clear_line(capfd, tmp_path):
    (tmp_path / "prices.csv").write_bytes(CSV)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        code = main(["--listen", where, "--csv", str(tmp_path / "prices.csv"), "--column", "price"])

    assert code == 1
    assert f"cannot listen on {where}: Address already in use" in capfd.readouterr().err


@pytest.mark.parametrize("text", ["", "8000", ":1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536"])
def test_only_host_and_port_are_an_address(text):
    with pytest.raises(ValueError, match="is not host:port"):
        parse_listen(text)
