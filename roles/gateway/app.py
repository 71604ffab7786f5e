"""The gateway's application: its routes, who is let in, and what it says when something fails."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from roles.gateway.counts import Counts
from roles.gateway.desk import KEY, Desk
from roles.gateway.door import Caller, Door
from roles.gateway.faults import Fault
from roles.gateway.openai import describe_fault
from roles.gateway.passes import RIGHT
from roles.gateway.spending import WrongKey
from roles.health import Page

WRONG_KEY_S = 1.0  # that whoever guesses waits for an answer, holding one of few connections
GONE = 499  # nobody reads it: the status of those who hung up, for the counters
RECEIPT_TYPE = "application/octet-stream"
_PAGES = ("/livez", "/readyz", "/metrics")


class Gateway:
    """An ASGI application. `get_page` gives the node's own pages; `apis` bring the routes.

    Who asks is let in by `door`; with which key and under which pass stands in the scope, as KEY and RIGHT.
    """

    def __init__(
        self,
        desk: Desk,
        apis: Iterable[Sequence[Route]],
        door: Door,
        get_page: Callable[[str], Page],
        counts: Counts,
    ) -> None:
        self._desk = desk
        self._door = door
        self._get_page = get_page
        self._counts = counts
        routes = [route for api in apis for route in api]
        routes += [Route(path, self._show_page) for path in _PAGES]
        routes.append(Route("/receipts/{request_id}/{cid}", self._give_receipt))
        handlers: Any = {Fault: answer_fault, HTTPException: _answer_http, ClientDisconnect: _answer_gone}
        self._app = Starlette(routes=routes, exception_handlers=handlers)
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        api, began_s = find_api(scope["path"]), time.monotonic()
        status = GONE

        body = _Body(receive)

        async def count_and_send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not body.is_over:
                    nursery.start_soon(body.leave)
            await send(message)

        try:
            async with trio.open_nursery() as nursery:
                await self._answer(scope, body.receive, count_and_send)
                nursery.cancel_scope.cancel()
        finally:
            self._counts.note(api, status, time.monotonic() - began_s)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        address = request.client.host if request.client is not None else ""
        try:
            caller = Caller(address, request.headers)
            scope[KEY] = self._door.admit(scope["path"], caller)
            scope[RIGHT] = self._door.admit_pass(scope["path"], caller)
        except Fault as fault:
            if isinstance(fault, WrongKey):
                await trio.sleep(WRONG_KEY_S)
            await answer_fault(request, fault)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _show_page(self, request: Request) -> Response:
        page = self._get_page(f"{request.url.path}?{request.url.query}")
        more = self._counts.format(self._desk.under_way) if request.url.path == "/metrics" else ""
        headers = {"Cache-Control": "no-store", "Content-Type": page.content_type}
        return Response(page.body + more, page.status, headers)

    async def _give_receipt(self, request: Request) -> Response:
        found = request.path_params
        data = await self._desk.get_receipt(found["request_id"], found["cid"])
        headers = {"Content-Disposition": f'attachment; filename="{found["request_id"]}.receipt"'}
        return Response(data, headers=headers, media_type=RECEIPT_TYPE)


class _Body:
    """The body of a request, as far as anybody reads it."""

    def __init__(self, receive: Any) -> None:
        self._receive = receive
        self.is_over = False

    async def receive(self) -> Any:
        message = await self._receive()
        self.is_over = self.is_over or not message.get("more_body", False)
        return message

    async def leave(self) -> None:
        """Take what nobody reads: Hypercorn cannot end an answer while more than ten pieces of a request wait."""
        while not self.is_over:
            await self.receive()


def find_api(path: str) -> str:
    """What a path belongs to, for counting.

    >>> find_api("/v2/models/digits"), find_api("/v1/models"), find_api("/else")
    ('oip', 'openai', 'other')
    """
    return {"v2": "oip", "v1": "openai"}.get(path.split("/")[1] if "/" in path else "", "other")


def answer_fault(request: Request, fault: Fault) -> Response:
    """The fault, in the words of the API that was asked."""
    if find_api(request.url.path) == "openai":
        return JSONResponse(describe_fault(fault), fault.status, fault.headers)
    return JSONResponse({"error": fault.reason, "code": fault.code}, fault.status, fault.headers)


def _answer_http(request: Request, error: HTTPException) -> Response:
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
    reason = f"{request.method} {request.url.path[:200]}: {error.detail}"
    response = answer_fault(request, Fault(error.status_code, code, reason))
    response.headers.update(error.headers or {})
    return response


def _answer_gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=GONE)
