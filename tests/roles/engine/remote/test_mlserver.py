"""Against MLServer itself, which is installed in an environment of its own: ROLEMESH_MLSERVER names its Python.

That needs mlserver and onnxruntime: `python3 -m venv m && m/bin/pip install 'mlserver>=1.7' onnxruntime`, then
`ROLEMESH_MLSERVER=m/bin/python make test-full`.
"""

import json
import os
import socket
import subprocess
from contextlib import ExitStack

import pytest
import trio

from roles.engine.remote.backend import BackendState
from roles.engine.session import load_session
from tests.roles.engine.remote.test_backend import FILES, NAMES, compute_here, make_backend, running
from tests.support.models import MODELS, draw_inputs

PYTHON = os.environ.get("ROLEMESH_MLSERVER", "")
RUNTIME = """
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Onnx(MLModel):
    async def load(self):
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri)
        return True

    async def predict(self, payload):
        arrays = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        found = zip(self.session.get_outputs(), self.session.run(None, arrays))
        outputs = [NumpyCodec.encode_output(end.name, array) for end, array in found]
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=outputs)
"""
TYPES = {"float32": "FP32", "float64": "FP64"}

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not PYTHON, reason="NO TEST AGAINST MLSERVER: ROLEMESH_MLSERVER names no Python that has it"),
]


def describe(specs):
    return [
        {"name": s.name, "datatype": TYPES.get(s.dtype, s.dtype.upper()), "shape": [size or -1 for size in s.shape]}
        for s in specs
    ]


def write_settings(folder, ports):
    (folder / "onnx_runtime.py").write_text(RUNTIME)
    names = ("http_port", "grpc_port", "metrics_port")
    server = {"host": "127.0.0.1", "parallel_workers": 0, **dict(zip(names, ports, strict=True))}
    (folder / "settings.json").write_text(json.dumps(server))
    for name in NAMES:
        session = load_session(FILES[name])
        settings = {
            "name": name,
            "implementation": "onnx_runtime.Onnx",
            "inputs": describe(session.inputs),
            "outputs": describe(session.outputs),
            "parameters": {"uri": str(MODELS[name])},
        }
        (folder / name).mkdir()
        (folder / name / "model-settings.json").write_text(json.dumps(settings))


def test_mlserver_runs_models_for_a_node_and_gives_what_they_give_here(tmp_path):
    with ExitStack() as taken:
        sockets = [taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [each.getsockname()[1] for each in sockets]
    write_settings(tmp_path, ports)
    command = [PYTHON, "-c", "from mlserver.cli import main; main()", "start", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    async def main():
        with trio.fail_after(90):
            for name in NAMES:
                backend = make_backend(None, name, look_every_s=0.5, url=f"http://127.0.0.1:{ports[0]}/{name}")
                async with running(backend):
                    while backend.state is not BackendState.READY:
                        assert backend.state is not BackendState.UNFIT, backend.reason
                        await trio.sleep(0.05)
                    for rows in (1, 5):
                        inputs = draw_inputs(FILES[name], rows, seed=rows)
                        outputs, profile = await backend.compute(inputs, 60)
                        assert outputs == compute_here(name, inputs)
                        assert profile.startswith("ort=mlserver-1.")
                    assert backend.stats.failed == 0

    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            trio.run(main)
        finally:
            process.kill()
            process.wait()
