"""The filter for system calls, run by a small interpreter here: so also for machines we have none of."""

import errno
import platform
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.engine.seccomp import LIMIT, NO_EXECUTE, PLAIN, SIGNAL, assemble_filter

PID = 4_711
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
ALLOW, DENY, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
# What a model that got hold of the process would reach for. Source: asm/unistd_64.h and asm-generic/unistd.h.
DANGEROUS = {
    "open and openat": (2, 56),
    "openat": (257, 56),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "execve": (59, 221),
    "execveat": (322, 281),
    "clone": (56, 220),
    "clone3": (435, 435),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kill": (62, 129),
    "tkill": (200, 130),
    "pidfd_open": (434, 434),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "memfd_create": (319, 279),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "prctl": (157, 167),
    "seccomp": (317, 277),
    "ioctl": (16, 29),
    "shmget": (29, 194),
    "mq_open": (240, 180),
    "fsopen": (430, 430),
    "open_by_handle_at": (304, 265),
}


def judge(machine, number, arguments=(), architecture=None, pid=PID):
    """What the kernel would do with this call. Source: linux/filter.h, the instructions that we use."""
    own = MACHINES[machine][1]
    words = (*arguments, *[0] * 6)[:6]
    data = struct.pack("=IIQ6Q", number, own if architecture is None else architecture, 0, *words)
    program = list(struct.iter_unpack("=HBBI", assemble_filter(machine, pid)))
    at = value = 0
    while True:
        code, when_true, when_false, constant = program[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, constant)
        elif code == 0x06:
            return constant
        else:
            holds = {0x15: value == constant, 0x45: bool(value & constant)}[code]
            at += when_true if holds else when_false


@pytest.mark.parametrize("machine", MACHINES)
def test_what_a_model_needs_is_allowed_and_what_would_let_it_out_is_denied(machine):
    column, _ = MACHINES[machine]

    assert {judge(machine, numbers[column]) for numbers in PLAIN.values()} == {ALLOW}
    assert {name: judge(machine, numbers[column]) for name, numbers in DANGEROUS.items()} == dict.fromkeys(
        DANGEROUS, DENY
    )


@pytest.mark.parametrize("machine", MACHINES)
def test_memory_may_be_had_but_not_made_executable(machine):
    column, _ = MACHINES[machine]
    for numbers in NO_EXECUTE.values():
        assert judge(machine, numbers[column], (0, 4096, 3)) == ALLOW
        assert judge(machine, numbers[column], (0, 4096, 7)) == DENY
        assert judge(machine, numbers[column], (0, 4096, 4)) == DENY


@pytest.mark.parametrize("machine", MACHINES)
def test_signals_and_limits_are_for_the_process_itself(machine):
    column, _ = MACHINES[machine]

    assert judge(machine, SIGNAL[column], (PID, PID, 6)) == ALLOW
    assert judge(machine, SIGNAL[column], (PID + 1, PID + 1, 9)) == DENY
    assert judge(machine, SIGNAL[column], (PID | 1 << 32, PID, 9)) == DENY
    assert judge(machine, LIMIT[column], (0, 0)) == ALLOW
    assert judge(machine, LIMIT[column], (PID - 1, 7)) == DENY
    assert judge(machine, LIMIT[column], (1 << 32, 7)) == DENY


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_architecture_end_the_process(machine):
    # 32-bit calls on a 64-bit kernel: `read` there is 3, which is `close` here.
    assert judge(machine, 3, architecture=0x40000003) == KILL


def test_the_second_set_of_numbers_of_x86_64_is_denied():
    assert judge("x86_64", 0x40000000 | PLAIN["read"][0]) == DENY


@given(st.sampled_from(sorted(MACHINES)), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_no_call_outside_the_list_is_allowed_whatever_it_carries(machine, number, arguments):
    column, _ = MACHINES[machine]
    listed = {numbers[column] for numbers in (*PLAIN.values(), *NO_EXECUTE.values(), SIGNAL, LIMIT)}

    assert judge(machine, number, arguments) in ((ALLOW, DENY) if number in listed else (DENY,))


def test_the_numbers_are_those_of_this_machine_and_others_have_no_filter():
    assert assemble_filter("riscv64", PID) is None
    assert assemble_filter(platform.machine(), PID) is not None or platform.machine() not in MACHINES
