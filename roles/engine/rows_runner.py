"""Run a model over rows of inputs under any optimisation level and batch size: `PYTHON -I rows_runner.py`.

A script of its own, so that the Python of any environment with onnxruntime and numpy can run it: calibration compares
versions. It reads frames from stdin and answers each on stdout; a frame is 8 bytes of length and an .npz archive whose
array `head` is JSON. The first frame holds the models, the others name one of them with a level and a batch size.
"""

import io
import json
import os
import resource
import sys
from typing import Any, BinaryIO

import numpy as np

MEMORY_BYTES_MAX = 4 * 1024**3
FRAME_BYTES_MAX = 1024**3
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disable": "ORT_DISABLE_ALL",
}

Arrays = dict[str, "np.ndarray[Any, np.dtype[Any]]"]


def write_frame(stream: BinaryIO, head: Any, arrays: Arrays) -> None:
    """One frame; `arrays` must not have one called `head`."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays)
    data = buffer.getvalue()
    stream.write(len(data).to_bytes(8, "big") + data)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[Any, Arrays] | None:
    """The head and arrays of the next frame; None at the end. ValueError when it is none."""
    size = stream.read(8)
    if len(size) < 8:
        return None
    length = int.from_bytes(size, "big")
    if length > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {length} bytes")
    data = stream.read(length)
    if len(data) < length:
        return None
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return json.loads(arrays.pop("head").tobytes()), arrays


class Runner:
    """Sessions of the models it was given, by model, level and threads."""

    def __init__(self, models: Arrays) -> None:
        import onnxruntime

        self._ort = onnxruntime
        self._models = {name: array.tobytes() for name, array in models.items()}
        self._sessions: dict[tuple[str, str, int], Any] = {}

    def describe(self) -> dict[str, Any]:
        """The version, and what the first model takes and gives."""
        session = self._load(next(iter(self._models)), "all", 1)
        return {
            "version": self._ort.__version__,
            "inputs": [[item.name, item.type, item.shape] for item in session.get_inputs()],
            "outputs": [[item.name, item.type, item.shape] for item in session.get_outputs()],
        }

    def run(self, model: str, level: str, threads: int, batch: int, arrays: Arrays) -> Arrays:
        """The outputs for all rows, computed `batch` rows at a time."""
        session = self._load(model, level, threads)
        names = [item.name for item in session.get_inputs()]
        rows = [arrays[f"input:{place}"] for place in range(len(names))]
        parts = [
            session.run(None, {name: array[at : at + batch] for name, array in zip(names, rows, strict=True)})
            for at in range(0, len(rows[0]), batch)
        ]
        return {f"output:{place}": np.concatenate(pieces) for place, pieces in enumerate(zip(*parts, strict=True))}

    def _load(self, model: str, level: str, threads: int) -> Any:
        key = (model, level, threads)
        if key not in self._sessions:
            options = self._ort.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.graph_optimization_level = getattr(self._ort.GraphOptimizationLevel, LEVELS[level])
            options.log_severity_level = 4
            data = self._models[model]
            self._sessions[key] = self._ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return self._sessions[key]


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer until the pipe is closed. Whatever onnxruntime raises is said, and ends it."""
    runner: Runner | None = None
    while frame := read_frame(source):
        head, arrays = frame
        try:
            if runner is None:
                runner = Runner(arrays)
                write_frame(sink, runner.describe(), {})
            else:
                write_frame(sink, {}, runner.run(**head, arrays=arrays))
        except Exception as error:  # onnxruntime has a class for every code, in a module that versions have moved
            write_frame(sink, {"error": f"{type(error).__name__}: {error}"[:500]}, {})
            return


if __name__ == "__main__":
    for limit, most in ((resource.RLIMIT_AS, MEMORY_BYTES_MAX), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        resource.setrlimit(limit, (most, most))
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints goes to stderr, not between the frames
    serve(sys.stdin.buffer, pipe)
