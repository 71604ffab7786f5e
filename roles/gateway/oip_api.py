"""Open Inference Protocol v2 over HTTP: the routes under /v2."""

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from protocol.ledger.model_records import ModelRecord
from roles.client import FEE_MAX
from roles.gateway.desk import KEY, Desk
from roles.gateway.faults import Fault
from roles.gateway.names import NameBook
from roles.gateway.oip import describe_model, describe_server, format_answer, read_request
from roles.gateway.passes import RIGHT, cap_fee
from roles.gateway.settings import read_settings
from roles.models import find_model
from roles.oip_tensors import HEAD_HEADER


class OipApi:
    """The handlers. `version` is that of this program."""

    def __init__(self, desk: Desk, names: NameBook, version: str) -> None:
        self._desk = desk
        self._names = names
        self._version = version

    def list_routes(self) -> list[Route]:
        model = "/v2/models/{model}"
        routes = [
            Route("/v2", self.describe),
            Route("/v2/health/live", self.tell_live),
            Route("/v2/health/ready", self.tell_ready),
        ]
        for path in (model, f"{model}/versions/{{version}}"):
            routes += [
                Route(path, self.describe_model),
                Route(f"{path}/ready", self.tell_model_ready),
                Route(f"{path}/infer", self.infer, methods=["POST"]),
            ]
        return routes

    async def describe(self, request: Request) -> Response:
        return JSONResponse(describe_server(self._version))

    async def tell_live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def tell_ready(self, request: Request) -> Response:
        is_ready = self._desk.is_ready
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    async def describe_model(self, request: Request) -> Response:
        record = self._find(request)
        versions = sorted(
            model.version
            for model in self._desk.ledger.models.values()
            if model.name == record.name and not model.retired_ms
        )
        return JSONResponse(describe_model(record, await self._names.find(record), versions))

    async def tell_model_ready(self, request: Request) -> Response:
        name, is_ready = self._find(request).name, self._desk.is_ready
        return JSONResponse({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    async def infer(self, request: Request) -> Response:
        """One inference. Its receipt is named in the answer's parameters and headers."""
        record = self._find(request)
        settings = cap_fee(read_settings(request.headers), request.scope[RIGHT], FEE_MAX)
        body = await self._desk.read_body(request)
        wanted = read_request(record, await self._names.find(record), request.headers.get(HEAD_HEADER), body)
        ask = partial(self._desk.infer, record, wanted.inputs, settings, request.scope[KEY])
        async with self._desk.counting(request, record) as use:
            answer = await self._desk.wait(request, ask)
            use.fee = answer.fee
        told = self._desk.describe_receipt(answer)
        data, head_size = format_answer(record, wanted, answer.outputs, told.parameters)
        sized = {} if head_size is None else {HEAD_HEADER: str(head_size)}
        kind = "application/json" if head_size is None else "application/octet-stream"
        return Response(data, headers={**told.headers, **sized}, media_type=kind)

    def _find(self, request: Request) -> ModelRecord:
        """The model of a path. Its version is the ledger's number, or a CID as the name can be."""
        name, version = request.path_params["model"], request.path_params.get("version")
        state = self._desk.ledger
        record = find_model(state, name)
        if version is not None:
            record = find_model(state, f"{name}@{version}") or find_model(state, version)
        is_named = record is not None and (version is None or name == record.name)
        if record is None or record.retired_ms or not is_named:
            raise make_unknown(self._desk.ledger, name if version is None else f"{name}@{version}")
        return record


def make_unknown(state: Any, wanted: str) -> Fault:
    """The fault for a model that is not served, with those that are."""
    names = sorted({record.name for record in state.models.values() if not record.retired_ms})
    reason = f"no model {wanted[:200]!r} is served; there is {', '.join(names) or 'none'}"
    return Fault(404, "model_not_found", reason)
