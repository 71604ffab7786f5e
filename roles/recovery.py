"""The restart file of a node: restarts its operator has loaded, which the next block is to follow.

It lies beside the ledger, as genesis does, until a block that follows its restarts is in the database with them.
A node that was away gets them from its peers with that block. One that is behind the block they stand on fetches that
first, and says that it waits for it.
"""

from pathlib import Path

from protocol.codec import decode, encode
from protocol.consensus.log import decode_record
from protocol.consensus.messages import Vote
from protocol.errors import MalformedMessage, RemoteError
from protocol.ledger.block import VoteKind
from protocol.ledger.genesis import build_state
from protocol.ledger.restart_pending import apply_pending, is_ahead, select_pending
from protocol.ledger.restart_terms import (
    Restart,
    RestartTerms,
    are_same,
    compute_restart_id,
    decode_restarts,
    encode_restarts,
)
from protocol.ledger.state import State
from roles.chain import DATABASE_NAME, open_stored
from roles.config import ConfigError, read_genesis
from roles.keystore import write_key_file
from roles.votelog import FILE_NAME as VOTES_NAME
from roles.votelog import read_votes

FILE_NAME = "restart"
FILE_BYTES_MAX = 256 * 1024
_ANEW = "if that cannot be, all begin anew: `ledger recover propose` with a later --generation"
_HINT = (
    "a decided block is never taken back: move the file away and the node follows the others; if those have taken the "
    "restart, ask whose ledger holds the later block"
)


def read_pending(directory: Path, decided: State) -> tuple[Restart, ...]:
    """What is to be followed after this state, or after a later one when it is behind.

    Raises ConfigError for a file that does not fit the ledger.
    """
    path = directory / FILE_NAME
    if not path.exists():
        return ()
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if not data:
            raise MalformedMessage("it is empty")
        return select_pending(decided, decode_restarts(data))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", "put it there again with `ledger recover`"
        ) from error
    except RemoteError as error:
        raise ConfigError(f"{path} cannot be used: {error}", _HINT) from error


def describe_pending(decided: State, restarts: tuple[Restart, ...]) -> dict[str, object]:
    """What `status.json` says of restarts that are loaded: whether the ledger is behind them, and what to do."""
    if not restarts:
        return {}
    terms, height = restarts[-1].terms, decided.height
    state, advice = "loaded", "the next block follows it, once those who signed it run and hold a quorum"
    if is_ahead(decided, restarts):
        state, advice = "waits", _advise_waiting(terms, height)
    return {
        "state": state,
        "generation": terms.generation,
        "stands_on": terms.height,
        "height": height,
        "advice": advice,
    }


def _advise_waiting(terms: RestartTerms, height: int) -> str:
    return (
        f"restart {terms.generation} stands on height {terms.height}, the ledger here is at {height}: blocks "
        f"{height + 1} to {terms.height} are fetched from peers, then it is used without further ado. If the "
        "height does not rise, start a node that holds them or put back a later snapshot; if nobody holds them any "
        f"more, stop the node and move the file `{FILE_NAME}` away"
    )


def write_pending(directory: Path, decided: State, restarts: tuple[Restart, ...]) -> Path:
    """Load restarts for the next start. Only for who holds the directory's lock.

    They may go on from those that are loaded. ConfigError when others are: those are not replaced.
    """
    path = directory / FILE_NAME
    if path.exists():
        loaded = read_pending(directory, decided)
        if are_same(loaded, restarts):
            return path
        if are_same(restarts[: len(loaded)], loaded):  # what the ledger has been through is no longer among them
            path.unlink()
    return write_key_file(path, encode_restarts(restarts))


def note_signed(directory: Path, terms: RestartTerms) -> None:
    """Remember, durably, what this node's account is about to sign.

    ConfigError when it has signed another restart of that generation: who signs two is guilty of it.
    """
    path = get_signed_path(directory, terms.generation)
    if path.exists():
        known = _read_signed(path)
        if known == terms:
            return
        have, want = compute_restart_id(known).hex(), compute_restart_id(terms).hex()
        raise ConfigError(
            f"restart {terms.generation} was signed here as {have}, this is {want}", f"complete that one; {_ANEW}"
        )
    write_key_file(path, encode(terms))


def _read_signed(path: Path) -> RestartTerms:
    try:
        return decode(RestartTerms, path.read_bytes())
    except MalformedMessage as error:
        raise ConfigError(f"{path} is damaged: {error}", f"put an untouched copy back; {_ANEW}") from error


def get_signed_path(directory: Path, generation: int) -> Path:
    return directory / f"restart-{generation}.signed"


def find_finalised(directory: Path, height: int) -> bytes | None:
    """The block of a height that this node's vote log has a vote to finalise of: others may have decided it."""
    path = directory / VOTES_NAME
    held = read_votes(path.read_bytes()) if path.is_file() else None
    for record in map(decode_record, held.records if held is not None else ()):
        if isinstance(record, Vote) and (record.ballot.height, record.ballot.kind) == (height, VoteKind.FINALISE):
            return record.ballot.block_id
    return None


def read_standing(directory: Path) -> State:
    """What the next block follows: the state after the last block on disk and the restarts that are loaded."""
    state = read_decided(directory)
    return apply_pending(state, read_pending(directory, state))


def read_decided(directory: Path) -> State:
    """The state after the last block on disk, or that of genesis. UserError for what is not as it should be."""
    stored = None
    if (directory / DATABASE_NAME).is_file():
        with open_stored(directory / DATABASE_NAME) as (_, stored):
            pass
    return build_state(read_genesis(directory)) if stored is None else stored.restore()
