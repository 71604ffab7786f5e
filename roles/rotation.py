"""Keys that follow others: made beside them, named on the ledger, taken up when the epoch that names them begins.

A key that is to follow lies in `keys/PURPOSE.next.key`; a vote key's own, still empty vote log lies beside the log in
use. Whatever the ledger on disk says at a start decides which one the node runs with. What has been followed is kept:
it may still have to open what was sealed for it, and its votes are its own for good.
"""

import os
from pathlib import Path

from protocol.keys import PrivateKey
from protocol.ledger.records import Candidate
from protocol.ledger.transactions import RotateKeys, prove_possession
from roles.chain import DATABASE_NAME
from roles.files import sync_directory
from roles.keystore import get_key_path, read_public
from roles.recovery import read_standing
from roles.votelog import DAMAGED_NAME, FILE_NAME, create_vote_log, read_votes

ROTATING = ("vote", "node")
NEXT_LOG_NAME = "votes.next.log"


def get_next_path(directory: Path, purpose: str) -> Path:
    return get_key_path(directory, f"{purpose}.next")


def begin_next_log(directory: Path, chain: bytes, vote: bytes) -> None:
    """The log of a vote key that has signed nothing yet, beside the one in use; the same again does nothing.

    One that waits for another key is that of a key whose file is gone before it was taken up.
    """
    path = directory / NEXT_LOG_NAME
    held = read_votes(path.read_bytes()) if path.exists() else None
    if held is not None and held.start.vote == vote:
        return
    path.unlink(missing_ok=True)
    create_vote_log(directory, chain, vote, NEXT_LOG_NAME)


def plan_rotation(account: bytes, node: PrivateKey, vote: PrivateKey | None, vote_held: bytes) -> RotateKeys:
    """The order that puts a node key and, where there is a new one, a vote key in force; else `vote_held` stays."""
    body = RotateKeys(node.public, vote.public if vote is not None else vote_held, bytes(64), b"")
    return prove_possession(body, account, node, vote)


def take_up_keys(directory: Path) -> tuple[str, ...]:
    """Put every key in its place that the newest epoch of the ledger on disk names; their purposes.

    Only for who holds the directory's lock. A crash between any two steps is mended by the next start. Raises
    ConfigError for a key file and DatabaseDamaged for a database that are not what they should be.
    """
    waiting = [purpose for purpose in ROTATING if get_next_path(directory, purpose).exists()]
    if not waiting or not (directory / DATABASE_NAME).is_file():
        return ()
    named = _find_candidate(directory)
    if named is None:
        return ()
    taken = []
    for purpose in waiting:
        public = read_public(get_next_path(directory, purpose))
        if public == getattr(named, purpose):
            _take_up(directory, purpose)
            taken.append(purpose)
    return tuple(taken)


def _find_candidate(directory: Path) -> Candidate | None:
    """What the newest epoch on disk, or a restart that is loaded, says of this node's account."""
    account = read_public(get_key_path(directory, "account"))
    state = read_standing(directory)
    epoch = state.get_epoch(state.epoch)
    return None if epoch is None else epoch.find_account(account)


def _take_up(directory: Path, purpose: str) -> None:
    path, following = get_key_path(directory, purpose), get_next_path(directory, purpose)
    former = read_public(path).hex()[:16]
    if purpose == "vote" and (directory / NEXT_LOG_NAME).exists():
        for name in (FILE_NAME, DAMAGED_NAME):
            if (directory / name).exists():
                os.replace(directory / name, directory / f"{name.removesuffix('.log')}.former-{former}.log")
        os.replace(directory / NEXT_LOG_NAME, directory / FILE_NAME)
        sync_directory(directory)
    kept = path.with_name(f"{purpose}.former-{former}.key")
    if not kept.exists():
        os.link(path, kept)
    # The last step, and the one that counts: as long as this name is there, the next start goes on from here.
    os.replace(following, path)
    sync_directory(path.parent)
