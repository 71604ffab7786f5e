"""`rolemesh keys`: make, list, carry away and bring in the keys of a data directory."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from testnet.cli.arguments import Json, Network, one_of, open_network
from testnet.cli.node import DATA
from testnet.cli.output import CommandError, ExitCode, Output, format_table
from testnet.cli.passphrases import NewPassphraseFile, PassphraseFile, ask_passphrase, choose_passphrase

if TYPE_CHECKING:
    from protocol.keys import PrivateKey

app = App(
    name="keys",
    help="Keys of a node or wallet. Account and vote keys are sealed under a passphrase; a node key is not.",
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
    import secrets

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
    from roles.keystore import PURPOSES, get_key_path, read_fields

    output = Output(json)
    paths = {purpose: get_key_path(data, purpose) for purpose in PURPOSES}
    there = {purpose: path for purpose, path in paths.items() if path.is_symlink() or path.exists()}
    rows = [_describe(purpose, path, read_fields(path)) for purpose, path in there.items()]
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


def _describe(purpose: str, path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    from roles.keystore import RESTORE_HINT, is_sealed, open_fields
    from roles.sealed_key import CannotOpen, read_label

    if is_sealed(fields):
        try:
            public = read_label(fields).public
        except CannotOpen as error:
            raise CommandError("bad_key", f"{path} is damaged: {error}", RESTORE_HINT, ExitCode.CONFIG) from None
    else:
        public = open_fields(path, fields, None).public
    text = format_public(purpose, public)
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
