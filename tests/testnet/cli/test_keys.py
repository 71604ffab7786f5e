"""`rolemesh keys`: what is made opens again, carried away and brought in it is the same key."""

import json
import os
import pty
import select
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.keys import PrivateKey
from protocol.ledger.genesis import compute_chain_id
from roles.config import write_genesis
from roles.keystore import Place, get_key_path, read_key, write_key
from roles.sealed_key import COSTS, INSECURE_DEV, SEALED
from testnet.cli import main
from testnet.cli.output import ExitCode
from testnet.genesis import build_genesis

PASSPHRASE = "a horse of some length"
ELSEWHERE = Place(b"elsewher")


@pytest.fixture(autouse=True)
def _away(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROLEMESH_PASSPHRASE", raising=False)
    monkeypatch.delenv("ROLEMESH_NEW_PASSPHRASE", raising=False)
    Path("passphrase.txt").write_text(PASSPHRASE + "\n")


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main(["keys", *arguments, "--json"])
        out = capsys.readouterr().out
        assert len(out.splitlines()) == 1
        return code, json.loads(out)

    return call


def make_genesis(name):
    foundation = build_genesis(7, {"validator": 1}, now_ms=1_700_000_000_000)
    return replace(foundation.genesis, name=name)


def make_dev(run, directory, purpose="account"):
    """A fast key of the test network whose genesis lies in `directory`."""
    directory.mkdir(exist_ok=True)
    genesis = make_genesis("dev-1")
    write_genesis(directory, genesis)
    code, made = run("new", purpose, "--data", str(directory), "--dev", "--passphrase-file", "passphrase.txt")
    assert code == ExitCode.OK
    return made, Place(compute_chain_id(genesis), is_test_network=True)


def test_a_new_account_is_sealed_strongly_and_named(run):
    code, made = run("new", "account", "--data", "wallet", "--passphrase-file", "passphrase.txt")

    assert code == ExitCode.OK
    path = Path(made["file"])
    assert made["public"].startswith("rm1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["kdf"]["n"] == 2**17
    assert read_key(Path("wallet"), "account", ELSEWHERE, PASSPHRASE).public
    listed = run("ls", "--data", "wallet")[1]["keys"]
    assert [(key["public"], key["mark"]) for key in listed] == [(made["public"], "sealed")]


def test_a_key_that_is_there_is_not_replaced(run, tmp_path):
    made, _ = make_dev(run, tmp_path / "wallet")
    before = Path(made["file"]).read_bytes()

    code, error = run("new", "account", "--data", "wallet", "--passphrase-file", "passphrase.txt")

    assert (code, error["error"]["code"]) == (ExitCode.CONFIG, "file_exists")
    assert Path(made["file"]).read_bytes() == before


def test_the_fast_seal_is_for_test_networks(run, tmp_path):
    write_genesis(tmp_path, make_genesis("rolemesh"))

    code, error = run("new", "vote", "--data", ".", "--dev", "--passphrase-file", "passphrase.txt")

    assert (code, error["error"]["code"]) == (ExitCode.CONFIG, "public_network")
    assert not get_key_path(tmp_path, "vote").exists()


@pytest.mark.parametrize("unsealed", [False, True])
def test_an_exported_key_comes_in_elsewhere_as_the_same(run, unsealed, monkeypatch):
    monkeypatch.setitem(COSTS, SEALED, COSTS[INSECURE_DEV])  # it is opened and sealed seven times
    monkeypatch.setenv("ROLEMESH_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("ROLEMESH_NEW_PASSPHRASE", "another one, just as long")
    _, made = run("new", "account", "--data", "wallet")

    code, exported = run("export", "account", "copy", "--data", "wallet", *(["--unsealed"] if unsealed else []))
    assert code == ExitCode.OK
    assert stat.S_IMODE(Path("copy").stat().st_mode) == 0o600
    monkeypatch.setenv("ROLEMESH_PASSPHRASE", "another one, just as long")
    if not unsealed:
        monkeypatch.delenv("ROLEMESH_NEW_PASSPHRASE")
    code, imported = run("import", "account", "copy", "--data", "other")

    assert code == ExitCode.OK
    assert made["public"] == exported["public"] == imported["public"]
    ours = read_key(Path("wallet"), "account", ELSEWHERE, PASSPHRASE)
    assert read_key(Path("other"), "account", ELSEWHERE, "another one, just as long").seed == ours.seed


def test_a_key_of_a_test_network_keeps_its_mark_wherever_it_goes(run, tmp_path):
    _, place = make_dev(run, tmp_path / "wallet")
    again = ("--passphrase-file", "passphrase.txt")

    assert run("export", "account", "copy", "--data", "wallet", *again)[0] == ExitCode.OK
    assert (
        run("import", "account", "copy", "--data", "other", *again, "--new-passphrase-file", "passphrase.txt")[0] == 0
    )
    assert read_key(Path("other"), "account", place, PASSPHRASE).public
    code, error = run("export", "account", "clear", "--data", "wallet", "--unsealed", *again)

    assert (code, error["error"]["code"]) == (ExitCode.CONFIG, "dev_key")
    assert not Path("clear").exists()


def test_a_vote_key_does_not_come_in_as_an_account(run, tmp_path):
    make_dev(run, tmp_path / "wallet", "vote")
    assert run("export", "vote", "copy", "--data", "wallet", "--passphrase-file", "passphrase.txt")[0] == ExitCode.OK

    code, error = run("import", "account", "copy", "--data", "other", "--passphrase-file", "passphrase.txt")

    assert (code, error["error"]["code"]) == (ExitCode.CONFIG, "wrong_purpose")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "config"),
        (b"\n", "config"),
        (b"x" * 2_000, "config"),
        (b"\xff" * 9, "config"),
        (b"short", "weak_passphrase"),
    ],
)
def test_a_passphrase_that_is_none_makes_no_key(run, content, code):
    Path("passphrase.txt").write_bytes(content)

    exit_code, error = run("new", "account", "--data", "wallet", "--passphrase-file", "passphrase.txt")

    assert exit_code != ExitCode.OK
    assert error["error"]["code"] == code
    assert not Path("wallet").exists()


def test_without_a_terminal_nobody_is_asked_and_the_error_says_what_to_do(run):
    code, error = run("new", "account", "--data", "wallet")

    assert (code, error["error"]["code"]) == (ExitCode.CONFIG, "passphrase_needed")
    assert "--passphrase-file" in error["error"]["hint"]


def test_a_key_that_others_may_read_is_not_listed(run, tmp_path):
    made, _ = make_dev(run, tmp_path / "wallet")
    Path(made["file"]).chmod(0o644)

    code, error = run("ls", "--data", "wallet")

    assert code == ExitCode.CONFIG
    assert "chmod 600" in error["error"]["hint"]


def test_a_node_key_is_made_in_clear_and_opens_without_a_passphrase(run):
    code, made = run("new", "node", "--data", "wallet")

    assert code == ExitCode.OK
    assert made["public"].startswith("12D3")
    assert read_key(Path("wallet"), "node", ELSEWHERE).public


def talk(words, answers):
    """Run the command on a terminal of its own, answer each prompt; all that the terminal showed, and the exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "testnet.cli", *words])
    shown, left, deadline = b"", list(answers), time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            more = os.read(terminal, 4096)
        except OSError:  # the other side has closed it
            break
        shown += more
        if left and more.rstrip(b" ").endswith(b":"):
            os.write(terminal, left.pop(0) + b"\n")
    os.close(terminal)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def _importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


@pytest.mark.usefixtures("_importable")
def test_on_a_terminal_a_new_passphrase_is_typed_twice_and_never_shown():
    words = ["keys", "new", "account", "--data", "wallet"]

    shown, code = talk(words, [PASSPHRASE.encode(), PASSPHRASE.encode()])

    assert code == ExitCode.OK, shown
    assert PASSPHRASE not in shown
    assert read_key(Path("wallet"), "account", ELSEWHERE, PASSPHRASE).public


@pytest.mark.usefixtures("_importable")
def test_on_a_terminal_two_passphrases_that_differ_make_no_key():
    shown, code = talk(["keys", "new", "account", "--data", "wallet"], [PASSPHRASE.encode(), b"something else"])

    assert code == ExitCode.USAGE
    assert "differ" in shown
    assert not Path("wallet").exists()


def test_only_a_running_nodes_vote_and_node_keys_are_rotated_and_nothing_is_made_otherwise(run, tmp_path):
    make_dev(run, tmp_path / "node", "vote")
    code, told = run("rotate", "vote", "--data", "node", "--passphrase-file", "passphrase.txt")
    assert (code, told["error"]["code"]) == (ExitCode.UNREACHABLE, "not_running")
    code, told = run("rotate", "account", "--data", "node")
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "account_key")
    assert run("rotate", "storage", "--data", "node")[0] == ExitCode.USAGE
    assert run("rotate", "node", "--data", "node")[0] == ExitCode.CONFIG
    assert [path.name for path in Path("node/keys").iterdir()] == ["vote.key"]


def test_a_key_that_is_to_follow_is_listed_beside_the_one_in_use(run):
    write_key(Path("node"), "vote", b"a" * 32, b"chain-01")
    write_key(Path("node"), "vote.next", b"b" * 32, b"chain-01")
    code, told = run("ls", "--data", "node")
    assert code == ExitCode.OK
    listed = {row["purpose"]: row["public"] for row in told["keys"]}
    assert listed == {
        "vote": PrivateKey.from_seed(b"a" * 32).public.hex(),
        "vote.next": PrivateKey.from_seed(b"b" * 32).public.hex(),
    }
