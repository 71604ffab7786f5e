"""A small HTTP server that replays a recorded series, one step per second, for oracles to read.

    python -m testnet.feed_server --listen 127.0.0.1:0 [--csv FILE --column NAME] [--step-ms 1000] [--url-file FILE]

By default it replays `plotly.data.stocks`, column GOOG: Alphabet's weekly closing prices of 2018 and 2019, divided by
the first of them. That file ships inside the plotly package; plotly itself is not imported. After the last row it
starts again, and says so: `lap` counts the rounds, `index` never goes back.
"""

import argparse
import csv
import gzip
import importlib.util
import io
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

CSV_BYTES_MAX = 16 * 1024 * 1024
ROWS_MAX = 100_000
DEFAULT_COLUMN = "GOOG"
STOP_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Series:
    """A recorded series, oldest first. Values are kept as the text they were written in."""

    name: str
    dates: tuple[str, ...]
    values: tuple[str, ...]


def read_stocks() -> bytes:
    """The bytes of plotly's stocks.csv, without importing plotly. FileNotFoundError when it is not installed."""
    spec = importlib.util.find_spec("plotly")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "package_data" / "datasets" / "stocks.csv.gz"
        if path.exists():
            with gzip.open(path) as file:
                return file.read(CSV_BYTES_MAX + 1)
    raise FileNotFoundError(
        "the series ships with plotly: pip install 'rolemesh[testnet]', or give another one with --csv"
    )


def parse_series(data: bytes, column: str, name: str) -> Series:
    """One column of a CSV file whose first row names the columns and whose first column is the date. ValueError."""
    if len(data) > CSV_BYTES_MAX:
        raise ValueError(f"{name}: more than {CSV_BYTES_MAX} bytes")
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8"))))
    if not 0 < len(rows) <= ROWS_MAX:
        raise ValueError(f"{name}: {len(rows)} rows, 1 to {ROWS_MAX} are replayed")
    columns = [key for key in rows[0] if key]
    if column not in columns[1:]:
        raise ValueError(f"{name}: no column {column!r}, there are {', '.join(columns[1:])}")
    for number, row in enumerate(rows, start=2):
        try:
            is_number = math.isfinite(float(row[column]))
        except (TypeError, ValueError):
            is_number = False
        if not is_number:
            raise ValueError(f"{name}, line {number}: {row[column]!r} is no number")
    return Series(name, tuple(row[columns[0]] for row in rows), tuple(row[column] for row in rows))


def compute_reading(series: Series, elapsed_ms: int, step_ms: int) -> dict[str, Any]:
    """What /latest says `elapsed_ms` after the start."""
    index = elapsed_ms // step_ms
    lap, row = divmod(index, len(series.values))
    return {
        "series": series.name,
        "date": series.dates[row],
        "value": float(series.values[row]),
        "index": index,
        "lap": lap,
    }


def build_app(series: Series, step_ms: int, now_ms: Callable[[], int]) -> Starlette:
    """The two pages: /latest and /series."""
    start_ms = now_ms()

    async def latest(request: Request) -> Response:
        return JSONResponse(
            compute_reading(series, now_ms() - start_ms, step_ms), headers={"cache-control": "no-store"}
        )

    async def whole(request: Request) -> Response:
        rows = [{"date": date, "value": float(value)} for date, value in zip(series.dates, series.values, strict=True)]
        return JSONResponse({"series": series.name, "step_ms": step_ms, "rows": rows})

    return Starlette(routes=[Route("/latest", latest), Route("/series", whole)])


async def run_server(series: Series, host: str, port: int, step_ms: int, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM, SIGINT or cancellation. `announce` is given the URL of /latest once it answers."""
    listener = open_listener(host, port)
    url = format_url(host, listener.getsockname()[1])
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]  # hypercorn closes it
    config.accesslog = None
    config.errorlog = "-"
    config.loglevel = "WARNING"
    config.graceful_timeout = STOP_TIMEOUT_S
    # Hypercorn takes any ASGI app; its type wants its own words for the same thing.
    app: Any = build_app(series, step_ms, lambda: time.monotonic_ns() // 1_000_000)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_signals, stop)
        await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
        announce(url)
        await stop.wait()
        nursery.cancel_scope.deadline = trio.current_time() + 2 * STOP_TIMEOUT_S


def open_listener(host: str, port: int) -> socket.socket:
    """A bound socket; hypercorn listens on it. OSError that names the address when it cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener


async def _watch_signals(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            stop.set()
            return


def format_url(host: str, port: int) -> str:
    """Where /latest is.

    >>> format_url("127.0.0.1", 8000)
    'http://127.0.0.1:8000/latest'
    """
    return f"http://[{host}]:{port}/latest" if ":" in host else f"http://{host}:{port}/latest"


def parse_listen(text: str) -> tuple[str, int]:
    """`host:port`, where port 0 takes any free one. ValueError.

    >>> parse_listen("127.0.0.1:0")
    ('127.0.0.1', 0)
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{text!r} is not host:port")
    return host.strip("[]"), int(port)


def write_url(url: str, path: Path | None) -> None:
    """Print the URL, and put it into a file that is either whole or not there."""
    print(url, flush=True)
    if path:
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_text(url + "\n")
        temporary.replace(path)


def main(words: list[str] | None = None) -> int:
    """Run the server with these command line words; the exit code."""
    parser = argparse.ArgumentParser(description="Replay a recorded series over HTTP.")
    parser.add_argument("--listen", type=parse_listen, default=("127.0.0.1", 0), metavar="HOST:PORT")
    parser.add_argument("--csv", type=Path, help="a CSV file: a row of names, dates in the first column")
    parser.add_argument("--column", default=DEFAULT_COLUMN)
    parser.add_argument("--step-ms", type=int, default=1_000)
    parser.add_argument("--url-file", type=Path, help="write the URL here once it answers")
    arguments = parser.parse_args(words)
    if arguments.step_ms < 1:
        parser.error("--step-ms is at least 1")
    try:
        data = arguments.csv.read_bytes() if arguments.csv else read_stocks()
        name = arguments.csv.name if arguments.csv else "plotly.data.stocks"
        series = parse_series(data, arguments.column, f"{name} {arguments.column}")
        host, port = arguments.listen
        trio.run(run_server, series, host, port, arguments.step_ms, lambda url: write_url(url, arguments.url_file))
    except (OSError, ValueError) as error:
        print(f"feed server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
