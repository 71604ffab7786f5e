"""The process that verifies signatures beside the loop: what it answers, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from p2p import signature_process
from p2p.signature_process import SignatureProcess
from protocol.keys import PrivateKey

KEY = PrivateKey(bytes(32))
GOOD = (KEY.public, b"data", KEY.sign(b"data"))
BAD = (KEY.public, b"else", KEY.sign(b"data"))
ODD = (b"short", b"data", b"")
COMMAND = [sys.executable, "-P", "-m", "p2p.signature_worker"]
WAIT_S = 20


class Beside:
    """A process and what it has said."""

    def __init__(self) -> None:
        self.answers: list[bool] = []
        self.lost = 0
        self.woken = trio.Event()
        self.process = SignatureProcess(self._on_answer, self._on_lost)

    def _on_answer(self) -> None:
        self.answers += self.process.receive()
        self.woken.set()

    def _on_lost(self) -> None:
        self.lost += 1

    async def until(self, is_so: Callable[[], object]) -> None:
        with trio.fail_after(WAIT_S):
            while not is_so():
                await trio.sleep(0.005)


@asynccontextmanager
async def open_beside() -> AsyncIterator[Beside]:
    async with trio.open_nursery() as nursery:
        beside = Beside()
        nursery.start_soon(beside.process.run)
        yield beside
        nursery.cancel_scope.cancel()


def run(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main)


def list_workers() -> list[int]:
    """Workers that are children of this process."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as stat, open(f"/proc/{entry}/cmdline") as command:
                    parent = int(stat.read().rpartition(")")[2].split()[1])
                    if parent == os.getpid() and "p2p.signature_worker" in command.read():
                        found.append(int(entry))
            except OSError:
                continue  # it has ended meanwhile
    return found


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature_process.os, "sched_getaffinity", lambda pid: {0, 1})


def test_it_answers_in_order_and_takes_whatever_a_signature_may_be() -> None:
    async def main() -> None:
        async with open_beside() as beside:
            assert not beside.process.has_room  # until somebody wants it
            beside.process.want()
            await beside.until(lambda: beside.process.has_room)
            beside.process.send([GOOD, BAD, ODD, GOOD])
            beside.process.send([BAD])
            await beside.until(lambda: len(beside.answers) == 5)
            assert beside.answers == [True, False, False, True, False]
        assert not list_workers()

    run(main)


def test_it_is_sent_no_more_than_it_can_have_before_it_answers() -> None:
    async def main() -> None:
        async with open_beside() as beside:
            beside.process.want()
            await beside.until(lambda: beside.process.has_room)
            for _ in range(signature_process.BATCHES_MAX):
                assert beside.process.has_room
                beside.process.send([GOOD] * 32)
            assert not beside.process.has_room
            await beside.until(lambda: beside.process.has_room)

    run(main)


def test_nobody_starts_one_where_the_loop_has_the_only_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature_process.os, "sched_getaffinity", lambda pid: {0})

    async def main() -> None:
        async with open_beside() as beside:
            beside.process.want()
            await trio.testing.wait_all_tasks_blocked()
            assert not list_workers()

    run(main)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_does_not_answer_is_given_up_and_another_takes_its_place(
    how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signature_process, "AGAIN_S", 0.0)

    async def main() -> None:
        async with open_beside() as beside:
            beside.process.want()
            await beside.until(lambda: beside.process.has_room)
            (first,) = list_workers()
            os.kill(first, how)
            beside.process.send([GOOD])
            await beside.until(lambda: beside.lost)
            assert beside.lost == 1
            assert beside.answers == []
            assert not beside.process.has_room

            beside.process.want()
            await beside.until(lambda: beside.process.has_room)
            assert list_workers() != [first]
            beside.process.send([GOOD])
            await beside.until(lambda: beside.answers)
            assert beside.answers == [True]
        assert not list_workers()

    run(main)


def test_one_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature_process, "IDLE_S", 0.01)

    async def main() -> None:
        async with open_beside() as beside:
            beside.process.want()
            await beside.until(list_workers)
            await beside.until(lambda: not list_workers())
            assert not beside.process.has_room
            assert not beside.lost

    run(main)


def test_it_ends_when_the_node_dies_and_not_by_a_ctrl_c_meant_for_the_node() -> None:
    ours, theirs = socket.socketpair()
    with subprocess.Popen(COMMAND, stdin=theirs) as worker, ours:
        theirs.close()
        assert ours.recv(1)
        worker.send_signal(signal.SIGINT)
        ours.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ours.recv(1)
        ours.close()  # as the system does for a process that is killed
        assert worker.wait(WAIT_S) == 0
