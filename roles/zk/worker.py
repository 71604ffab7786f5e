"""A process that makes or checks one proof with ezkl: `python -m roles.zk.worker check|make PARENT_PID`.

All it reads and writes is in its working folder, which its parent made for it. It binds itself first: it dies with its
parent and has no network, and a bound on memory, processor time and files. Ends with 0 when done, 3 when ezkl says no.
"""

import ctypes
import json
import os
import resource
import signal
import sys

from roles.engine.sandbox import isolate

REFUSED = 3
MEMORY_BYTES_MAX = 2 * 1024 * 1024 * 1024  # addresses, not pages: a proof of logrows 10 takes 60 MB of them for good
FILE_BYTES_MAX = 32 * 1024 * 1024  # the proving key of logrows 10 has 4.3 MB
FILES_MAX = 64
CPU_S_MAX = {"check": 20, "make": 120}
_PR_SET_PDEATHSIG = 1


def bind_process(task: str, parent_pid: int) -> None:
    """Give up what native code that reads a stranger's bytes need not have."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before the call above
            sys.exit("the parent is gone")
    for limit, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CPU, CPU_S_MAX[task]),
        (resource.RLIMIT_FSIZE, FILE_BYTES_MAX),
        (resource.RLIMIT_NOFILE, FILES_MAX),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (value, value))
    isolate()


def check() -> None:
    """Verify proof.json under settings.json, key and setup."""
    import ezkl

    # It raises for whatever is wrong, and has never returned False; both mean no.
    if not ezkl.verify("proof.json", "settings.json", "key", "setup", False):
        raise RuntimeError("ezkl says no")


def make() -> None:
    """Prove model.onnx for input.json. Writes key and proof.json."""
    import ezkl

    ezkl.compile_circuit("model.onnx", "circuit", "settings.json")
    ezkl.setup("circuit", "key", "proving-key", "setup", None, False)
    ezkl.gen_witness("input.json", "circuit", "witness.json", None, None)
    ezkl.prove("witness.json", "circuit", "proving-key", "proof.json", "setup")


def run() -> None:
    """The process's life."""
    task, parent_pid = sys.argv[1], int(sys.argv[2])
    bind_process(task, parent_pid)
    try:
        check() if task == "check" else make()
    except (RuntimeError, ValueError, OSError) as error:
        sys.stdout.write("\n" + json.dumps({"refused": str(error)[:500]}))
        sys.exit(REFUSED)


if __name__ == "__main__":
    run()
