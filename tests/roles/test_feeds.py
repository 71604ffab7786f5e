"""Readings are exact and bounded, and a fetch is bounded in time, bytes and where it goes."""

import ssl
from contextlib import suppress
from decimal import Decimal
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from protocol.types import INT_MAX
from roles import feeds
from roles.feeds import fetch_url
from roles.sources import BadReading, FeedError, FetchFailed, parse_reading


@given(whole=st.integers(0, 10**9), part=st.integers(0, 10**8 - 1))
def test_a_price_with_as_many_decimals_as_asked_for_is_read_to_the_last_digit(whole, part):
    document = b'{"value": %d.%08d}' % (whole, part)

    assert parse_reading(document, "value", 8) == whole * 10**8 + part


@given(st.decimals(-(10**6), 10**6, places=10), st.integers(0, 12))
def test_more_decimals_are_rounded_half_to_even(value, decimals):
    expected = int((value * 10**decimals).to_integral_value("ROUND_HALF_EVEN"))

    assert parse_reading(b'{"a": [%s]}' % format(value, "f").encode(), "a.0", decimals) == expected


@pytest.mark.parametrize(
    ("document", "path", "value"),
    [
        (b"7", "", 700),
        (b"[1, [2, 3.5]]", "1.1", 350),
        (b'{"a": {"b": [{"c": "12.34"}]}}', "a.b.0.c", 1234),
        (b'{"0": {"x": 1e1}}', "0.x", 1000),
        (b'{"x": 0.005}', "x", 0),
        (b'{"x": 0.015}', "x", 2),
        (b'{"x": -0.0}', "x", 0),
        (b'{"x": 1E-400}', "x", 0),
        (b'{"x": 92233720368547758.07}', "x", INT_MAX),
        (b'{"x": -1.5}', "x", -150),
        (b'{"x": -0.025}', "x", -2),
        (b'{"x": "-92233720368547758.07"}', "x", -INT_MAX),
    ],
)
def test_a_number_is_found_along_its_path(document, path, value):
    assert parse_reading(document, path, 2) == value


@pytest.mark.parametrize(
    ("document", "path", "reason"),
    [
        (b"", "x", "not a JSON document"),
        (b"\xff\xfe\xfa", "x", "not a JSON document"),
        (b"[" * 200_000, "x", "not a JSON document"),
        (b" " * 300_000, "x", "at most"),
        (b'{"x": NaN}', "x", "NaN is no number"),
        (b'{"x": Infinity}', "x", "Infinity is no number"),
        (b'{"x": ' + b"9" * 65 + b"}", "x", "65 characters"),
        (b'{"x": 1e999999}', "x", "beyond"),
        (b'{"x": -1e999999}', "x", "beyond"),
        (b'{"x": 92233720368547758.08}', "x", "beyond"),
        (b'{"x": -92233720368547758.08}', "x", "beyond"),
        (b'{"x": true}', "x", "no number but bool"),
        (b'{"x": null}', "x", "no number but NoneType"),
        (b'{"x": {"y": 1}}', "x", "an object with y"),
        (b'{"x": "NaN"}', "x", "no number"),
        (b'{"x": "1,5"}', "x", "text"),
        (b'{"x": "1_5"}', "x", "text"),
        (b'{"a": 1, "b": 2}', "c", "an object with a, b"),
        (b"[1]", "1", "a list of 1"),
        (b"[1]", "-1", "a list of 1"),
        (b'{"x": 1}', "x.y", "ends at 'y'"),
        (b"{}", "x" * 300, "at most 256"),
    ],
)
def test_anything_else_is_no_reading_and_says_why(document, path, reason):
    with pytest.raises(BadReading, match=reason):
        parse_reading(document, path, 2)


@pytest.mark.parametrize("decimals", [-1, 13])
def test_only_so_many_decimals_are_read(decimals):
    with pytest.raises(BadReading, match="0 to 12"):
        parse_reading(b"1", "", decimals)


@given(st.binary(max_size=200), st.text(max_size=10))
def test_no_document_makes_anything_but_a_reading_or_a_feed_error(data, path):
    with suppress(FeedError):
        assert abs(parse_reading(data, path, 8)) <= INT_MAX


@given(st.floats(0, 1e9))
def test_the_shortest_spelling_of_a_float_is_read_as_written(value):
    expected = int((Decimal(repr(value)) * 10**4).to_integral_value("ROUND_HALF_EVEN"))

    assert parse_reading(repr(value).encode(), "", 4) == expected


def fetch_from(answer, timeout_s=10.0, bytes_max=1_000, path="/"):
    """Fetch from a server that sends these bytes to every caller, then waits."""

    async def talk(stream):
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some(4_096)
        requests.append(request)
        await stream.send_all(answer(request) if callable(answer) else answer)
        await stream.receive_some()

    async def main():
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, talk, 0, host="127.0.0.1"))
            port = listener.socket.getsockname()[1]
            try:
                return await fetch_url(f"http://127.0.0.1:{port}{path}", timeout_s, bytes_max)
            finally:
                nursery.cancel_scope.cancel()

    requests = []
    try:
        return trio.run(main)
    except* FetchFailed as group:
        # The server's nursery wraps what came out of the fetch.
        raise group.exceptions[0] from None


def answer(body=b"{}", status="200 OK", headers=b""):
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n%s\r\n" % (status.encode(), len(body), headers) + body


def test_a_body_is_fetched_whole_up_to_the_bound():
    assert fetch_from(answer(b"x" * 1_000)) == b"x" * 1_000
    with pytest.raises(FetchFailed, match="more than 1000 bytes"):
        fetch_from(answer(b"x" * 1_001))


def test_the_certificates_of_the_world_are_read_once_for_all_that_is_fetched(monkeypatch):
    read = []
    make = ssl.SSLContext.load_verify_locations
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *given, **how: read.append(make(*given, **how)))
    feeds._read_certificates.cache_clear()

    assert [fetch_from(answer()) for _ in range(3)] == [b"{}"] * 3

    assert len(read) == 1
    assert feeds._read_certificates().verify_mode == ssl.CERT_REQUIRED


def test_an_endless_body_is_cut_off_at_the_bound():
    with pytest.raises(FetchFailed, match="more than 1000 bytes"):
        fetch_from(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5_000)


def test_a_server_that_stalls_is_given_up_on_in_time():
    with pytest.raises(FetchFailed, match=r"no whole answer|Timeout"):
        fetch_from(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nx", timeout_s=0.2)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer(status="404 Not Found"), "status 404"),
        (answer(status="500 Oops"), "status 500"),
        (answer(headers=b"content-encoding: gzip\r\n"), "packed"),
        (b"nonsense\r\n\r\n", "RemoteProtocolError"),
        (answer(status="302 Found", headers=b"location: file:///etc/passwd\r\n"), "only http and https"),
        (answer(status="302 Found", headers=b"location: /\r\n"), "more than 3 redirects"),
    ],
)
def test_anything_but_a_plain_answer_is_a_failure_that_says_why(reply, reason):
    with pytest.raises(FetchFailed, match=reason):
        fetch_from(reply)


def test_a_redirect_on_the_same_scheme_is_followed():
    def reply(request):
        if request.startswith(b"GET /old "):
            return answer(status="301 Moved", headers=b"location: /new\r\n")
        return answer(b"7")

    assert fetch_from(reply, path="/old") == b"7"


@pytest.mark.parametrize(
    "url",
    ["ftp://example.org/", "file:///etc/passwd", "http://", "http://[::1", "", "http://127.0.0.1:1/", "http://a b/"],
)
def test_an_address_that_cannot_be_fetched_is_a_failure(url):
    with pytest.raises(FetchFailed):
        trio.run(fetch_url, url, 5.0)


def test_https_is_never_left_for_http():
    from roles.feeds import _verify_url

    with pytest.raises(FetchFailed, match="from https to http"):
        _verify_url("http://example.org/", "https://example.org/")
