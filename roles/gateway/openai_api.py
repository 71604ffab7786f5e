"""OpenAI's API over HTTP: the routes under /v1."""

import secrets
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from protocol.ledger.model_records import ModelRecord
from roles.client import STREAM_FEE_MAX
from roles.client_errors import ClientError
from roles.client_stream import Stream, StreamedPiece
from roles.client_waiter import Answer
from roles.gateway.desk import KEY, Desk, explain
from roles.gateway.faults import Fault
from roles.gateway.openai import (
    SEED_MAX,
    Reply,
    TextWanted,
    Usage,
    describe_model,
    format_broken,
    format_end,
    format_piece,
    format_reply,
    is_text_model,
    read_document,
    read_text_request,
    split_stop,
)
from roles.gateway.passes import RIGHT, Use, cap_fee
from roles.gateway.settings import read_settings
from roles.models import find_model

EVENTS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


Begin = Callable[[], AbstractAsyncContextManager[Stream]]
Counting = AbstractAsyncContextManager[Use]


class OpenAiApi:
    """The handlers. Models that make text are served; all else is `model_not_found` here."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def list_routes(self) -> list[Route]:
        return [
            Route("/v1/models", self.list_models),
            Route("/v1/models/{model:path}", self.describe_model),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]

    async def list_models(self, request: Request) -> Response:
        data = [describe_model(self._find(name)) for name in self._list_names()]
        return JSONResponse({"object": "list", "data": data})

    async def describe_model(self, request: Request) -> Response:
        return JSONResponse(describe_model(self._find(request.path_params["model"])))

    async def complete(self, request: Request) -> Response:
        return await self._answer(request, is_chat=False)

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, is_chat=True)

    async def _answer(self, request: Request, is_chat: bool) -> Response:
        settings = cap_fee(read_settings(request.headers), request.scope[RIGHT], STREAM_FEE_MAX)
        document = read_document(await self._desk.read_body(request))
        record, wanted = self._find(document["model"]), read_text_request(document, is_chat)
        seed = secrets.randbelow(SEED_MAX) if wanted.seed is None else wanted.seed
        begin = partial(self._desk.stream, record, wanted, seed, settings, request.scope[KEY])
        counting = self._desk.counting(request, record)
        kind = "chatcmpl" if is_chat else "cmpl"
        reply = Reply(is_chat, f"{kind}-{secrets.token_hex(12)}", int(time.time()), record.name)
        if wanted.streams:
            return StreamedReply(self._desk, request, begin, counting, wanted, reply)
        return await self._answer_whole(request, begin, counting, wanted, reply)

    async def _answer_whole(
        self, request: Request, begin: Begin, counting: Counting, wanted: TextWanted, reply: Reply
    ) -> Response:
        async def gather() -> tuple[list[StreamedPiece], Answer]:
            async with begin() as stream:
                return [piece async for piece in stream], stream.answer

        async with counting as use:
            pieces, answer = await self._desk.wait(request, gather)
            use.fee = answer.fee
        text, finish = split_stop("".join(piece.text for piece in pieces), wanted.stop)
        usage = Usage(len(wanted.prompt), sum(len(piece.tokens) for piece in pieces))
        told = self._desk.describe_receipt(answer)
        return JSONResponse(format_reply(reply, text, finish, usage, told.parameters), headers=told.headers)

    def _list_names(self) -> list[str]:
        models = self._desk.ledger.models.values()
        return sorted({record.name for record in models if not record.retired_ms and is_text_model(record)})

    def _find(self, name: str) -> ModelRecord:
        record = find_model(self._desk.ledger, name)
        if record is None or record.retired_ms or not is_text_model(record):
            names = ", ".join(self._list_names()) or "none"
            reason = f"no model {name[:200]!r} that makes text is served; there is {names}"
            raise Fault(404, "model_not_found", reason)
        return record


class StreamedReply(Response):
    """Sends pieces while they are made. Until the first has come, what fails is answered with its own status."""

    def __init__(
        self, desk: Desk, request: Request, begin: Begin, counting: Counting, wanted: TextWanted, reply: Reply
    ) -> None:
        super().__init__()
        self._desk = desk
        self._request = request
        self._begin = begin
        self._counting = counting
        self._wanted = wanted
        self._reply = reply
        self._has_begun = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Raises Fault or ClientDisconnect before the first piece; what fails later is an event of the stream."""
        try:
            async with self._counting as use:
                await self._desk.wait(self._request, lambda: self._send_all(send, use))
        except ClientDisconnect:
            if not self._has_begun:
                raise

    async def _send_all(self, send: Any, use: Use) -> None:
        made, end = 0, "length"
        async with self._begin() as stream:
            try:
                async for piece in stream:
                    text, end = split_stop(piece.text, self._wanted.stop)
                    await self._send(send, format_piece(self._reply, text, is_first=not made), more=True)
                    made += len(piece.tokens)
            except ClientError as error:
                if not self._has_begun:
                    raise
                await self._send(send, format_broken(explain(error)), more=False)
                return
        use.fee = stream.answer.fee
        usage = Usage(len(self._wanted.prompt), made)
        told = self._desk.describe_receipt(stream.answer)
        last = format_end(self._reply, end, usage, told.parameters, self._wanted.tells_usage)
        await self._send(send, last, more=False)

    async def _send(self, send: Any, data: bytes, more: bool) -> None:
        if not self._has_begun:
            self._has_begun = True
            await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
        await send({"type": "http.response.body", "body": data, "more_body": more})
