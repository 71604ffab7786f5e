"""The command line as a script sees it: exit codes, the error envelope, one object with --json, quick starts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testnet.cli import build_app, main
from testnet.cli.output import ExitCode

HEAVY = ("libp2p", "onnxruntime", "numpy", "trio", "nacl", "httpx", "structlog", "msgpack", "PIL")


@pytest.fixture(autouse=True)
def _away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main([*arguments, "--json"])
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1, "standard output holds exactly one object"
    return code, json.loads(out)


def find_commands(prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command of the tree, as words."""
    app = build_app()
    for word in prefix:
        app = app[word]
    words = [name for name in app if not name.startswith("-")]
    return [leaf for word in words for leaf in (find_commands((*prefix, word)) or [(*prefix, word)])]


@pytest.mark.parametrize("words", find_commands(), ids=" ".join)
def test_every_command_has_examples_and_json(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == ExitCode.OK

    text = capsys.readouterr().out
    assert f"rolemesh {' '.join(words)}" in text.partition("Examples:")[2]
    assert "--json" in text


def test_help_and_version_start_without_anything_heavy() -> None:
    code = (
        "import sys; from testnet.cli import main\n"
        "for words in (['--help'], ['version'], ['testnet', 'up', '--help']): main(words)\n"
        f"sys.exit(str([name for name in {HEAVY!r} if name in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)

    assert done.stderr.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (["nonsense"], ExitCode.USAGE, "usage"),
        (["testnet", "nonsense"], ExitCode.USAGE, "usage"),
        (["testnet", "up", "--nonsense"], ExitCode.USAGE, "usage"),
        (["testnet", "up", "--nodes", "many"], ExitCode.USAGE, "usage"),
        (["testnet", "up", "--nodes", "3"], ExitCode.USAGE, "too_few_nodes"),
        (["testnet", "up", "--nodes", "9", "--roles", "client=1"], ExitCode.USAGE, "usage"),
        (["testnet", "up", "--roles", "inferense=3"], ExitCode.USAGE, "unknown_role"),
        (["testnet", "up", "--roles", "validator=33,client=1"], ExitCode.USAGE, "validators"),
        (["testnet", "up", "--load", "digits", "--roles", "validator=1,client=1"], ExitCode.USAGE, "roles"),
        (["testnet", "up", "--roles", "validator=1,inference=1"], ExitCode.USAGE, "roles"),
        (["testnet", "up", "--roles", "validator=1,storage="], ExitCode.USAGE, "bad_roles"),
        (["testnet", "up", "--load", "cats"], ExitCode.USAGE, "unknown_model"),
        (["testnet", "up", "--liar", "1"], ExitCode.USAGE, "usage"),
        (["testnet", "up", "--liar", "9", "--load", "digits"], ExitCode.USAGE, "liars"),
        (["testnet", "up", "--duration", "soon"], ExitCode.USAGE, "bad_duration"),
        (["testnet", "up", "--feed", "ftp://x"], ExitCode.USAGE, "bad_feed"),
        (["testnet", "up", "--model", "none.onnx"], ExitCode.USAGE, "no_model"),
        (["testnet", "up", "--load", "digits", "--samples", "none.npz"], ExitCode.USAGE, "bad_samples"),
        (["testnet", "status"], ExitCode.UNREACHABLE, "no_network"),
        (["testnet", "logs"], ExitCode.UNREACHABLE, "no_network"),
        (["testnet", "down"], ExitCode.UNREACHABLE, "no_network"),
        (["testnet", "check"], ExitCode.UNREACHABLE, "no_network"),
        (["testnet", "check", "nowhere"], ExitCode.USAGE, "no_directory"),
        (["node", "init"], ExitCode.UNREACHABLE, "no_network"),
        (["node", "init", "--direct", "12D3Koo"], ExitCode.USAGE, "bad_address"),
        (["node", "status"], ExitCode.CONFIG, "no_node"),
        (["node", "run"], ExitCode.CONFIG, "config"),
        (["node", "run", "--announce", "/ip4/0.0.0.0/tcp/4001"], ExitCode.USAGE, "bad_address"),
        (["node", "run", "--http", "0.0.0.0:9464"], ExitCode.USAGE, "bad_address"),
        (["peers", "ls"], ExitCode.CONFIG, "no_node"),
        (["peers", "ban", "192.0.2.7"], ExitCode.CONFIG, "no_node"),
        (["peers", "ban"], ExitCode.USAGE, "usage"),
        (["peers", "ban", "192.0.2.7", "--for", "ever"], ExitCode.USAGE, "bad_duration"),
        (["infer", "digits", "--input", "x.npy"], ExitCode.UNREACHABLE, "no_network"),
        (["infer", "digits", "--input", "x.npy", "--timeout", "3m"], ExitCode.USAGE, "bad_duration"),
        (["infer", "digits", "--input", "x.npy", "--max-fee=-1"], ExitCode.USAGE, "bad_fee"),
        (["infer", "digits", "--input", "-"], ExitCode.UNREACHABLE, "no_network"),
        (["verify", "nothing.receipt"], ExitCode.USAGE, "no_file"),
        (["ledger", "balance"], ExitCode.UNREACHABLE, "no_network"),
        (["model", "ls"], ExitCode.UNREACHABLE, "no_network"),
        (["model", "show", "digits"], ExitCode.UNREACHABLE, "no_network"),
        (["model", "calibrate", "nothing.onnx"], ExitCode.USAGE, "no_model"),
        (["model", "add", "nothing.onnx"], ExitCode.CONFIG, "no_node"),
        (["model", "pull", "digits"], ExitCode.CONFIG, "no_node"),
        (["store", "ls"], ExitCode.CONFIG, "no_store"),
        (["store", "get", "../../etc/passwd"], ExitCode.USAGE, "bad_cid"),
        (["store", "put", "nothing"], ExitCode.USAGE, "no_file"),
        (["sim", "--replay", "nonsense"], ExitCode.USAGE, "bad_token"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_error_has_a_code_a_next_step_and_an_exit_code_that_is_not_zero(
    arguments: list[str], code: ExitCode, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code, result = run_json(capsys, *arguments)

    assert exit_code == code
    assert result["error"]["code"] == name
    assert result["error"]["message"]
    assert result["error"]["hint"]


def test_a_bug_is_shown_as_one_and_exits_with_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> str:
        raise RuntimeError("out of cheese")

    monkeypatch.setattr("testnet.cli.get_version", broken)

    code, result = run_json(capsys, "version")

    assert code == ExitCode.FAILURE
    assert result["error"]["code"] == "internal"
    assert "out of cheese" in result["error"]["message"]


def test_a_directory_that_holds_something_is_never_used_for_a_new_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")

    code, result = run_json(capsys, "testnet", "up", "--dir", "full")

    assert (code, result["error"]["code"]) == (ExitCode.CONFIG, "directory_in_use")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
