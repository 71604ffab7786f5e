"""A server of Open Inference Protocol v2 that runs models with onnxruntime, and misbehaves when it is told to.

It shares no code with the client: numpy and h11 alone. One connection serves many requests.
"""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11
import numpy as np
import onnxruntime
import trio

HEAD = "inference-header-content-length"
TYPES = {
    "UINT8": "u1",
    "INT8": "i1",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BOOL": "?",
}
OF_ORT = {"tensor(uint8)": "UINT8", "tensor(float)": "FP32", "tensor(int64)": "INT64", "tensor(int32)": "INT32"}
HUGE_BYTES = 100_000_000


@dataclass
class OipServer:
    """`extensions` as its metadata says; `spoil` names what it does wrong to the answers of `infer` from now on."""

    models: dict[str, bytes]
    extensions: tuple[str, ...] = ("binary_tensor_data",)
    spoil: str = ""
    is_ready: bool = True
    metadata: dict = field(default_factory=dict)  # stands in for what it would say of a model
    hold: trio.Event | None = None  # answers of `infer` wait for it
    is_mute: bool = False  # to all but `infer`
    port: int = 0
    asked: list[str] = field(default_factory=list)  # paths
    kinds: list[str] = field(default_factory=list)  # "binary" or "json", of every `infer`
    running: int = 0
    running_max: int = 0
    sent: int = 0  # bytes of the answer in which it was hung up on

    def __post_init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the last bits of some models move with it
        self.sessions = {name: onnxruntime.InferenceSession(data, options) for name, data in self.models.items()}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            while await self._serve_one(stream, connection):
                connection.start_next_cycle()
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve_one(self, stream: trio.abc.Stream, connection: h11.Connection) -> bool:
        request, body = None, b""
        while True:
            event = connection.next_event()
            match event:
                case h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some(65_536))
                case h11.Request():
                    request = event
                case h11.Data(data=data):
                    body += data
                case h11.EndOfMessage():
                    break
                case _:
                    return False
        path = request.target.decode()
        self.asked.append(path)
        headers = {name.decode(): value.decode() for name, value in request.headers}
        status, extra, answer = await self._answer(path, headers, body)
        if status == 0:
            return False
        if path.endswith("/infer") and self.spoil in ("huge", "huge unsaid", "cut", "redirect", "packed"):
            return await self._misanswer(stream, answer)
        sized = [("content-length", str(len(answer))), *extra]
        parts = (h11.Response(status_code=status, headers=sized), h11.Data(data=answer), h11.EndOfMessage())
        await stream.send_all(b"".join(connection.send(part) or b"" for part in parts))
        return True

    async def _misanswer(self, stream: trio.abc.Stream, answer: bytes) -> bool:
        line = b"HTTP/1.1 200 OK\r\n"
        match self.spoil:
            case "huge":
                await stream.send_all(line + b"content-length: %d\r\n\r\n" % HUGE_BYTES)
            case "huge unsaid":
                await stream.send_all(line + b"\r\n")
            case "redirect":
                away = b"HTTP/1.1 307 Elsewhere\r\nlocation: %s/v2\r\ncontent-length: 0\r\n\r\n" % self.url.encode()
                await stream.send_all(away)
                return False
            case "packed":
                await stream.send_all(line + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\nxx")
                return False
            case "cut":
                await stream.send_all(line + b"content-length: %d\r\n\r\n" % len(answer) + answer[: len(answer) // 2])
                return False
        while self.sent < HUGE_BYTES:
            await stream.send_all(b" " * 65_536)
            self.sent += 65_536
        return False

    async def _answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list, bytes]:
        if self.is_mute and not path.endswith("/infer"):
            await trio.sleep_forever()
        match path.split("/")[2:]:
            case []:
                return _say({"name": "tester", "version": "1.0", "extensions": list(self.extensions)})
            case ["health", "ready"]:
                return (200 if self.is_ready else 503), [], b""
            case ["models", name] if name in self.sessions:
                return _say(self.metadata or self._describe(name))
            case ["models", name, "ready"] if name in self.sessions:
                return 200, [], b""
            case ["models", name, "infer"] if name in self.sessions:
                self.running += 1
                self.running_max = max(self.running_max, self.running)
                try:
                    return await self._infer(name, headers, body)
                finally:
                    self.running -= 1
        return 404, [], b'{"error": "no such thing"}'

    def _describe(self, name: str) -> dict:
        session = self.sessions[name]
        ends = {
            kind: [
                {
                    "name": each.name,
                    "datatype": OF_ORT[each.type],
                    "shape": [s if isinstance(s, int) else -1 for s in each.shape],
                }
                for each in found
            ]
            for kind, found in (("inputs", session.get_inputs()), ("outputs", session.get_outputs()))
        }
        return {"name": name, "versions": ["1"], "platform": "onnxruntime_onnx", **ends}

    async def _infer(self, name: str, headers: dict[str, str], body: bytes) -> tuple[int, list, bytes]:
        if self.hold is not None:
            await self.hold.wait()
        if self.spoil == "dies":
            return 0, [], b""
        if self.spoil in ("500", "400"):
            return int(self.spoil), [], b'{"error": "out of order"}'
        size = int(headers.get(HEAD, len(body)))
        head, raw = json.loads(body[:size]), body[size:]
        self.kinds.append("binary" if HEAD in headers else "json")
        inputs = {}
        for each in head["inputs"]:
            if "data" in each:
                array = np.array(each["data"], TYPES[each["datatype"]])
            else:
                count = each["parameters"]["binary_data_size"]
                array, raw = np.frombuffer(raw[:count], TYPES[each["datatype"]]), raw[count:]
            inputs[each["name"]] = array.reshape(each["shape"])
        arrays = self.sessions[name].run(None, inputs)
        return self._pack(name, head, arrays, HEAD in headers)

    def _pack(self, name: str, head: dict, arrays: list, is_binary: bool) -> tuple[int, list, bytes]:
        names = [each.name for each in self.sessions[name].get_outputs()]
        types = [OF_ORT[each.type] for each in self.sessions[name].get_outputs()]
        if self.spoil == "no number":
            arrays = [np.full_like(array, np.nan) for array in arrays]
        outputs, raw = [], b""
        for label, datatype, array in zip(names, types, arrays, strict=True):
            output = {"name": label, "datatype": datatype, "shape": list(array.shape)}
            if is_binary:
                output["parameters"] = {"binary_data_size": array.nbytes}
                raw += array.tobytes()
            else:
                output["data"] = array.reshape(-1).tolist()
            outputs.append(output)
        document = {"id": head["id"], "model_name": name, "outputs": outputs}
        first = outputs[0]
        match self.spoil:
            case "wrong shape":
                first["shape"] = list(reversed(first["shape"]))
            case "wrong type":
                first["datatype"] = "FP64"
            case "wrong id":
                document["id"] = "999"
            case "wrong name":
                first["name"] = "else"
            case "one output more":
                outputs.append({**first, "name": "more", "parameters": {"binary_data_size": 0}, "data": []})
            case "null" if not is_binary:
                first["data"][0] = None
            case "text" if not is_binary:
                first["data"][0] = "1"
            case "too few" if not is_binary:
                first["data"].pop()
            case "too few":
                raw = raw[:-1]
            case "too many":
                raw += b"x"
            case "no JSON":
                return 200, [], b"<html>"
        said = json.dumps(document).encode()
        return 200, [(HEAD, str(len(said)))] if is_binary else [], said + raw


@asynccontextmanager
async def serving(server: OipServer, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[OipServer]:
    """The server on loopback until the way out, when it hangs up on everybody."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
        server.port = listener.socket.getsockname()[1]

        async def serve(stream: trio.SocketStream) -> None:
            await server.serve(trio.SSLStream(stream, tls, server_side=True) if tls is not None else stream)

        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield server
        nursery.cancel_scope.cancel()


def _say(document: dict) -> tuple[int, list, bytes]:
    return 200, [("content-type", "application/json")], json.dumps(document).encode()
