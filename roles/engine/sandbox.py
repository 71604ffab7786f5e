"""What a worker process gives up before it reads a stranger's model, and whether this kernel lets it.

Each measure stands alone: what one kernel lacks, the others still keep. Linux only, without any system package; other
systems miss all but rlimits. Order: `isolate` before any thread exists, then the imports, then `lock`.
Source: docs of the kernel, userspace-api/landlock.rst and seccomp_filter.rst.
"""

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protocol.types import Line, Name
from roles.engine.seccomp import INSTRUCTION_BYTES, assemble_filter

NEW_USER, NEW_IPC, NEW_NET = 0x10000000, 0x08000000, 0x40000000
_PR_SET_NO_NEW_PRIVS = 38
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_LANDLOCK_VERSION = 1
# Rights by the ABI version that brought them. A ruleset that handles a right and has no rule denies it.
_FILE_RIGHTS = ((5, (1 << 16) - 1), (3, (1 << 15) - 1), (2, (1 << 14) - 1), (1, (1 << 13) - 1))
_NET_RIGHTS = (4, 0b11)  # bind and connect over TCP
_SCOPES = (6, 0b11)  # abstract Unix sockets and signals to processes outside
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SECCOMP_SET_FILTER, _SECCOMP_ALL_THREADS = 1, 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Measure:
    """One wall of the sandbox. `missing` says why it does not stand; empty when it does."""

    name: Name
    missing: Line = ""


class _Missing(Exception):
    """A measure cannot be taken here. The message says what stands against it."""


def isolate() -> Measure:
    """No network, not even loopback, and no shared memory of others: namespaces of its own."""
    return _take("namespaces", _leave_namespaces)


def lock() -> tuple[Measure, Measure]:
    """No files, and no system call but those a model needs to compute. There is no way back."""
    return _take("landlock", _forbid_files), _take("seccomp", _forbid_calls)


def describe_measures(measures: tuple[Measure, ...]) -> dict[str, Any]:
    """For a node's status; empty when no worker process has said anything yet.

    >>> describe_measures((Measure("seccomp"), Measure("landlock", "the kernel has none")))
    {'in_force': ['seccomp'], 'missing': {'landlock': 'the kernel has none'}}
    """
    if not measures:
        return {}
    in_force = [measure.name for measure in measures if not measure.missing]
    return {"in_force": in_force, "missing": {each.name: each.missing for each in measures if each.missing}}


def _take(name: str, measure: Callable[[], None]) -> Measure:
    try:
        if sys.platform != "linux":
            raise _Missing(f"{sys.platform} has no {name}")
        measure()
    except _Missing as error:
        return Measure(name, str(error))
    return Measure(name)


def _leave_namespaces() -> None:
    # A user namespace makes the other two possible without privileges; where it is forbidden, root needs none.
    if _LIBC.unshare(NEW_USER | NEW_NET | NEW_IPC) and _LIBC.unshare(NEW_NET | NEW_IPC):
        raise _Missing(f"unshare: {os.strerror(ctypes.get_errno())}")


def _forbid_files() -> None:
    """Landlock without a single rule: whatever it knows of is denied."""
    version = _LIBC.syscall(_LANDLOCK_CREATE, None, _size(0), _LANDLOCK_VERSION)
    if version < 1:
        raise _Missing(f"landlock_create_ruleset: {os.strerror(ctypes.get_errno())}")
    # It binds the calling thread only.
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise _Missing(f"the process has {threads} threads, and it would bind one")
    files = next(rights for since, rights in _FILE_RIGHTS if version >= since)
    net, scopes = (rights if version >= since else 0 for since, rights in (_NET_RIGHTS, _SCOPES))
    fields = [files] + [net] * (version >= _NET_RIGHTS[0]) + [scopes] * (version >= _SCOPES[0])
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _LIBC.syscall(_LANDLOCK_CREATE, attributes, _size(len(attributes)), 0)
    if ruleset < 0:
        raise _Missing(f"landlock_create_ruleset: {os.strerror(ctypes.get_errno())}")
    _forbid_privileges()
    result = _LIBC.syscall(_LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)
    if result:
        raise _Missing(f"landlock_restrict_self: {os.strerror(ctypes.get_errno())}")


def _forbid_calls() -> None:
    """A seccomp filter for every thread of this process."""
    machine = platform.machine()
    program = assemble_filter(machine, os.getpid())
    if program is None:
        raise _Missing(f"no list of system calls for {machine}")
    _forbid_privileges()
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // INSTRUCTION_BYTES, ctypes.addressof(instructions))
    if _LIBC.syscall(_SECCOMP[machine], _SECCOMP_SET_FILTER, _SECCOMP_ALL_THREADS, header):
        raise _Missing(f"seccomp: {os.strerror(ctypes.get_errno())}")


def _forbid_privileges() -> None:
    """What the two above ask for: no program this process could start gains rights by it."""
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise _Missing(f"no_new_privs: {os.strerror(ctypes.get_errno())}")


def _size(value: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(value)
