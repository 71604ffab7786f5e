"""The process beside the loop that verifies signatures: started when wanted, ended when not, and never waited for.

process.send(batch)   # while `has_room`; `on_lost` when it will not be answered
process.receive()     # [True, False, …] for the signatures sent first
"""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

import msgpack
import trio

logger = logging.getLogger(__name__)

BATCHES_MAX = 3  # sent and not answered: one that is verified, one behind it, one on its way back
PATIENCE_S = 0.25  # for an answer; a process that takes longer gets too little of a processor to be of use
START_S = 10.0
IDLE_S = 60.0  # without work, after which it ends
AGAIN_S = 10.0  # after it was given up
READ_BYTES = 4_096

Signed = tuple[bytes, bytes, bytes]  # key, data, signature


class SignatureProcess:
    """`on_answer` is called when there is something to `receive`, `on_lost` before it when what was sent gets none."""

    def __init__(self, on_answer: Callable[[], None], on_lost: Callable[[], None]) -> None:
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._wanted = trio.Event()
        self._socket: socket.socket | None = None
        self._scope = trio.CancelScope()
        self._sent: list[int] = []  # sizes of batches not answered
        self._good: list[bool] = []  # answers not fetched
        # The loop has a core of its own already.
        self._is_of_use = len(os.sched_getaffinity(0)) > 1

    @property
    def has_room(self) -> bool:
        return self._socket is not None and len(self._sent) < BATCHES_MAX

    def want(self) -> None:
        """There is more to verify than the loop can."""
        if self._is_of_use:
            self._wanted.set()

    def send(self, batch: Sequence[Signed]) -> None:
        assert self._socket is not None
        self._sent.append(len(batch))
        self._scope.deadline = trio.current_time() + PATIENCE_S
        data = msgpack.packb(batch)
        try:
            if self._socket.send(data) < len(data):
                self._scope.cancel()
        except OSError:
            self._scope.cancel()

    def receive(self) -> list[bool]:
        """What is known of the signatures that were sent first. Never waits."""
        if self._sent and self._socket is not None:
            self._read(self._socket)
        good, self._good = self._good, []
        return good

    def _read(self, sock: socket.socket) -> bool:
        """Take in what has been answered. False when the process has gone."""
        try:
            answers = sock.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._good += [answer == 1 for answer in answers]
        left = len(answers)
        while left and self._sent:
            taken = min(left, self._sent[0])
            left -= taken
            self._sent[0] -= taken
            if not self._sent[0]:
                del self._sent[0]
        if answers:
            self._scope.deadline = trio.current_time() + (PATIENCE_S if self._sent else IDLE_S)
        return bool(answers)

    async def run(self) -> None:
        """Keep a process whenever one is wanted, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            try:
                await self._run_one()
            except OSError as error:
                logger.warning("no process verifies signatures: %s", error)
                await trio.sleep(AGAIN_S)
            if self._sent:
                logger.warning("the process that verifies signatures gave no answer: the loop goes on without it")
                self._sent.clear()
                self._on_lost()
                self._on_answer()
                await trio.sleep(AGAIN_S)

    async def _run_one(self) -> None:
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            with theirs:
                command = [sys.executable, "-P", "-m", "p2p.signature_worker"]
                process = await trio.lowlevel.open_process(command, stdin=theirs, stdout=subprocess.DEVNULL)
            try:
                await self._serve(ours)
            finally:
                self._socket = None
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()

    async def _serve(self, ours: socket.socket) -> None:
        with trio.move_on_after(START_S):
            await trio.lowlevel.wait_readable(ours.fileno())  # it greets with a byte, or has ended
            if not ours.recv(1):
                return
            self._socket = ours
        if self._socket is None:
            return
        with trio.move_on_after(IDLE_S) as self._scope:
            while True:
                await trio.lowlevel.wait_readable(ours.fileno())
                if not self._read(ours):
                    return
                if self._good:
                    self._on_answer()
