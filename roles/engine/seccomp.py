"""A list of the system calls a worker process may still make, as a program for the kernel's seccomp filter.

Assembled here, in classic BPF, and not by libseccomp: a new machine needs no system package for it. What is not on the
list fails with EPERM. Source: linux/seccomp.h, linux/bpf_common.h; numbers: asm/unistd_64.h and asm-generic/unistd.h.
"""

import errno
import struct
from collections.abc import Iterator

# What Python, numpy and onnxruntime need to compute and to talk over pipes that are open already. Nothing here opens,
# starts or reaches anything. (x86-64, aarch64)
PLAIN = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
}
# Memory, but none that could be executed: what is not in the libraries loaded so far never runs.
NO_EXECUTE = {"mmap": (9, 222), "mprotect": (10, 226)}
# abort() sends a signal to its own thread, and the worker sets its own time limit; neither may name another process.
SIGNAL, LIMIT = (234, 131), (302, 261)

INSTRUCTION_BYTES = 8
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in seccomp_data
_LOAD, _RETURN = 0x20, 0x06
_JUMP_EQUAL, _JUMP_ANY_BIT = 0x15, 0x45
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_DENY = 0x00050000 | errno.EPERM
_PROT_EXEC = 4

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def assemble_filter(machine: str, pid: int) -> bytes | None:
    """The filter for the process `pid` on such a machine (`platform.machine()`); None where we know no numbers."""
    if machine not in _ARCHITECTURES:
        return None
    column, architecture = _ARCHITECTURES[machine]
    # Calls of another architecture have other numbers: nobody honest makes them.
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for numbers in PLAIN.values():
        program += _allow_when(numbers[column], [])
    for numbers in NO_EXECUTE.values():
        program += _allow_when(numbers[column], _lacks_bits(2, _PROT_EXEC))
    program += _allow_when(SIGNAL[column], _equals(0, pid))
    program += _allow_when(LIMIT[column], _equals(0, 0))
    program.append((_RETURN, 0, 0, _DENY))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _allow_when(number: int, conditions: list[list[Instruction]]) -> Iterator[Instruction]:
    """Allow this call if all conditions hold, else deny it; go on for any other call."""
    size = sum(len(condition) for condition in conditions)
    yield _JUMP_EQUAL, 0, size + 1 + bool(conditions), number
    for condition in conditions:
        # Each condition ends in a jump; what does not hold goes to the denial behind the permission.
        size -= len(condition)
        *loads, (code, when_true, when_false, constant) = condition
        yield from loads
        yield code, when_true * (size + 1), when_false * (size + 1), constant
    yield _RETURN, 0, 0, _ALLOW
    if conditions:
        yield _RETURN, 0, 0, _DENY


def _equals(argument: int, value: int) -> list[list[Instruction]]:
    """Both halves of a 64-bit argument; both machines keep the low one first."""
    return [
        [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument), (_JUMP_EQUAL, 0, 1, value & 0xFFFFFFFF)],
        [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument + 4), (_JUMP_EQUAL, 0, 1, value >> 32)],
    ]


def _lacks_bits(argument: int, bits: int) -> list[list[Instruction]]:
    return [[(_LOAD, 0, 0, _ARGUMENTS + 8 * argument), (_JUMP_ANY_BIT, 1, 0, bits)]]
