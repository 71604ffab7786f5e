"""HTTP to one server: bounded answers, no redirects, no proxies, certificates verified."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from protocol.tensor import Tensor
from roles.engine.remote.errors import BackendDown, BackendFailed, BackendRefused, BadAnswer
from roles.engine.remote.metadata import Server, read_server
from roles.engine.remote.settings import BackendConfig
from roles.engine.remote.wire import Question, read_answer, read_json
from roles.oip_tensors import HEAD_BYTES_MAX, HEAD_HEADER

CONNECT_S_MAX = 5.0
SAID_BYTES_MAX = 300  # of what a server says about its failure


class OipClient:
    """Made by `open_client`. Its methods raise BackendDown (nobody there), BackendFailed, BackendRefused, BadAnswer.

    None has a deadline of its own but for connecting: cancel it, and the connection is closed.
    """

    def __init__(self, http: Any, config: BackendConfig) -> None:
        self._http = http
        self._config = config

    async def describe(self) -> Server:
        """What the server says it is."""
        return read_server(await self._get_json("/v2"))

    async def verify_ready(self) -> None:
        """Nothing, when the server and its model are ready."""
        for path in ("/v2/health/ready", f"{self._config.path}/ready"):
            await self._send("GET", path, {}, b"", HEAD_BYTES_MAX)

    async def describe_model(self) -> Mapping[str, Any]:
        """What the server says of the model."""
        return await self._get_json(self._config.path)

    async def infer(self, question: Question) -> tuple[Tensor, ...]:
        """The outputs. Raises ComputeFailed as well."""
        path = f"{self._config.path}/infer"
        headers, body = await self._send("POST", path, question.headers, question.body, question.answer_bytes_max)
        head_size = headers.get(HEAD_HEADER)
        if head_size is None and len(body) > HEAD_BYTES_MAX and question.is_binary:
            raise BadAnswer(f"raw tensors were asked for, {len(body)} bytes came without {HEAD_HEADER}")
        return read_answer(question, head_size, body)

    async def _get_json(self, path: str) -> dict[str, Any]:
        return read_json((await self._send("GET", path, {}, b"", HEAD_BYTES_MAX))[1])

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, bytes_max: int
    ) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of an answer with status 200."""
        import httpx

        url = self._config.base + path
        # A kept connection may have been closed by the server while nothing was under way: one more try, on a new one.
        for is_last in (False, True):
            try:
                async with self._http.stream(method, url, headers=headers, content=body or None) as response:
                    return response.headers, await _read(response, path, bytes_max)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise BackendDown(f"{self._config.base} cannot be reached: {_describe(error)}") from error
            except httpx.RemoteProtocolError as error:
                if is_last or "without sending a response" not in str(error):
                    raise BackendFailed(f"{path}: the answer broke off: {_describe(error)}") from error
            except (httpx.HTTPError, ssl.SSLError) as error:
                raise BackendFailed(f"{path}: {_describe(error)}") from error
        raise AssertionError


@asynccontextmanager
async def open_client(config: BackendConfig) -> AsyncIterator[OipClient]:
    """A client for one server; its connections are closed on the way out."""
    # Here, because a node without backends, and every command, starts without it.
    import httpx

    # One connection more than jobs, so that looking after the server never waits for them.
    limits = httpx.Limits(max_connections=config.concurrency + 1, max_keepalive_connections=config.concurrency + 1)
    async with httpx.AsyncClient(
        # Without https there is nothing to verify, and reading the usual certificates takes longer than all else here.
        verify=ssl.create_default_context(cafile=config.ca) if config.ca else config.url.startswith("https:"),
        headers={"Accept-Encoding": "identity"},
        timeout=httpx.Timeout(None, connect=CONNECT_S_MAX),
        limits=limits,
        trust_env=False,
        follow_redirects=False,
    ) as http:
        yield OipClient(http, config)


async def _read(response: Any, path: str, bytes_max: int) -> bytes:
    # Unpacking would let a small answer grow past any bound.
    if response.headers.get("content-encoding", "identity") != "identity":
        raise BadAnswer(f"{path}: the answer is packed though that was not asked for")
    if response.status_code != 200:
        said = bytearray()
        async for chunk in response.aiter_raw(SAID_BYTES_MAX):
            said += chunk
            break
        text = f"{path}: status {response.status_code}: {said[:SAID_BYTES_MAX].decode('utf-8', 'replace')!r}"
        # Where a redirect leads is not whom the operator chose.
        raise (BackendRefused if 400 <= response.status_code < 500 else BackendFailed)(text)
    length = response.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > bytes_max:
        raise BadAnswer(f"{path}: the answer has {length} bytes, at most {bytes_max} are read")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > bytes_max:
            raise BadAnswer(f"{path}: the answer has more than {bytes_max} bytes")
    return bytes(body)


def _describe(error: BaseException) -> str:
    """What lies at its bottom, where the library says nothing itself: of a certificate it only says that it failed."""
    while not str(error) and (below := error.__cause__ or error.__context__) is not None:
        error = below
    return f"{type(error).__name__} {str(error)[:200]}".strip()
