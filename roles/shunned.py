"""Verifiers that a node wants no attested work with for now: they owe it attestations, or found something else.

A claim is paid, and an answer released, only if all its verifiers agree. Who they are follows from the request: a
worker can tell beforehand that it would work for nothing, and refuse, and a client that it would wait for nothing. So a
verifier that stays silent costs them the jobs in hand, not all.
"""

from collections.abc import Iterable

SHUN_MS = 10_000  # doubled with every failure in a row
SHUN_MS_MAX = 300_000
NODES_MAX = 4_096  # remembered


class Shunned:
    def __init__(self) -> None:
        self._until_ms: dict[bytes, int] = {}
        self._failures: dict[bytes, int] = {}

    def add(self, verifier: bytes, now_ms: int) -> None:
        """It has failed; again while it is shunned counts once."""
        if now_ms < self._until_ms.get(verifier, 0):
            return
        if len(self._until_ms) >= NODES_MAX and verifier not in self._until_ms:
            self.forgive(min(self._until_ms, key=self._until_ms.__getitem__))
        failures = self._failures[verifier] = self._failures.get(verifier, 0) + 1
        self._until_ms[verifier] = now_ms + min(SHUN_MS << min(failures - 1, 16), SHUN_MS_MAX)

    def forgive(self, verifier: bytes) -> None:
        """It has attested what this worker found."""
        self._until_ms.pop(verifier, None)
        self._failures.pop(verifier, None)

    def is_any(self, now_ms: int) -> bool:
        """Whether anybody is shunned."""
        return any(now_ms < until_ms for until_ms in self._until_ms.values())

    def find(self, committee: Iterable[bytes], now_ms: int) -> bytes | None:
        """One of these that is shunned; None while there is none."""
        return next((verifier for verifier in committee if now_ms < self._until_ms.get(verifier, 0)), None)
