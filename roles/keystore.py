"""A node's keys on disk: one small file each, for its owner's eyes only.

A node key stands in its file as it is: it can be replaced at any time. Account and vote keys hold money and stake: they
are sealed under a passphrase (`sealed_key`), or, on a test network, public knowledge. What is for a test network
carries its mark (`public-dev` in clear, `insecure-dev` sealed fast) and its chain, and is refused on any other; a
public network refuses the fast seal altogether. Files are made with O_EXCL and never replaced.
"""

import json
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.keys import PrivateKey
from roles import sealed_key
from roles.config import ConfigError
from roles.core_effects import NodeKeys
from roles.files import sync_directory
from roles.sealed_key import INSECURE_DEV, SEALED, CannotOpen, Label, WrongPassphrase

DIRECTORY_NAME = "keys"
PURPOSES = ("node", "account", "vote")
OF_VALUE = ("account", "vote")
PUBLIC_DEV = "public-dev"
PLAIN = "plain"
FORMAT = 1
KEY_FILE_BYTES_MAX = 4096
TEST_NETWORK_PREFIX = "dev-"
RESTORE_HINT = "restore it from your copy"


class PassphraseNeeded(ConfigError):
    """A key is sealed and no passphrase was given."""

    def __init__(self, path: Path) -> None:
        hint = "give its passphrase with --passphrase-file FILE or in ROLEMESH_PASSPHRASE"
        super().__init__(f"{path} is sealed", hint)


@dataclass(frozen=True)
class Place:
    """The network a key is to be used on. One whose genesis has a name beginning with `dev-` is a test network."""

    chain: bytes
    is_test_network: bool = False


def get_place(chain: bytes, name: str) -> Place:
    """The place of a network by its chain and the name in its genesis."""
    return Place(chain, name.startswith(TEST_NETWORK_PREFIX))


def write_key(directory: Path, purpose: str, seed: bytes, dev_chain: bytes | None) -> Path:
    """Keep one key in clear under `directory`/keys. With `dev_chain` it is marked public-dev, good on that chain alone.

    Raises ConfigError when there is one already: a key is never overwritten.
    """
    text = format_plain(PrivateKey.from_seed(seed), purpose, dev_chain)
    return write_key_file(get_key_path(directory, purpose), text)


def format_plain(key: PrivateKey, purpose: str, dev_chain: bytes | None) -> str:
    """The content of a key file in clear."""
    fields = {
        "format": FORMAT,
        "purpose": purpose,
        "mark": PLAIN if dev_chain is None else PUBLIC_DEV,
        "chain": "" if dev_chain is None else dev_chain.hex(),
        "seed": key.seed.hex(),
    }
    return json.dumps(fields) + "\n"


def seal_text(key: PrivateKey, purpose: str, passphrase: str, dev_chain: bytes | None) -> str:
    """The content of a sealed key file. With `dev_chain` it is sealed fast, marked, and good on that chain alone."""
    mark, chain = (SEALED, "") if dev_chain is None else (INSECURE_DEV, dev_chain.hex())
    salt, nonce = secrets.token_bytes(sealed_key.SALT_SIZE), secrets.token_bytes(sealed_key.NONCE_SIZE)
    return sealed_key.seal_key(key, Label(purpose, mark, chain, key.public), passphrase, salt, nonce)


def get_key_path(directory: Path, purpose: str) -> Path:
    return directory / DIRECTORY_NAME / f"{purpose}.key"


def read_key(directory: Path, purpose: str, place: Place, passphrase: str | None = None) -> PrivateKey:
    """Read one key for use at `place`.

    Raises ConfigError for a missing or damaged file, for one that others may read, a link, another's, one for another
    network, and for a key of value in clear; PassphraseNeeded. No error shows what the file holds.
    """
    path = get_key_path(directory, purpose)
    fields = read_fields(path)
    verify_place(path, fields, place)
    if fields.get("purpose") != purpose:
        raise ConfigError(f"{path} is no {purpose} key", RESTORE_HINT)
    if fields.get("mark") == PLAIN and purpose in OF_VALUE:
        raise ConfigError(f"{path} holds a key of value in clear", "seal it: `rolemesh keys import --help`")
    return open_fields(path, fields, passphrase)


def read_keys(directory: Path, place: Place, passphrase: str | None = None) -> NodeKeys:
    """All keys of a data directory; the vote key where there is one."""
    has_vote = os.path.lexists(get_key_path(directory, "vote"))
    return NodeKeys(
        node=read_key(directory, "node", place),
        account=read_key(directory, "account", place, passphrase),
        vote=read_key(directory, "vote", place, passphrase) if has_vote else None,
    )


def is_sealed(fields: dict[str, Any]) -> bool:
    """Whether a key file's fields say that it takes a passphrase to open."""
    return fields.get("mark") in (SEALED, INSECURE_DEV)


def read_public(path: Path) -> bytes:
    """The public half of the key in a file, which takes no passphrase. Raises ConfigError."""
    fields = read_fields(path)
    if not is_sealed(fields):
        return open_fields(path, fields, None).public
    try:
        return sealed_key.read_label(fields).public
    except CannotOpen as error:
        raise ConfigError(f"{path} is damaged: {error}", RESTORE_HINT) from None


def verify_place(path: Path, fields: dict[str, Any], place: Place) -> None:
    """Silence, or ConfigError when a key is marked for another network than this one."""
    mark = fields.get("mark")
    if mark not in (PLAIN, SEALED, PUBLIC_DEV, INSECURE_DEV):
        marks = f"{PLAIN}, {SEALED}, {PUBLIC_DEV} or {INSECURE_DEV}"
        raise ConfigError(f"{path} carries no known mark", f"a key is marked {marks}")
    what = "a public development key: anyone has it" if mark == PUBLIC_DEV else "a development key, sealed weakly"
    hint = f"make a key of your own for chain {place.chain.hex()}: `rolemesh keys new`"
    if mark in (PUBLIC_DEV, INSECURE_DEV) and fields.get("chain") != place.chain.hex():
        raise ConfigError(f"{path} is {what}, and it is for another network", hint)
    if mark == INSECURE_DEV and not place.is_test_network:
        raise ConfigError(f"{path} is {what}, and this is a public network", hint)


def open_fields(path: Path, fields: dict[str, Any], passphrase: str | None) -> PrivateKey:
    """The key in a key file's fields. Raises ConfigError; PassphraseNeeded when it is sealed and there is none."""
    if is_sealed(fields):
        if passphrase is None:
            raise PassphraseNeeded(path)
        try:
            return sealed_key.open_key(fields, passphrase)
        except WrongPassphrase as error:
            raise ConfigError(f"{path} does not open: {error}", f"try again, or {RESTORE_HINT}") from None
        except CannotOpen as error:
            raise ConfigError(f"{path} is damaged: {error}", RESTORE_HINT) from None
    if fields.get("format") != FORMAT:
        raise ConfigError(f"{path} is no key of format {FORMAT}", RESTORE_HINT)
    try:
        return PrivateKey.from_seed(_expect_seed(fields.get("seed")))
    except ValueError:
        # `from None`: the cause would carry the text of the seed into a traceback.
        raise ConfigError(f"{path} holds no seed of 32 bytes in hex", RESTORE_HINT) from None


def read_fields(path: Path) -> dict[str, Any]:
    """What a key file says, unchecked. Raises ConfigError for a file that is missing, damaged or not ours alone."""
    try:
        fields = json.loads(read_private(path))
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is damaged: it is not JSON", RESTORE_HINT) from None
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} is damaged: it holds no object", RESTORE_HINT)
    return fields


def read_private(path: Path) -> bytes:
    """The bytes of a file that its owner alone may read. Raises ConfigError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        hint = "make keys with `rolemesh node init` or `rolemesh keys new`"
        raise ConfigError(f"{path} cannot be opened: {error.strerror}", hint) from error
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
        raise ConfigError(f"{path} is larger than any key file ({KEY_FILE_BYTES_MAX} bytes)", RESTORE_HINT)
    return data


def write_key_file(path: Path, text: str | bytes) -> Path:
    """Write a file for its owner alone, whole or not at all. Raises ConfigError when the name is taken."""
    folder = path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = folder / f".{path.stem}.{secrets.token_hex(8)}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("ascii") if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, fails when the name is taken.
        os.link(temporary, path)
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already", "use another directory, or move the old key away") from error
    finally:
        temporary.unlink()
    sync_directory(folder)
    return path


def _expect_seed(text: Any) -> bytes:
    if not isinstance(text, str) or len(text) != 64:
        raise ValueError("no seed")
    return bytes.fromhex(text)
