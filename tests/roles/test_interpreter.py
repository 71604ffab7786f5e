"""What a node asks of Python, and that garbage in cycles still goes."""

import gc
import sys
import weakref
from collections.abc import Iterator

import pytest

from roles.interpreter import COLLECT_EVERY, SWITCH_S, set_up_interpreter


@pytest.fixture
def interpreter() -> Iterator[None]:
    switch_s, every = sys.getswitchinterval(), gc.get_threshold()
    set_up_interpreter()
    yield
    sys.setswitchinterval(switch_s)
    gc.set_threshold(*every)
    gc.unfreeze()


class Knot:
    def __init__(self) -> None:
        self.itself = self


@pytest.mark.usefixtures("interpreter")
def test_a_node_looks_for_garbage_seldom_and_finds_it_all_the_same() -> None:
    assert (gc.get_threshold(), gc.isenabled()) == (COLLECT_EVERY, True)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_S)
    assert gc.get_freeze_count() > 0
    knots = [weakref.ref(Knot()) for _ in range(COLLECT_EVERY[0] * 2)]
    assert any(knot() is None for knot in knots)
