"""Ask for passphrases: a file or the environment first, then whoever sits at the terminal. Never with `--json`."""

import getpass
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from testnet.cli.output import CommandError, ExitCode, Output

LETTERS_MIN = 8

PassphraseFile = Annotated[
    Path | None,
    Parameter(name="--passphrase-file", help="File with the passphrase; else ROLEMESH_PASSPHRASE, else it is asked."),
]
NewPassphraseFile = Annotated[
    Path | None,
    Parameter(name="--new-passphrase-file", help="File with another passphrase to seal with; ROLEMESH_NEW_PASSPHRASE."),
]


def ask_passphrase(output: Output, file: Path | None, what: str) -> str:
    """The passphrase of something sealed. Raises UserError or CommandError."""
    from roles.passphrase import VARIABLE, find_passphrase

    found = find_passphrase(file)
    return found if found is not None else _prompt(output, f"Passphrase of {what}: ", VARIABLE)


def choose_passphrase(output: Output, file: Path | None, what: str, variable: str, is_weak_allowed: bool) -> str:
    """A passphrase for something new: typed twice, and of some length unless that does not matter."""
    from roles.passphrase import find_passphrase

    chosen = find_passphrase(file, variable)
    if chosen is None:
        chosen = _prompt(output, f"New passphrase for {what}: ", variable)
        if _prompt(output, "Once more: ", variable) != chosen:
            raise CommandError("passphrases_differ", "the two passphrases differ", "try again", ExitCode.USAGE)
    if len(chosen) < LETTERS_MIN and not is_weak_allowed:
        message = f"a passphrase of {len(chosen)} characters is guessed too easily"
        raise CommandError("weak_passphrase", message, f"use {LETTERS_MIN} or more; several words are best")
    return chosen


def open_with_passphrase(data: Path, output: Output, file: Path | None) -> str | None:
    """The passphrase of a data directory's sealed keys; None when none is sealed."""
    from roles.keystore import OF_VALUE, get_key_path, is_sealed, read_fields

    for purpose in OF_VALUE:
        path = get_key_path(data, purpose)
        if path.is_file() and is_sealed(read_fields(path)):
            return ask_passphrase(output, file, f"the keys in {data}")
    return None


def _prompt(output: Output, question: str, variable: str) -> str:
    if output.is_json or not sys.stdin.isatty():
        hint = f"name a file with --passphrase-file, or set {variable}; it is asked only on a terminal without --json"
        raise CommandError("passphrase_needed", "a passphrase is needed and nobody can be asked", hint, ExitCode.CONFIG)
    try:
        return getpass.getpass(question, stream=sys.stderr)
    except EOFError:
        raise CommandError("no_passphrase", "no passphrase was typed", "try again", ExitCode.USAGE) from None
