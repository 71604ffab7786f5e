"""How Python shares its time in a process that runs nodes."""

import gc
import sys

SWITCH_S = 0.001  # a thread that has written to the disk gets the interpreter back after so long, not after 5 ms
# Allocations between two looks for garbage of the youngest, such looks between two at the middle ones, and so on.
# Little of ours is in cycles: with 700 and 10, as Python begins, validators spend a sixth of their time on looking,
# above all at all there is. Of the youngest few are better than many: 20,000 at once take up to 14 ms.
COLLECT_EVERY = (5_000, 80, 50)


def set_up_interpreter() -> None:
    """To be called once, when all is imported: what is here now is never looked at again."""
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_EVERY)
