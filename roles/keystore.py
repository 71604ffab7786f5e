"""A node's keys on disk: one small file each, for its owner's eyes only.

A file holds the seed unencrypted: enough for a node key, too little for accounts and votes of value. Keys of a test
network are public knowledge: they carry the mark `public-dev` and the chain they are for, and are refused on any other.
Files are made with O_EXCL and never replaced.
"""

import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from protocol.keys import PrivateKey
from roles.config import ConfigError
from roles.core_effects import NodeKeys

DIRECTORY_NAME = "keys"
PURPOSES = ("node", "account", "vote")
PUBLIC_DEV = "public-dev"
PLAIN = "plain"
FORMAT = 1
KEY_FILE_BYTES_MAX = 4096


def write_key(directory: Path, purpose: str, seed: bytes, dev_chain: bytes | None) -> Path:
    """Keep one key under `directory`/keys. With `dev_chain` it is marked public-dev and good on that chain alone.

    Raises ConfigError when there is one already: a key is never overwritten.
    """
    folder = directory / DIRECTORY_NAME
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{purpose}.key"
    fields = {
        "format": FORMAT,
        "purpose": purpose,
        "mark": PLAIN if dev_chain is None else PUBLIC_DEV,
        "chain": "" if dev_chain is None else dev_chain.hex(),
        "seed": PrivateKey.from_seed(seed).seed.hex(),
    }
    temporary = folder / f".{purpose}.{secrets.token_hex(8)}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(json.dumps(fields) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, fails when the name is taken.
        os.link(temporary, path)
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already", "use another data directory, or move the old key away") from error
    finally:
        temporary.unlink()
    _sync_directory(folder)
    return path


def read_key(directory: Path, purpose: str, chain: bytes) -> PrivateKey:
    """Read one key for use on `chain`.

    Raises ConfigError for a missing or damaged file, for one that others may read, a link, another's, and for a
    public-dev key of another chain. No error shows what the file holds.
    """
    path = directory / DIRECTORY_NAME / f"{purpose}.key"
    fields = _parse(path, _read_private(path))
    if fields.get("format") != FORMAT or fields.get("purpose") != purpose:
        raise ConfigError(f"{path} is no {purpose} key of format {FORMAT}", "restore it from your copy")
    mark, marked_chain = fields.get("mark"), fields.get("chain")
    if mark not in (PLAIN, PUBLIC_DEV):
        raise ConfigError(f"{path} carries no known mark", f"a key is marked {PLAIN} or {PUBLIC_DEV}")
    if mark == PUBLIC_DEV and marked_chain != chain.hex():
        raise ConfigError(
            f"{path} is a public development key: anyone has it, and it is for another network",
            f"make a key of your own for chain {chain.hex()}",
        )
    try:
        return PrivateKey.from_seed(_expect_seed(fields.get("seed")))
    except ValueError:
        # `from None`: the cause would carry the text of the seed into a traceback.
        raise ConfigError(f"{path} holds no seed of 32 bytes in hex", "restore it from your copy") from None


def read_keys(directory: Path, chain: bytes) -> NodeKeys:
    """All keys of a data directory; the vote key where there is one."""
    has_vote = os.path.lexists(directory / DIRECTORY_NAME / "vote.key")
    return NodeKeys(
        node=read_key(directory, "node", chain),
        account=read_key(directory, "account", chain),
        vote=read_key(directory, "vote", chain) if has_vote else None,
    )


def _read_private(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be opened: {error.strerror}", "make keys with `rolemesh node init`"
        ) from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path} is not a plain file", "put the key itself there")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise ConfigError(f"{path} has mode {mode:04o}: others may use this key", f"run `chmod 600 {path}`")
        if status.st_uid != os.geteuid():
            raise ConfigError(f"{path} belongs to another user", "run the node as the owner of its keys")
        data = file.read(KEY_FILE_BYTES_MAX + 1)
    if len(data) > KEY_FILE_BYTES_MAX:
        raise ConfigError(
            f"{path} is larger than any key file ({KEY_FILE_BYTES_MAX} bytes)", "restore it from your copy"
        )
    return data


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is damaged: it is not JSON", "restore it from your copy") from None
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} is damaged: it holds no object", "restore it from your copy")
    return fields


def _expect_seed(text: Any) -> bytes:
    if not isinstance(text, str) or len(text) != 64:
        raise ValueError("no seed")
    return bytes.fromhex(text)


def _sync_directory(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
