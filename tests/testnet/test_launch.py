"""What a launcher hears of the world outside, and what it starts."""

import signal
from pathlib import Path

import pytest

from protocol.topics import ROLES
from testnet.launch import Terminated, plan_node, termination_raises
from testnet.network_file import NodeEntry


@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated)],
)
def test_a_signal_is_heard_even_when_the_shell_started_us_with_it_ignored(
    number: signal.Signals, raised: type[BaseException]
) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with pytest.raises(raised), termination_raises():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_who_is_not_waited_for_gives_way() -> None:
    nodes = [NodeEntry(f"{role}-0", role, "", "", (), f"nodes/{role}-0") for role in ROLES]
    nice = {node.role for node in nodes if plan_node(Path("net"), node).niceness}

    assert nice == {"validator", "storage", "oracle"}
