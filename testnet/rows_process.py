"""A process that runs a model over rows, under this Python or another: the near end of `roles.engine.rows_runner`."""

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Timer
from typing import IO, Any

from roles.engine import rows_runner
from roles.engine.rows_runner import Arrays, read_frame, write_frame

ANSWER_S_MAX = 120.0
BATCHES = (1, 8, 64)
_STDERR_BYTES = 2_000


class RowsFailed(Exception):
    """A Python could not run the model. The text says which one, and why."""


class RowsProcess:
    """Owns one process. RowsFailed when it does not start or load the models; the first of them is the honest one."""

    def __init__(self, python: str, models: Mapping[str, bytes]) -> None:
        import numpy as np

        self._python = python
        script = str(Path(rows_runner.__file__).resolve())
        with ExitStack() as undo:
            folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="rolemesh-rows-"))
            self._stderr = undo.enter_context(tempfile.TemporaryFile())
            try:
                self._popen = subprocess.Popen(
                    [python, "-I", script],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._stderr,
                    cwd=folder,
                )
            except OSError as error:
                raise RowsFailed(f"{python} cannot be run: {error.strerror}") from error
            undo.callback(self._end)
            self._stdin, self._stdout = _take(self._popen.stdin), _take(self._popen.stdout)
            arrays = {name: np.frombuffer(data, np.uint8) for name, data in models.items()}
            self.described = self._exchange({}, arrays)[0]
            self._undo = undo.pop_all()

    @property
    def batches(self) -> tuple[int, ...]:
        """How many rows it can be asked to run at a time: one, where the model's first dimension is fixed."""
        shapes = [shape for _, _, shape in self.described["inputs"]]
        return (1,) if any(isinstance(shape[0], int) for shape in shapes if shape) else BATCHES

    @property
    def version(self) -> str:
        """Of onnxruntime."""
        return str(self.described["version"])

    def run(self, inputs: Sequence[Any], model: str, level: str, batch: int, threads: int = 1) -> list[Any]:
        """The outputs for all rows of `inputs`, as arrays, `batch` rows at a time."""
        head = {"model": model, "level": level, "threads": threads, "batch": batch}
        _, arrays = self._exchange(head, {f"input:{place}": array for place, array in enumerate(inputs)})
        return [arrays[f"output:{place}"] for place in range(len(arrays))]

    def close(self) -> None:
        """End the process and reap it."""
        self._undo.close()

    def __enter__(self) -> "RowsProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, head: Any, arrays: Arrays) -> tuple[Any, Arrays]:
        late = Timer(ANSWER_S_MAX, self._popen.kill)
        late.start()
        try:
            write_frame(self._stdin, head, arrays)
            answer = read_frame(self._stdout)
        except (OSError, ValueError) as error:
            raise RowsFailed(f"{self._python}: {error}: {self._read_stderr()}") from error
        finally:
            late.cancel()
        if answer is None:
            raise RowsFailed(f"{self._python} ended in mid-run: {self._read_stderr()}")
        if "error" in answer[0]:
            raise RowsFailed(f"{self._python}: {answer[0]['error']}")
        return answer

    def _end(self) -> None:
        self._popen.kill()
        self._popen.wait()
        self._stdout.close()
        with suppress(BrokenPipeError):  # what it was still to be told
            self._stdin.close()

    def _read_stderr(self) -> str:
        """The last line of what it has written, for people."""
        self._popen.kill()
        self._popen.wait()
        size = self._stderr.seek(0, 2)
        self._stderr.seek(max(0, size - _STDERR_BYTES))
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._popen.returncode}, after at most {ANSWER_S_MAX:.0f} s"


def _take(pipe: IO[bytes] | None) -> Any:
    assert pipe is not None
    return pipe
