"""The desk that carries out faults: what it does to processes, without any."""

import signal
import time
from pathlib import Path

import pytest

from testnet import fault_desk
from testnet.fault_desk import FaultDesk
from testnet.faults import Crash, FaultPlan
from testnet.found import NetworkPlan, found_network
from testnet.launch import Launcher, Program


class Orders(Launcher):
    """A launcher that only notes what it is to start."""

    started: list[str]

    def start(self, programs: list[Program]) -> None:
        self.started += [program.name for program in programs]


class Desk(FaultDesk):
    """Its one node runs as process `pid`; who has been killed is noted."""

    pid = 0
    killed: list[int]

    def find_pid(self, name: str) -> int:
        return self.pid

    def _signal(self, name: str, number: int) -> int:
        assert number == signal.SIGKILL
        self.killed.append(self.pid)
        return self.pid


def make_desk(directory: Path) -> Desk:
    directory.mkdir()
    network = found_network(NetworkPlan(directory, 5, {"validator": 1}, ()), 0)
    launcher = Orders(directory, network)
    launcher.started = []
    name = network.nodes[0].name
    desk = Desk(directory, launcher, {name: Program(name, "roles.node:main", (), directory / "log")})
    desk.killed = []
    return desk


def tick_until(desk: Desk, state: str) -> None:
    (fault,) = desk.faults.values()
    deadline = time.monotonic() + 5
    while fault.state != state:
        assert time.monotonic() < deadline, fault
        desk.tick()


def test_a_killed_node_is_started_again_when_its_process_has_let_go_of_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fault_desk, "DYING_S", 0.001)
    desk = make_desk(tmp_path / "net")
    desk.pid = 4_000
    looks = []
    desk.add(FaultPlan(crashes=(Crash("validator-0", 0, 1),)))
    tick_until(desk, "on")
    deadline = time.monotonic() + 0.1
    while time.monotonic() < deadline:  # it takes its time to die
        desk.tick()
        looks.append(desk.count_on())
    assert (desk.killed, desk.launcher.started, set(looks)) == ([4_000], [], {1})

    desk.pid = 0
    tick_until(desk, "over")

    assert desk.launcher.started == ["validator-0"]


def test_a_killed_node_that_somebody_has_started_again_is_left_alone(tmp_path: Path) -> None:
    desk = make_desk(tmp_path / "net")
    desk.pid = 4_000
    desk.add(FaultPlan(crashes=(Crash("validator-0", 0, 1),)))
    tick_until(desk, "on")
    desk.pid = 4_001

    tick_until(desk, "over")

    assert desk.launcher.started == []
