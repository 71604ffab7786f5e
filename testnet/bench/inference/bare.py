"""The ceiling: a process that does nothing but run a model, under the profile of a node's own workers.

`Bare` is its near end. It is told over its standard input what to load and how often to run it, one JSON object a line.
"""

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

WARM_RUNS = 5


class Bare:
    """One process. Use as a context manager."""

    def __enter__(self) -> "Bare":
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "testnet.bench.inference.bare"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._popen.stdin is not None
        with suppress(BrokenPipeError):
            self._popen.stdin.close()
        self._popen.wait()

    def load(self, path: Path) -> None:
        self._exchange(load=str(path))

    def time_runs(self, path: Path, count: int) -> list[float]:
        """Seconds of each of so many runs on one row."""
        return [float(each) for each in self._exchange(run=str(path), count=count)]

    def _exchange(self, **command: object) -> Any:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(json.dumps(command) + "\n")
        self._popen.stdin.flush()
        return json.loads(self._popen.stdout.readline())


def main() -> None:
    """Answer until the pipe is closed."""
    import numpy as np

    from roles.engine.session import load_session
    from testnet.bench.inference.models import ROW

    rows = np.linspace(0, 1, ROW, dtype=np.float32)[None]
    sessions = {}
    for line in sys.stdin:
        command = json.loads(line)
        answer: list[float] = []
        if "load" in command:
            sessions[command["load"]] = load_session(Path(command["load"]).read_bytes())
        else:
            run = sessions[command["run"]].inner.run
            for _ in range(WARM_RUNS):
                run(None, {"x": rows})
            for _ in range(command["count"]):
                begun_s = time.perf_counter()
                run(None, {"x": rows})
                answer.append(time.perf_counter() - begun_s)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
