"""Restarts that an operator has loaded and the ledger has still to go through: to follow now, or once it is as far.

A ledger that was put back may be behind the restart that was loaded for it. Then what can be said without the block the
restart stands on is said at once, and the rest when that block is there.
"""

from collections.abc import Sequence

from protocol.ledger.restart import (
    InvalidRestart,
    RestartTooOld,
    StandsElsewhere,
    apply_restart,
    get_generation,
    verify_signed,
)
from protocol.ledger.restart_terms import RESTARTS_MAX, Restart, compute_restart_id
from protocol.ledger.state import State


def select_pending(state: State, restarts: Sequence[Restart]) -> tuple[Restart, ...]:
    """Those that the ledger has still to go through.

    InvalidRestart when they do not stand on it or, of those ahead of it, when it can never come to where they stand.
    """
    left = []
    for restart in restarts:
        done = state.restarts.get(restart.terms.generation)
        if done is None or done.id != compute_restart_id(restart.terms):
            left.append(restart)
    if len(left) > RESTARTS_MAX:
        raise InvalidRestart(f"{len(left)} restarts after one block, at most {RESTARTS_MAX}")
    if is_ahead(state, left):
        _verify_ahead(state, left)
    apply_pending(state, left)
    return tuple(left)


def is_ahead(state: State, pending: Sequence[Restart]) -> bool:
    """Whether the block that pending restarts stand on is still to come."""
    return bool(pending) and pending[0].terms.height > state.height


def apply_pending(state: State, pending: Sequence[Restart]) -> State:
    """What the next block follows: the state after pending restarts, or this one while they are ahead of it."""
    if is_ahead(state, pending):
        return state
    for restart in pending:
        state = apply_restart(state, restart)
    return state


def _verify_ahead(state: State, pending: Sequence[Restart]) -> None:
    height, generation = pending[0].terms.height, get_generation(state)
    for restart in pending:
        terms = restart.terms
        if terms.chain != state.chain:
            raise StandsElsewhere("chain", terms.chain.hex(), state.chain.hex())
        if terms.height != height:
            raise InvalidRestart(f"restarts after one block stand on heights {height} and {terms.height}")
        if terms.generation <= generation:
            raise RestartTooOld(terms.generation, generation)
        generation = terms.generation
        verify_signed(restart)
