"""Goes where readings come from: over HTTP, to a file, to a program. All within a time and a number of bytes."""

import json
import os
import signal
import stat
import subprocess
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from roles.sources import DOCUMENT_BYTES_MAX, FILE, PROGRAM, SERIES_BYTES_MAX, FetchFailed

if TYPE_CHECKING:
    import ssl

    import trio

REDIRECTS_MAX = 3
_LOOPBACK = ("localhost", "::1")


async def fetch_address(address: str, timeout_s: float) -> bytes:
    """What is at an address of a source; FetchFailed when it cannot be had whole within `timeout_s` seconds."""
    if address.startswith(FILE):
        return await read_series(address.removeprefix(FILE), timeout_s)
    if address.startswith(PROGRAM):
        return await run_program(json.loads(address.removeprefix(PROGRAM)), timeout_s)
    return await fetch_url(address, timeout_s)


async def read_series(path: str, timeout_s: float, bytes_max: int = SERIES_BYTES_MAX) -> bytes:
    """A regular file of at most `bytes_max` bytes; FetchFailed otherwise."""
    import trio

    with trio.move_on_after(timeout_s):
        # The type stubs that come with libp2p know an older trio.
        read = partial(trio.to_thread.run_sync, abandon_on_cancel=True)  # type: ignore[call-arg]
        return await read(partial(_read_file, path, bytes_max))
    raise FetchFailed(f"{path}: not read within {timeout_s} s")


async def run_program(words: list[str], timeout_s: float, bytes_max: int = DOCUMENT_BYTES_MAX) -> bytes:
    """What a program prints before it ends well; FetchFailed otherwise. It and what it started are killed then."""
    import trio

    try:
        process = await trio.lowlevel.open_process(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        raise FetchFailed(f"{words[0]}: {error.strerror or error}") from error
    try:
        with trio.move_on_after(timeout_s):
            said = await _read_output(process, words[0], bytes_max)
            code = await process.wait()
            if code:
                raise FetchFailed(f"{words[0]}: ended with {code}")
            return said
        raise FetchFailed(f"{words[0]}: did not end within {timeout_s} s")
    finally:
        await _end_group(process)


async def _read_output(process: "trio.Process", name: str, bytes_max: int) -> bytes:
    assert process.stdout is not None  # a pipe was asked for
    said = bytearray()
    while chunk := await process.stdout.receive_some():
        said += chunk
        if len(said) > bytes_max:
            raise FetchFailed(f"{name}: printed more than {bytes_max} bytes")
    return bytes(said)


async def _end_group(process: "trio.Process") -> None:
    import trio

    with suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, signal.SIGKILL)
    with trio.CancelScope(shield=True):
        await process.wait()
        if process.stdout is not None:
            await process.stdout.aclose()


def _read_file(path: str, bytes_max: int) -> bytes:
    try:
        # Opening a named pipe would wait for a writer, for good.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FetchFailed(f"{path}: no regular file")
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise FetchFailed(f"{path}: {error.strerror or error}") from error
    if len(data) > bytes_max:
        raise FetchFailed(f"{path}: more than {bytes_max} bytes")
    return data


@cache
def _read_certificates() -> "ssl.SSLContext":
    """Whom https trusts. Read once: a client that is not given it reads all certificates, for a fetch over http too."""
    import httpx

    return httpx.create_ssl_context()


async def fetch_url(url: str, timeout_s: float, bytes_max: int = DOCUMENT_BYTES_MAX) -> bytes:
    """The body of a GET, at most `bytes_max` bytes, within `timeout_s` seconds in all; FetchFailed otherwise.

    Follows at most REDIRECTS_MAX redirects, never from https to http and never to another scheme.
    """
    # Here, because importing them takes longer than most commands that never fetch anything.
    import httpx
    import trio

    _verify_url(url, url)
    with trio.move_on_after(timeout_s):
        try:
            for _ in range(REDIRECTS_MAX + 1):
                # A proxy from the environment is for the world outside, not for this machine.
                trusted = _read_certificates()
                async with httpx.AsyncClient(
                    timeout=timeout_s, verify=trusted, trust_env=not _is_loopback(url)
                ) as client:
                    target, body = await _get(client, url, bytes_max)
                if target is None:
                    return body
                _verify_url(target, url)
                url = target
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise FetchFailed(f"{url}: {type(error).__name__}: {error}") from error
        raise FetchFailed(f"{url}: more than {REDIRECTS_MAX} redirects")
    raise FetchFailed(f"{url}: no whole answer within {timeout_s} s")


async def _get(client: Any, url: str, bytes_max: int) -> tuple[str | None, bytes]:
    """Where a redirect leads, or the body."""
    # Unpacking would let a small answer grow past any bound: identity, or nothing.
    async with client.stream("GET", url, headers={"accept-encoding": "identity"}) as response:
        if response.is_redirect:
            return urljoin(url, response.headers.get("location", "")), b""
        if response.status_code != 200:
            raise FetchFailed(f"{url}: status {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise FetchFailed(f"{url}: the answer is packed though we asked for none of it")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > bytes_max:
                raise FetchFailed(f"{url}: more than {bytes_max} bytes")
        return None, bytes(body)


def _verify_url(url: str, before: str) -> None:
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    except ValueError as error:
        raise FetchFailed(f"{url[:200]}: {error}") from error
    if scheme not in ("http", "https") or not host:
        raise FetchFailed(f"{url[:200]}: only http and https addresses are fetched")
    if scheme == "http" and urlsplit(before).scheme == "https":
        raise FetchFailed(f"{before[:200]}: redirects from https to http")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in _LOOPBACK or host.startswith("127.")
