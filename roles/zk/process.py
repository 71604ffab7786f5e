"""Start a worker for one task, in a folder of its own, and bound what it can cost us."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import CannotCheck
from roles.zk.worker import REFUSED

TIMEOUT_S = {"check": 30.0, "make": 180.0}  # alone, 0.3 s and 2 s at most
OUTPUT_BYTES_MAX = 256 * 1024
HOW_TO_INSTALL = "install ezkl with: pip install 'rolemesh[zk]'"
_SOURCE = str(Path(__file__).resolve().parents[2])


class WorkerFailed(Exception):
    """The process did not end as it should. The message says how it ended."""


@dataclass(frozen=True)
class Ended:
    """What came of a task: why ezkl refused it, if it did, and the files that were asked for."""

    refused: str
    files: Mapping[str, bytes]


def has_ezkl() -> bool:
    """Whether ezkl is installed. Does not import it."""
    return importlib.util.find_spec("ezkl") is not None


def run_worker(task: str, files: Mapping[str, bytes], wanted: tuple[str, ...] = (), timeout_s: float = 0) -> Ended:
    """Run a task of `worker` on these files and read the wanted ones it wrote. Blocks.

    CannotCheck without ezkl; WorkerFailed when the process is killed, crashes or is not done in time.
    """
    if not has_ezkl():
        raise CannotCheck(f"ezkl is not installed; {HOW_TO_INSTALL}")
    timeout_s = timeout_s or TIMEOUT_S[task]
    with tempfile.TemporaryDirectory(prefix="rolemesh-zk-") as name:
        folder = Path(name)
        for path, data in files.items():
            (folder / path).write_bytes(data)
        # Into files, which have a size limit, and not into pipes, which we would have to read.
        with (folder / "said").open("wb") as said, (folder / "errors").open("wb") as errors:
            try:
                code = subprocess.run(
                    [sys.executable, "-P", "-m", "roles.zk.worker", task, str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=errors,
                    cwd=folder,
                    env=_build_environment(name),
                    timeout=timeout_s,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise WorkerFailed(f"not done in {timeout_s:.0f} s") from error
        if code == REFUSED:
            return Ended(_read_reason(folder / "said"), {})
        if code != 0:
            tail = _read(folder / "errors")[-300:].decode("utf-8", "replace").strip()
            raise WorkerFailed(f"ended with status {code}: {tail}")
        return Ended("", {path: _read(folder / path) for path in wanted})


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(OUTPUT_BYTES_MAX)


def _read_reason(path: Path) -> str:
    try:
        # ezkl prints lines of its own before ours.
        return str(json.loads(_read(path).splitlines()[-1])["refused"]) or "no reason"
    except (ValueError, KeyError, TypeError, IndexError):
        return "no readable reason"


def _build_environment(home: str) -> dict[str, str]:
    """Nothing of ours but where Python and this package are. ezkl panics without a home."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    paths = [_SOURCE] + [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return kept | {
        "HOME": home,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",
        "RAYON_NUM_THREADS": "2",
    }
