"""`rolemesh app pass|check`: what to show for a pass, and whether what somebody shows is good."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from testnet.cli.arguments import Json, parse_duration
from testnet.cli.output import CommandError, ExitCode, Output, format_time
from testnet.cli.passphrases import PassphraseFile, open_with_passphrase
from testnet.cli.prove import read_trusted
from testnet.cli.trusting import Genesis
from testnet.cli.wallet import From, find_payer

if TYPE_CHECKING:
    from protocol.proofs.pass_file import PassFile

PASS_SUFFIX = ".pass"
WRITE_EPILOGUE = (
    "Examples:\n\n  rolemesh app pass chat\n\n  rolemesh app pass chat --for 1h --out hour.pass\n\n"
    '  curl -H "X-App-Pass: rmp_..." http://127.0.0.1:8080/v1/models'
)
CHECK_EPILOGUE = (
    "Examples:\n\n  rolemesh app check chat.pass --genesis testnet.json\n\n"
    "  rolemesh app check chat.pass --genesis genesis.json --app chat --json"
)


def write_pass(
    name: Annotated[str, Parameter(name="APP", help="Name of an app on the ledger.")],
    /,
    *,
    during: Annotated[str, Parameter(name="--for")] = "",
    out: Annotated[Path | None, Parameter(name="--out")] = None,
    payer: From = "",
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Write what to show for the pass that a node's account has bought. Whoever has the file may use the pass.

    It holds the account's signed word and the ledger's proof of the purchase: who serves the app checks both without
    asking anybody. The token that it prints is the signed part alone: for a gateway, which has the ledger.

    Parameters
    ----------
    during
        How long the file is good: 1h, 2d; as long as the pass is paid for unless given.
    out
        File to write, readable for its owner alone; named after the app unless given.
    """
    from protocol.codec import encode
    from protocol.errors import LocalError
    from protocol.ledger.apps import compute_pass_key
    from protocol.ledger.genesis import compute_chain_id
    from protocol.proofs.pass_file import format_token, make_pass
    from roles.config import read_genesis
    from roles.keystore import get_place, read_key
    from testnet.prove import prove_pass, read_ledger

    output = Output(json)
    directory = find_payer(payer)
    now_ms = time.time_ns() // 1_000_000
    genesis = read_genesis(directory)
    chain = compute_chain_id(genesis)
    passphrase = open_with_passphrase(directory, output, passphrase_file)
    account = read_key(directory, "account", get_place(chain, genesis.name), passphrase)
    output.note(f"recomputing the ledger in {directory} from genesis")
    ledger = read_ledger(directory)
    held = ledger.result.state.passes.get(compute_pass_key(name, account.public))
    if held is None or held.until_ms <= now_ms:
        hint = f"`rolemesh app show {name}` lists its tiers, `rolemesh app buy {name} --tier TIER` buys a pass"
        raise CommandError("no_pass", f"the account has no pass to {name} that is good now", hint)
    until_ms = min(held.until_ms, now_ms + round(parse_duration(during) * 1_000)) if during else held.until_ms
    file = make_pass(chain, held, prove_pass(ledger, name, account.public), account, until_ms)
    try:
        data = encode(file)
    except LocalError as error:  # so many changes of validators since genesis
        raise CommandError("too_long", f"the ledger's proof is too long for a file: {error}", "") from error
    target = out or Path(f"{name}{PASS_SUFFIX}")
    _write_private(target, data)
    output.say(f"{target}: {len(data)} bytes, good until {format_time(until_ms)} UTC")
    token = format_token(file.statement)
    output.say(f"for a gateway: X-App-Pass: {token}")
    fields = {"app": name, "tier": held.tier.name, "until_ms": until_ms, "token": token}
    output.give({"file": target, "bytes": len(data), **fields})


def check(
    file: Path,
    /,
    *,
    genesis: Genesis = None,
    name: Annotated[str, Parameter(name="--app")] = "",
    json: Json = False,
) -> None:
    """Check a pass with nothing but a genesis and the clock, and say what it allows now. Exits 5 if it is not good.

    Not shown: what has been used of it, and whether the app has been retired since.

    Parameters
    ----------
    file
        A .pass file of `rolemesh app pass`.
    name
        App that it is to be good for; the one it names unless given.
    """
    from protocol.errors import RemoteError
    from protocol.keys import format_account
    from protocol.proofs.pass_file import verify_pass

    output = Output(json)
    if genesis is None:
        hint = "name a genesis.json or testnet.json you trust with --genesis"
        raise CommandError("no_genesis", f"{file} shows nothing without a genesis", hint, ExitCode.USAGE)
    trusted = read_trusted(genesis)
    try:
        shown = _read_pass(file)
        app = name or shown.statement.app
        right = verify_pass(shown, trusted, app, time.time_ns() // 1_000_000)
    except RemoteError as error:
        hint = "let nobody in on it; who holds it buys a pass with `rolemesh app buy` and shows that"
        raise CommandError("bad_pass", f"{file}: {error}", hint, ExitCode.VERIFICATION_FAILED) from error
    until_ms = shown.statement.until_ms
    output.say(f"good for {app} until {format_time(until_ms)} UTC; of {format_account(right.holder)}")
    output.say(f"{right.quota} requests in period {right.period}, which ends at {format_time(right.ends_ms)} UTC")
    fields = {"app": app, "holder": format_account(right.holder), "since_ms": right.since_ms, "until_ms": until_ms}
    output.give({**fields, "period": right.period, "period_ends_ms": right.ends_ms, "quota": right.quota})


def _read_pass(path: Path) -> "PassFile":
    """Raises CommandError, and RemoteError for what is no pass."""
    from protocol.proofs.pass_file import PASS_FILE_BYTES_MAX, decode_pass_file

    try:
        with path.open("rb") as file:
            return decode_pass_file(file.read(PASS_FILE_BYTES_MAX + 1))
    except OSError as error:
        hint = "name a file that `rolemesh app pass` has written"
        raise CommandError("cannot_read", f"{path}: {error.strerror}", hint, ExitCode.USAGE) from error


def _write_private(path: Path, data: bytes) -> None:
    """Write a file that is its owner's alone. Raises CommandError."""
    try:
        path.unlink(missing_ok=True)  # an older one may be open to others
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError as error:
        hint = "name a file that can be written with --out"
        raise CommandError("cannot_write", f"{path}: {error.strerror}", hint) from error
