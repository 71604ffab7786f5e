"""What a launcher hears of the world outside."""

import signal

import pytest

from testnet.launch import Terminated, termination_raises


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
