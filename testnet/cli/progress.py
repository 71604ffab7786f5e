"""One line that says how far a long command is: rewritten in place on a terminal, now and then a new line elsewhere."""

import sys
import time

PLAIN_EVERY_S = 5.0
LIVE_EVERY_S = 0.25


class Progress:
    """Writes to standard error, never to the result."""

    def __init__(self) -> None:
        self._is_live = sys.stderr.isatty()
        self._next_s = 0.0
        self._last = ""

    def show(self, text: str) -> None:
        """Show `text` if it is time to and it says something new."""
        now_s = time.monotonic()
        if now_s < self._next_s or text == self._last:
            return
        self._next_s = now_s + (LIVE_EVERY_S if self._is_live else PLAIN_EVERY_S)
        self._last = text
        if self._is_live:
            sys.stderr.write(f"\r\x1b[K{text}")
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the line, so that what follows begins on a new one."""
        if self._is_live and self._last:
            sys.stderr.write("\n")
            sys.stderr.flush()
        self._last = ""
