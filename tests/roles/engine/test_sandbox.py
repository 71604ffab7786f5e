"""Nothing gets out of a worker process: each way is tried from inside one, with whatever Python and C can do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the measures")

ATTEMPTS = '''
import ctypes, errno, json, os, resource, socket, sys, threading

libc = ctypes.CDLL(None, use_errno=True)
parent = os.getppid()

def call(function, *arguments):
    """A call of the C library; OSError when it says no."""
    if function(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")

def start_thread():
    threading.Thread(target=print).start()

def write_file():
    os.close(os.open("written", os.O_WRONLY | os.O_CREAT))

ATTEMPTS = {
    "open an absolute name": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "open a relative name": lambda: os.open("beside", os.O_RDONLY),
    "open the root folder": lambda: os.open("/", os.O_RDONLY),
    "open its own memory": lambda: os.open("/proc/self/mem", os.O_RDWR),
    "open the memory of the node": lambda: os.open(f"/proc/{parent}/mem", os.O_RDONLY),
    "open /dev/zero": lambda: os.open("/dev/zero", os.O_RDONLY),
    "create a file": write_file,
    "make a folder": lambda: os.mkdir("made"),
    "remove a file": lambda: os.unlink("beside"),
    "rename a file": lambda: os.rename("beside", "moved"),
    "link a file": lambda: os.symlink("/etc/passwd", "link"),
    "look into a folder": lambda: os.listdir("/"),
    "talk over IPv4": lambda: socket.socket(socket.AF_INET),
    "talk over IPv6": lambda: socket.socket(socket.AF_INET6),
    "send packets": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "talk over a Unix socket": lambda: socket.socket(socket.AF_UNIX),
    "make a pair of sockets": socket.socketpair,
    "connect": lambda: call(libc.connect, 0, b"\\x02\\0\\0\\x50\\x7f\\0\\0\\x01" + bytes(8), 16),
    "start a program": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "start a thread": start_thread,
    "clone3": lambda: call(libc.syscall, 435, None, 0),
    "trace the node": lambda: call(libc.ptrace, 16, parent, None, None),
    "read the memory of the node": lambda: call(libc.process_vm_readv, parent, None, 0, None, 0, 0),
    "kill the node": lambda: os.kill(parent, 0),
    "kill a thread of the node": lambda: call(libc.tgkill, parent, parent, 0),
    "hold the node": lambda: os.pidfd_open(parent),
    "limit the node": lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE),
    "memory to execute": lambda: call(libc.mprotect, ctypes.c_void_p(id(0) & ~4095), ctypes.c_size_t(4096), 5),
    "a file in memory": lambda: os.memfd_create("code"),
    "new namespaces": lambda: call(libc.unshare, 0x10000000),
    "io_uring": lambda: call(libc.syscall, 425, 1, None),
    "bpf": lambda: call(libc.syscall, 321, 0, None, 0),
    "prctl": lambda: call(libc.prctl, 1, 0, 0, 0, 0),
}

def attempt(action):
    try:
        action()
    except RuntimeError as error:
        return str(error)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
'''
SCRIPT = """
from roles.engine import sandbox
from roles.engine.worker import shut_in

{without}
measures = shut_in(parent)
found = {{name: attempt(action) for name, action in ATTEMPTS.items() if name in {only} or not {only}}}
print(json.dumps([{{each.name: each.missing for each in measures}}, found]))
"""
FILES = {"open an absolute name", "open the root folder", "open its own memory", "open /dev/zero", "look into a folder"}
WITHOUT = {
    "seccomp": "sandbox.assemble_filter = lambda machine, pid: None",
    "landlock": "sandbox._LANDLOCK_CREATE = 9999",
    "namespaces": "sandbox.NEW_NET = 1 << 20",
}


def try_ways_out(tmp_path, without="", only=()):
    """What a process that shut itself in says of its walls, and what came of each attempt to get out.

    Where a wall is left out on purpose, `only` names attempts that do no harm to us if they succeed.
    """
    (tmp_path / "home").mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", ATTEMPTS + SCRIPT.format(without=without, only=sorted(only))],
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        cwd=tmp_path / "home",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def need(measures, *names):
    """Go on only where this kernel has these measures: the worker says so, and tests of the rest still run."""
    if missing := {name: measures[name] for name in names if measures[name]}:
        pytest.skip(f"this kernel lacks {missing}")


def test_every_way_out_is_closed(tmp_path):
    measures, found = try_ways_out(tmp_path)

    need(measures, "seccomp")
    assert list(measures) == ["namespaces", "landlock", "seccomp", "rlimits"]
    assert found.pop("start a thread") == "can't start new thread"
    assert found == dict.fromkeys(found, "EPERM")
    assert len(found) > 30


def test_without_seccomp_landlock_still_keeps_files_and_the_node_out_of_reach(tmp_path):
    measures, found = try_ways_out(tmp_path, WITHOUT["seccomp"], {*FILES, "kill the node", "start a program"})

    assert measures["seccomp"].startswith("no list of system calls for")
    need(measures, "landlock")
    assert {name: found[name] for name in FILES} == dict.fromkeys(FILES, "EACCES")
    assert found["kill the node"] == "EPERM"
    assert found["start a program"] == "EACCES"


def test_without_landlock_seccomp_still_closes_every_way(tmp_path):
    measures, found = try_ways_out(tmp_path, WITHOUT["landlock"])

    assert measures["landlock"] == "landlock_create_ruleset: Function not implemented"
    need(measures, "seccomp")
    assert found.pop("start a thread") == "can't start new thread"
    assert found == dict.fromkeys(found, "EPERM")


def test_namespaces_alone_leave_no_network(tmp_path):
    # Sockets can be had then, but a network of one's own has nobody in it, and its loopback is down.
    connect = """
def connect():
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", 9))
ATTEMPTS = {"connect": connect}
"""
    measures, found = try_ways_out(tmp_path, connect + WITHOUT["seccomp"] + "\n" + WITHOUT["landlock"])

    need(measures, "namespaces")
    assert found == {"connect": "ENETUNREACH"}


def test_what_is_missing_is_said_and_the_rest_still_stands(tmp_path):
    measures, found = try_ways_out(tmp_path, "\n".join(WITHOUT.values()), FILES)

    assert measures["namespaces"].startswith("unshare: ")
    assert [name for name, missing in measures.items() if not missing] == ["rlimits"]
    # And so the tests above can tell a wall from none.
    assert set(found.values()) == {"done"}


def test_a_kernel_that_forbids_namespaces_is_reported(tmp_path):
    # A locked process is such a kernel: it may not ask for any.
    code = "from roles.engine.sandbox import isolate, lock; lock(); print(isolate().missing)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)

    assert ended.stdout == "unshare: Operation not permitted\n"


def test_landlock_is_not_claimed_when_it_would_bind_one_thread_of_two():
    code = """
import threading
from roles.engine.sandbox import lock
threading.Thread(target=threading.Event().wait, daemon=True).start()
landlock, seccomp = lock()
print(landlock.missing)
"""
    ended = subprocess.run([sys.executable, "-u", "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)

    assert ended.stdout == "the process has 2 threads, and it would bind one\n"
