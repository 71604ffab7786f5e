"""Seeds of validators that lose a quorum of vote logs in the middle of their votes, in bad weather, and restart."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from protocol.keys import PrivateKey
from protocol.ledger.restart import apply_restart, make_terms
from protocol.ledger.restart_terms import Restart, sign_seat
from roles.votelog import LogStart
from testnet.consensus.network import Agreement
from testnet.consensus.seat import NamedSignatures
from testnet.consensus.weather import Weather
from testnet.faults import FaultPlan

LOSE_MS, RECOVER_MS, CALM_MS = 3_000, 7_000, 8_000
WEATHER = Weather(calm_ms=CALM_MS, faults=FaultPlan(loss_bp=1_000, duplicate_bp=500, jitter_ms=30))


class Restarted(Agreement):
    """Three of four lose their logs; what anybody has decided by then is everybody's, and they, or all, restart."""

    def __init__(self, seed: int, seated: int) -> None:
        super().__init__(seed, WEATHER)
        self.lost_height = self.stood_height = 0
        self._seated = seated
        self._push(LOSE_MS + 7 * (seed % 500), -1, -1, "lose", None)
        self._push(RECOVER_MS, -1, -1, "recover", None)

    def _on_lose(self, _: int, __: Any) -> None:
        self.lost_height = self.tip.height
        for index, seat in enumerate(self.seats[:3]):
            self._die(index)
            seat.disk.forget()
            self._push(self.now_ms + 100, index, -1, "start", None)

    def _on_recover(self, _: int, __: Any) -> None:
        best = max((seat.disk for seat in self.seats), key=lambda disk: disk.state.height)
        blocks, state = list(best.blocks), best.state
        self.stood_height = state.height
        votes = {seat.name: make_key(f"{seat.name}/{self._seed}") for seat in self.seats[: self._seated]}
        by_account = {seat.keys.account.public: seat for seat in self.seats[: self._seated]}
        terms = make_terms(state, 1, {account: votes[seat.name].public for account, seat in by_account.items()})
        seats = [by_account[item.account] for item in terms.seats]
        signatures = tuple(sign_seat(terms, seat.keys.account, votes[seat.name]) for seat in seats)
        after = apply_restart(state, Restart(terms, signatures))
        for index, seat in enumerate(self.seats):
            if seat.role is not None:
                self._die(index)
            seat.disk.blocks, seat.disk.state = list(blocks), after
            if seat.name in votes:
                vote = votes[seat.name]
                seat.keys, seat.signatures = replace(seat.keys, vote=vote), NamedSignatures(vote.public)
                seat.disk.start, seat.disk.log = LogStart(state.chain, vote.public, 0), b""
            self._push(self.now_ms + 50, index, -1, "start", None)


def make_key(name: str) -> PrivateKey:
    return PrivateKey.from_seed(hashlib.sha256(name.encode()).digest())


def run_seeds(seeds: range) -> None:
    """Where votes on their way still decide a height, all may vote again by themselves: most of the time none does."""
    halted = 0
    for seed in seeds:
        run = Restarted(seed, seated=3 + seed % 2)
        found = run.run()
        assert found.violations == [], f"seed {seed}"
        assert not found.accused, f"seed {seed}"
        halted += run.stood_height == run.lost_height
        assert run.target > run.stood_height, f"seed {seed}"
        assert all(seat.disk.state.restarts for seat in run.honest), f"seed {seed}"
    assert 2 * halted > len(seeds)


def test_validators_that_restart_decide_again_and_never_fork() -> None:
    run_seeds(range(24))


@pytest.mark.full
def test_many_validators_that_restart_decide_again_and_never_fork() -> None:
    run_seeds(range(24, 500))
