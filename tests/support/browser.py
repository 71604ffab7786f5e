"""Chromium without a window, told what to do over two pipes: no port, no driver, no package.

Source: DevTools Protocol, `--remote-debugging-pipe`: JSON messages that each end in a zero byte, read from descriptor 3
and written to 4. As a program it takes a picture: `python -m tests.support.browser report.html report.png 1280 1400`.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--no-sandbox",  # tests may be run by root; it is shown our own pages alone
)
ANSWER_S = 30.0
READ_BYTES_MAX = 2**20
ERRORS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


class Browser:
    """One tab. What its console says is in `console`."""

    def __init__(self, asked: int, answers: int) -> None:
        """Of descriptors to write to and to read from."""
        self.console: list[dict[str, Any]] = []
        self._asked, self._answers = asked, answers
        self._number = 0
        self._buffer = b""
        self._loads = 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def open(self, page: Path, width: int, height: int = 900, scheme: str = "light") -> None:
        """Show a page on a screen of this size, in CSS pixels, and wait until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        before = self._loads
        self.call("Page.navigate", url=page.resolve().as_uri())
        deadline = time.monotonic() + ANSWER_S
        while self._loads == before:
            self._take(self._receive(deadline))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page, as JSON."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def take_picture(self, height_max: int = 2**14) -> bytes:
        """The page as PNG, from its top."""
        width, height = self.evaluate("[innerWidth, document.documentElement.scrollHeight]")
        height = min(height, height_max)
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        found = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(found["data"])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers. Fails after ANSWER_S."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._asked, data) :]
        deadline = time.monotonic() + ANSWER_S
        while (answer := self._receive(deadline)).get("id") != self._number:
            self._take(answer)
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def _take(self, event: dict[str, Any]) -> None:
        self._loads += event.get("method") == "Page.loadEventFired"
        if event.get("method") in ERRORS:
            self.console.append(event["params"])

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            assert left > 0, f"the browser said nothing for {ANSWER_S} s"
            if select.select([self._answers], [], [], left)[0]:
                data = os.read(self._answers, READ_BYTES_MAX)
                assert data, "the browser has ended"
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def browse() -> Iterator[Browser]:
    """A browser, ended and forgotten at the end, whatever happens."""
    assert PROGRAM is not None, "no chromium: apt-get install --no-install-recommends chromium fonts-dejavu-core"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        asked_end, asked = _open_pipe()
        answers, answers_end = _open_pipe()
        words = [PROGRAM, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        actions = [(os.POSIX_SPAWN_DUP2, asked_end, 3), (os.POSIX_SPAWN_DUP2, answers_end, 4)]
        quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (1, 2)]
        environment = {**os.environ, "HOME": folder}
        pid = os.posix_spawn(PROGRAM, words, environment, file_actions=[*actions, *quiet], setpgroup=0)
        os.close(asked_end)
        os.close(answers_end)
        try:
            yield Browser(asked, answers)
        finally:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(asked)
            os.close(answers)


def _open_pipe() -> tuple[int, int]:
    """Both ends, out of the way of descriptors 3 and 4, and closed in what is spawned."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]


def main(page: str, picture: str, width: str = "1280", height_max: str = "16384") -> None:
    """Write a picture of a page."""
    with browse() as browser:
        browser.open(Path(page), int(width))
        Path(picture).write_bytes(browser.take_picture(int(height_max)))


if __name__ == "__main__":
    main(*sys.argv[1:])
