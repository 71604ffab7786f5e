"""Standard input, and a Ctrl-C at the worst moment: when all that was sent is read, just before the wait for more."""

import os
import signal
import subprocess
import sys
import threading

from testnet.cli.pipe import open_standard_input

READ = "from testnet.cli.pipe import open_standard_input; stream = open_standard_input(); print('on', flush=True); "
READ += "stream.read(100_000_000)"
TIMES = 12  # sys.stdin.buffer loses about one in three


def test_a_signal_is_never_lost_while_a_pipe_is_waited_for():
    data = bytes(2_000_000)
    for _ in range(TIMES):
        command = [sys.executable, "-c", READ]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, **streams) as process:
            assert process.stdout.readline() == b"on\n"
            process.stdin.write(data)
            process.stdin.flush()
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(20) == -signal.SIGINT
            finally:
                process.kill()


def test_all_that_is_sent_is_read_however_it_comes(monkeypatch):
    inlet, outlet = os.pipe()
    data = os.urandom(300_000)

    def send() -> None:
        with os.fdopen(outlet, "wb", buffering=0) as pipe:
            for start in range(0, len(data), 7_777):
                pipe.write(data[start : start + 7_777])

    with os.fdopen(inlet) as piped:
        monkeypatch.setattr("sys.stdin", piped)
        stream = open_standard_input()
        sender = threading.Thread(target=send)
        sender.start()
        read = b"".join(iter(lambda: stream.read(100_000), b""))
        sender.join()

    assert read == data
