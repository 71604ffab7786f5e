"""Where a passphrase comes from when nobody is asked: a file, or the environment. Never the command line itself."""

import os
from pathlib import Path

from roles.config import ConfigError
from roles.sealed_key import PASSPHRASE_BYTES_MAX

VARIABLE = "ROLEMESH_PASSPHRASE"
NEW_VARIABLE = "ROLEMESH_NEW_PASSPHRASE"


def find_passphrase(file: Path | None, variable: str = VARIABLE) -> str | None:
    """The passphrase in a file, less one line end, or else in the environment; None when there is neither.

    Raises ConfigError for a file that cannot be read, and for a passphrase that is empty, longer than
    PASSPHRASE_BYTES_MAX or no UTF-8.
    """
    if file is not None:
        return _check(_read_file(file), f"the passphrase in {file}")
    held = os.environb.get(variable.encode())
    return None if held is None else _check(held, f"the passphrase in {variable}")


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(PASSPHRASE_BYTES_MAX + 3)
    except OSError as error:
        hint = "name a file that holds the passphrase and nothing else"
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint) from error
    return data.removesuffix(b"\n").removesuffix(b"\r")


def _check(data: bytes, what: str) -> str:
    if not 0 < len(data) <= PASSPHRASE_BYTES_MAX:
        hint = f"a passphrase has from 1 to {PASSPHRASE_BYTES_MAX} bytes"
        raise ConfigError(f"{what} is {'empty' if not data else 'too long'}", hint)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{what} is not UTF-8", "write it in UTF-8") from None
