"""`rolemesh keys`: make, list, carry away and bring in the keys of a data directory."""

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from testnet.cli.arguments import Json, Network, one_of, open_network, parse_duration
from testnet.cli.node import DATA
from testnet.cli.output import CommandError, ExitCode, Output, format_table
from testnet.cli.passphrases import (
    NewPassphraseFile,
    PassphraseFile,
    ask_passphrase,
    choose_passphrase,
    open_with_passphrase,
)

if TYPE_CHECKING:
    from protocol.keys import PrivateKey
    from protocol.ledger.genesis import Genesis
    from protocol.ledger.transactions import RotateKeys

TAKEN_UP_POLL_S = 0.1
NEXT = ".next"  # of a key that follows the one in use when the epoch ends

app = App(
    name="keys",
    help="Keys of a node or wallet. Account and vote keys are sealed under a passphrase; a node key is not.",
    help_epilogue="Examples:\n\n  rolemesh keys ls --data ./validator\n\n"
    "  rolemesh keys new account --data ./wallet\n\n  rolemesh keys rotate vote --data ./validator",
)
Data = Annotated[Path, Parameter(name="--data", help="Data directory; keys are in keys/ inside.")]
Purpose = Annotated[str, Parameter(name="PURPOSE", help="account, vote or node.")]


@app.command(
    help_epilogue="Examples:\n\n  rolemesh keys new account --data ./wallet\n\n"
    "  rolemesh keys new vote --data ./validator --passphrase-file /run/secrets/rolemesh\n\n"
    "  rolemesh keys new account --data ./wallet --dev --network .rolemesh/dev-42/testnet.json"
)
def new(
    purpose: Purpose,
    /,
    *,
    data: Data = DATA,
    dev: Annotated[bool, Parameter(negative="")] = False,
    network: Network = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Make a key. One that is there is never replaced.

    Parameters
    ----------
    dev
        Seal it fast and weakly, for one test network: that of --data if a node is there, or of --network. Any other
        network refuses it.
    """
    from protocol.keys import PrivateKey
    from roles.keystore import format_plain, get_key_path, seal_text, write_key_file
    from roles.passphrase import VARIABLE

    output = Output(json)
    path = _check_free(get_key_path(data, _check_purpose(purpose)))
    key = PrivateKey.from_seed(secrets.token_bytes(32))
    if purpose == "node":
        content = format_plain(key, purpose, None)
    else:
        dev_chain = _get_test_chain(data, network) if dev else None
        passphrase = choose_passphrase(output, passphrase_file, f"the {purpose} key", VARIABLE, dev)
        content = seal_text(key, purpose, passphrase, dev_chain)
    write_key_file(path, content)
    output.say(f"{purpose} {format_public(purpose, key.public)} is in {path}")
    if purpose != "node":
        output.note("keep a copy and the passphrase: nobody can restore either. `rolemesh keys export` makes the copy")
    output.give({"purpose": purpose, "public": format_public(purpose, key.public), "file": path, "dev": dev})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh keys ls\n\n"
    "  rolemesh keys ls --data .rolemesh/dev-42/nodes/inference-0 --json"
)
def ls(*, data: Data = DATA, json: Json = False) -> None:
    """List the keys of a data directory. Needs no passphrase: what is public about a key is not sealed."""
    from roles.keystore import PURPOSES, get_key_path

    output = Output(json)
    names = [name for purpose in PURPOSES for name in (purpose, purpose + NEXT)]
    paths = {name: get_key_path(data, name) for name in names}
    there = {name: path for name, path in paths.items() if path.is_symlink() or path.exists()}
    rows = [_describe(name, path) for name, path in there.items()]
    if not rows:
        raise CommandError(
            "no_keys", f"no keys in {data}", "make one with `rolemesh keys new account`", ExitCode.CONFIG
        )
    output.say(
        format_table(
            ("PURPOSE", "PUBLIC", "MARK", "CHAIN"),
            [(row["purpose"], row["public"], row["mark"], row["chain"] or "any") for row in rows],
        )
    )
    output.give({"directory": data, "keys": rows})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh keys export account ./account.backup\n\n"
    "  rolemesh keys export vote ./vote.backup --new-passphrase-file ./offline.txt\n\n"
    "  rolemesh keys export node ./node.libp2p --unsealed"
)
def export(
    purpose: Purpose,
    file: Annotated[Path, Parameter(name="FILE")],
    /,
    *,
    data: Data = DATA,
    unsealed: Annotated[bool, Parameter(negative="")] = False,
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: NewPassphraseFile = None,
    json: Json = False,
) -> None:
    """Write a copy of a key to a file that is not there yet: sealed, under the same passphrase unless another is named.

    Parameters
    ----------
    file
        The file to write, for its owner alone.
    unsealed
        In clear, as libp2p's programs write keys. Whoever reads that file has the key.
    """
    from roles.keystore import get_key_path, read_fields, write_key_file
    from roles.sealed_key import pack_libp2p

    output = Output(json)
    path = get_key_path(data, _check_purpose(purpose))
    _check_free(file)
    fields = read_fields(path)
    key = _open(output, path, fields, passphrase_file)
    if unsealed and fields.get("chain"):
        message = f"{path} is a key of a test network: in clear nothing would say so any more"
        raise CommandError("dev_key", message, "export it without --unsealed; it keeps its mark", ExitCode.CONFIG)
    content = pack_libp2p(key) if unsealed else _copy(output, key, purpose, fields, new_passphrase_file)
    write_key_file(file, content)
    public = format_public(purpose, key.public)
    output.say(f"{purpose} {public} is in {file}{', in clear: whoever reads it has the key' if unsealed else ''}")
    output.give({"purpose": purpose, "public": public, "file": file, "unsealed": unsealed})


@app.command(
    name="import",
    help_epilogue="Examples:\n\n  rolemesh keys import account ./account.backup --data ./wallet\n\n"
    "  rolemesh keys import account ./key.libp2p --data ./wallet --new-passphrase-file ./passphrase.txt",
)
def import_(
    purpose: Purpose,
    file: Annotated[Path, Parameter(name="FILE")],
    /,
    *,
    data: Data = DATA,
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: NewPassphraseFile = None,
    json: Json = False,
) -> None:
    """Bring in a key: one that `keys export` wrote, or an Ed25519 key as libp2p's programs write them.

    A key of value comes to lie here sealed, whatever it was: under its own passphrase, or another one that is named.
    """
    from roles.keystore import RESTORE_HINT, get_key_path, read_fields, read_private, write_key_file
    from roles.sealed_key import CannotOpen, unpack_libp2p

    output = Output(json)
    path = _check_free(get_key_path(data, _check_purpose(purpose)))
    raw = read_private(file)
    if raw.startswith(b"\x08"):
        try:
            key = unpack_libp2p(raw)
        except CannotOpen as error:
            raise CommandError("bad_key", f"{file}: {error}", RESTORE_HINT, ExitCode.CONFIG) from None
        content = _protect(output, key, purpose, new_passphrase_file)
    else:
        fields = read_fields(file)
        if fields.get("purpose") != purpose:
            hint = "name the purpose the key was made for"
            raise CommandError("wrong_purpose", f"{file} is no {purpose} key", hint, ExitCode.CONFIG)
        key = _open(output, file, fields, passphrase_file)
        content = _copy(output, key, purpose, fields, new_passphrase_file)
    write_key_file(path, content)
    output.say(f"{purpose} {format_public(purpose, key.public)} is in {path}")
    output.give({"purpose": purpose, "public": format_public(purpose, key.public), "file": path})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh keys rotate vote --data ./validator\n\n"
    "  rolemesh keys rotate vote --data ./validator --passphrase-file /run/secrets/rolemesh --json\n\n"
    "  rolemesh keys rotate node --data ./worker"
)
def rotate(
    purpose: Annotated[str, Parameter(name="PURPOSE", help="vote or node.")],
    /,
    *,
    data: Data = DATA,
    passphrase_file: PassphraseFile = None,
    timeout: Annotated[str, Parameter(name="--timeout", help="How long to wait: 30s, 2m.")] = "30s",
    json: Json = False,
) -> None:
    """Put a new key in the place of a running node's vote or node key: the same account, bond and delegations.

    The old key serves to the end of the epoch in which the order is final; then the node starts anew by itself and goes
    on with the new one. The old key and its vote log are kept beside them. After an interruption, a timeout or a kill
    the same command goes on with the key it has made, and sends nothing that the ledger holds already. Peers find the
    node by itself under a new node key; whoever named the old one in `direct` or `bootstrap` has to be told.
    """
    from roles.config import read_genesis
    from roles.keystore import get_key_path, read_public
    from roles.rotation import ROTATING, get_next_path, plan_rotation
    from testnet.cli.wallet import order_final

    output = Output(json)
    if purpose == "account":
        hint = "make a new account with `rolemesh keys new account`, and transfer to it what the old one holds"
        raise CommandError("account_key", "an account is its key: it has no other", hint, ExitCode.USAGE)
    path, following = get_key_path(data, one_of(purpose, ROTATING)), get_next_path(data, purpose)
    former = read_public(path)
    _require_running(data)
    passphrase = open_with_passphrase(data, output, passphrase_file)
    keys = make_next(data, purpose, passphrase, read_genesis(data))
    vote_path = get_key_path(data, "vote")
    vote_held = read_public(vote_path) if vote_path.exists() else b""
    account = read_public(get_key_path(data, "account"))
    deadline_s = time.monotonic() + parse_duration(timeout)
    body = plan_rotation(account, keys["node"], keys.get("vote"), vote_held)
    told: dict[str, Any]
    try:
        told = order_final(data, body, timeout)
    except CommandError as error:
        # The epoch may have ended already: then the node has just gone down to take the key up.
        if read_public(path) == keys[purpose].public or (
            error.code == "not_running" and _is_taken_up(path, keys[purpose].public, deadline_s)
        ):
            told = {"state": "in_force"}
        elif _is_on_ledger(data, account, body):
            told = {"state": "pending"}
        elif error.code in ("timeout", "not_running"):
            hint = f"once the node runs and the ledger goes on, the same command goes on with the key in {following}"
            raise CommandError(error.code, error.message, hint, error.exit_code) from error
        else:
            raise
    new, old = format_public(purpose, keys[purpose].public), format_public(purpose, former)
    output.say(f"{purpose} {new} follows {old}")
    if told["state"] != "in_force":
        if told["state"] == "pending":
            output.note("the ledger holds it already: nothing was sent again")
        output.note("it is in force when the epoch ends; the node takes it up by itself, running or at its next start")
    output.give({**told, "purpose": purpose, "public": new, "former": old, "file": following})


def _is_on_ledger(data: Path, account: bytes, body: "RotateKeys") -> bool:
    """Whether the ledger has these very keys of the account already, for the next epoch or for this one."""
    from roles.recovery import read_decided

    record = read_decided(data).nodes.get(account)
    return record is not None and (record.node, record.vote) == (body.node, body.vote)


def _is_taken_up(path: Path, public: bytes, deadline_s: float) -> bool:
    from roles.keystore import read_public

    while read_public(path) != public:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(TAKEN_UP_POLL_S)
    return True


def _require_running(data: Path) -> None:
    """Before a key is made that nobody could put on the ledger."""
    from roles.lock import is_locked

    if not is_locked(data):
        hint = f"start it: `rolemesh node run --data {data}`"
        raise CommandError("not_running", f"no node runs in {data}", hint, ExitCode.UNREACHABLE)


def make_next(data: Path, purpose: str, passphrase: str | None, genesis: "Genesis") -> "dict[str, PrivateKey]":
    """The keys that a node's order names: the node's, and the vote key if that changes. Makes what is missing."""
    from protocol.keys import PrivateKey
    from protocol.ledger.genesis import compute_chain_id
    from roles.keystore import get_key_path, open_fields, read_fields, write_key_file
    from roles.rotation import ROTATING, begin_next_log, get_next_path

    def read(path: Path) -> PrivateKey:
        return open_fields(path, read_fields(path), passphrase)

    fields = read_fields(get_key_path(data, purpose))
    read(get_key_path(data, purpose))  # with the passphrase that both are to have
    if not get_next_path(data, purpose).exists():
        key = PrivateKey.from_seed(secrets.token_bytes(32))
        write_key_file(get_next_path(data, purpose), _follow(fields, key, purpose, passphrase))
    next_paths = {each: path for each in ROTATING if (path := get_next_path(data, each)).exists()}
    keys = {each: read(path) for each, path in {"node": get_key_path(data, "node"), **next_paths}.items()}
    if purpose == "vote":
        begin_next_log(data, compute_chain_id(genesis), keys["vote"].public)
    return keys


def _follow(fields: dict[str, Any], key: "PrivateKey", purpose: str, passphrase: str | None) -> str:
    """A key file like the one it will replace: the same passphrase, mark and network."""
    from roles.keystore import format_plain, is_sealed, seal_text

    dev_chain = bytes.fromhex(fields["chain"]) if fields.get("chain") else None
    if passphrase is not None and is_sealed(fields):
        return seal_text(key, purpose, passphrase, dev_chain)
    return format_plain(key, purpose, dev_chain)


def format_public(purpose: str, public: bytes) -> str:
    """A public key as its purpose writes it: 12D3…, rm1…, or hex for a vote key."""
    from protocol.keys import format_account, format_node

    return {"node": format_node, "account": format_account}.get(purpose, bytes.hex)(public)


def _open(output: Output, path: Path, fields: dict[str, Any], passphrase_file: Path | None) -> "PrivateKey":
    from roles.keystore import is_sealed, open_fields

    passphrase = ask_passphrase(output, passphrase_file, str(path)) if is_sealed(fields) else None
    return open_fields(path, fields, passphrase)


def _copy(output: Output, key: "PrivateKey", purpose: str, fields: dict[str, Any], new_file: Path | None) -> str:
    """What a copy of a key file holds: as it was, but sealed if it was not, and under another passphrase if named."""
    import json as jsonlib

    from roles.keystore import PUBLIC_DEV, is_sealed
    from roles.passphrase import NEW_VARIABLE, find_passphrase
    from roles.sealed_key import INSECURE_DEV

    is_as_it_should_be = purpose == "node" or fields["mark"] == PUBLIC_DEV or is_sealed(fields)
    if is_as_it_should_be and (not is_sealed(fields) or find_passphrase(new_file, NEW_VARIABLE) is None):
        return jsonlib.dumps(fields, indent=1) + "\n"
    dev_chain = bytes.fromhex(fields["chain"]) if fields["mark"] == INSECURE_DEV else None
    return _protect(output, key, purpose, new_file, dev_chain)


def _protect(
    output: Output, key: "PrivateKey", purpose: str, new_file: Path | None, dev_chain: bytes | None = None
) -> str:
    from roles.keystore import format_plain, seal_text
    from roles.passphrase import NEW_VARIABLE

    if purpose == "node":
        return format_plain(key, purpose, None)
    passphrase = choose_passphrase(output, new_file, f"the {purpose} key", NEW_VARIABLE, dev_chain is not None)
    return seal_text(key, purpose, passphrase, dev_chain)


def _describe(purpose: str, path: Path) -> dict[str, Any]:
    from roles.keystore import read_fields, read_public

    fields = read_fields(path)
    text = format_public(purpose.removesuffix(NEXT), read_public(path))
    return {"purpose": purpose, "public": text, "mark": fields["mark"], "chain": fields.get("chain", ""), "file": path}


def _check_purpose(purpose: str) -> str:
    from roles.keystore import PURPOSES

    return one_of(purpose, PURPOSES)


def _check_free(path: Path) -> Path:
    """Before anybody is asked for a passphrase. The writer checks again."""
    if path.is_symlink() or path.exists():
        hint = "use another directory, or move the old file away"
        raise CommandError("file_exists", f"{path} is there already", hint, ExitCode.CONFIG)
    return path


def _get_test_chain(data: Path, network: Path | None) -> bytes:
    """The chain of the test network a weakly sealed key is for. Raises CommandError when it is none."""
    from protocol.ledger.genesis import compute_chain_id
    from roles.config import GENESIS_NAME, read_genesis
    from roles.keystore import TEST_NETWORK_PREFIX, get_place
    from testnet.join import read_network_genesis

    is_node = network is None and (data / GENESIS_NAME).is_file()
    genesis = read_genesis(data) if is_node else read_network_genesis(open_network(network)[1])
    place = get_place(compute_chain_id(genesis), genesis.name)
    if not place.is_test_network:
        message = f"{genesis.name} is no test network: a name that begins with {TEST_NETWORK_PREFIX} would say so"
        raise CommandError("public_network", message, "make the key without --dev", ExitCode.CONFIG)
    return place.chain
