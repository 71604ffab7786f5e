"""`rolemesh store`: what a person sees, and what a program gets."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from roles.config import NodeConfig, write_config
from testnet.cli import main
from testnet.cli.output import ExitCode
from tests.roles.store.parts import block_files, make_tree, read_tree

ROOT = Path(__file__).parents[3]
HELLO = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


@pytest.fixture
def run(capsys, tmp_path):
    def call(*words):
        code = main(["store", *map(str, words), "--data", str(tmp_path), "--json"])
        (line,) = capsys.readouterr().out.splitlines()
        return code, json.loads(line)

    return call


@pytest.fixture
def say(capsys, tmp_path):
    def call(*words):
        code = main(["store", *map(str, words), "--data", str(tmp_path)])
        return code, capsys.readouterr().out

    return call


@pytest.fixture
def folder(run, tmp_path):
    """A folder that was put, and its CID."""
    make_tree(tmp_path / "in")
    code, told = run("put", tmp_path / "in", "--for", "30d")
    assert code == ExitCode.OK
    return told["cid"]


def test_a_folder_is_put_listed_checked_and_got_back(run, say, folder, tmp_path):
    code, listed = run("ls")
    (pin,) = listed["pins"]
    assert (code, pin["cid"], pin["name"]) == (ExitCode.OK, folder, "in")
    assert abs(pin["expires_ms"] / 1000 - time.time() - 30 * 86_400) < 600
    assert listed["used_bytes"] == sum(path.stat().st_size for path in block_files(tmp_path))

    code, checked = run("verify", folder)
    assert (code, checked["holds"], checked["blocks"]) == (ExitCode.OK, True, listed["blocks"])

    code, got = run("get", folder, tmp_path / "out")
    assert (code, got["files"], read_tree(tmp_path / "out")) == (ExitCode.OK, 6, read_tree(tmp_path / "in"))

    code, text = say("ls")
    assert folder in text
    assert "of 10.0 GiB used" in text


def test_a_file_has_the_name_ipfs_gives_it_and_is_kept_until_unpinned(run, tmp_path):
    (tmp_path / "hello").write_bytes(b"hello world")

    _, told = run("put", tmp_path / "hello", "--name", "greeting")
    assert (told["cid"], told["files"], told["new_bytes"]) == (HELLO, 1, 11)
    assert run("gc")[1]["blocks"] == 0
    code, told = run("pin", HELLO, "--for", "1h")
    assert (code, told["name"]) == (ExitCode.OK, "greeting")
    assert told["expires_ms"] is not None
    assert run("unpin", HELLO)[1]["state"] == "unpinned"
    code, told = run("gc")
    assert (told["blocks"], told["freed_bytes"], told["used_bytes"]) == (1, 11, 0)
    code, told = run("get", HELLO, tmp_path / "out")
    assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "missing")
    code, told = run("unpin", HELLO)
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "not_pinned")


def test_damage_is_found_with_exit_code_5_and_mended_by_putting_again(run, folder, tmp_path):
    path = max(block_files(tmp_path), key=lambda path: path.stat().st_size)
    path.write_bytes(b"evil")

    code, told = run("verify")
    assert (code, told["error"]["code"]) == (ExitCode.VERIFICATION_FAILED, "damaged")
    assert told["error"]["details"]["damaged"] == 1
    assert run("get", folder, tmp_path / "out")[1]["error"]["code"] == "missing"
    assert run("put", tmp_path / "in")[0] == ExitCode.OK
    assert run("verify")[0] == ExitCode.OK


def test_hidden_entries_are_told_and_a_link_is_refused_by_its_path(run, capsys, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ".env").write_bytes(b"secret")
    assert main(["store", "put", str(tmp_path / "in"), "--data", str(tmp_path)]) == ExitCode.OK
    assert "1 hidden entry left out" in capsys.readouterr().err

    (tmp_path / "in" / "link").symlink_to("/etc/passwd")
    code, told = run("put", tmp_path / "in")
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "not_storable")
    assert str(tmp_path / "in" / "link") in told["error"]["message"]


def test_a_full_store_names_the_quota_and_what_makes_room(run, tmp_path):
    write_config(tmp_path, NodeConfig("node", ("storage",), store_bytes_max=1_000))
    (tmp_path / "large").write_bytes(bytes(2_000))

    code, told = run("put", tmp_path / "large")

    assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "store_full")
    assert told["error"]["details"] == {"need": 2_000, "used": 0, "bytes_max": 1_000}
    assert block_files(tmp_path) == []


def test_a_damaged_index_says_what_to_do_and_that_works(run, folder, tmp_path):
    for path in (tmp_path / "store").glob("index.db*"):
        path.write_bytes(b"no database at all, for some pages " * 200)

    code, told = run("ls")
    assert (code, told["error"]["code"]) == (ExitCode.CONFIG, "index_damaged")
    for path in (tmp_path / "store").glob("index.db*"):
        path.rename(tmp_path / path.name)

    assert [pin["cid"] for pin in run("ls")[1]["pins"]] == [folder]


def test_a_mistyped_option_is_not_taken_for_a_path(run, tmp_path):
    code, told = run("put", "--hiden")

    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "usage")


def start(tmp_path, *words, **how):
    command = [sys.executable, "-m", "testnet.cli", "store", *map(str, words), "--data", str(tmp_path)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)


def test_a_pipe_goes_in_and_comes_out(tmp_path):
    data = os.urandom(3_000_000)

    with start(tmp_path, "put", "-", "--name", "piped", stdin=subprocess.PIPE) as process:
        cid = process.communicate(data, timeout=60)[0].split()[0].decode()
    with start(tmp_path, "get", cid, "-") as process:
        back = process.communicate(timeout=60)[0]

    assert back == data


def test_ctrl_c_leaves_nothing_pinned_and_says_how_to_go_on(run, tmp_path):
    # A pipe that stays open: the put waits for more than it has had.
    with start(tmp_path, "put", "-", stdin=subprocess.PIPE) as process:
        process.stdin.write(os.urandom(20_000_000))
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while not block_files(tmp_path) and time.monotonic() < deadline:
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        process.wait(30)  # with its pipe still open: an end of it would let the put finish
        said = process.communicate(timeout=30)[1].decode()

    assert process.returncode == ExitCode.INTERRUPTED
    assert "nothing is pinned" in said
    assert "Traceback" not in said
    assert run("ls")[1]["pins"] == []
