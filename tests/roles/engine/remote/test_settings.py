"""Which server runs which model: what may be said, and what is said of what may not."""

import json
from dataclasses import replace

import pytest

from protocol.content import format_cid
from roles.config import ConfigError, NodeConfig, read_config, write_config
from roles.engine.remote.settings import BackendConfig, parse_backend
from testnet.cli import main
from testnet.cli.output import ExitCode
from testnet.join import change_node

URL = "http://127.0.0.1:8080/digits"
CID = format_cid(bytes(32))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (f"digits@1={URL}", "/v2/models/digits"),
        (f"{CID}=https://models.example/a-b_c.d/versions/3", "/v2/models/a-b_c.d/versions/3"),
        ("digits@12=http://[::1]:8080/x", "/v2/models/x"),
    ],
)
def test_a_model_and_where_its_server_has_it(text, path):
    assert parse_backend(text).path == path


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("digits@1", "is no MODEL=URL"),
        (f"digits={URL}", "neither name@version"),
        (f"@1={URL}", "neither name@version"),
        ("digits=local", "neither name@version"),
        ("digits@1=ftp://127.0.0.1/digits", "no http or https URL"),
        ("digits@1=http:///digits", "no http or https URL"),
        ("digits@1=http://127.0.0.1:8080", "not of the form"),
        ("digits@1=http://127.0.0.1:8080/a/b", "not of the form"),
        ("digits@1=http://me:secret@127.0.0.1/digits", "not of the form"),
        (f"digits@1={URL}?x=1", "not of the form"),
        ("digits@1=http://127.0.0.1:99999/digits", "Port out of range"),
    ],
)
def test_what_is_no_backend_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_backend(text)


def test_what_the_command_line_says_is_kept_in_the_file_beside_what_stands_there_and_can_be_taken_back(tmp_path):
    tuned = BackendConfig("cancer@2", URL, concurrency=9, timeout_s=5)
    write_config(tmp_path, NodeConfig("n", ("inference",), backends=(tuned,)))

    changed = change_node(tmp_path, backends=(f"digits@1={URL}", f"cancer@2={URL}"))

    assert read_config(tmp_path) == changed
    assert changed.backends == (tuned, BackendConfig("digits@1", URL))
    moved = change_node(tmp_path, backends=(f"cancer@2={URL}2", "digits@1=local"))
    assert moved.backends == (BackendConfig("cancer@2", f"{URL}2"),)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"model": "digits@1"}, "model and url"),
        ({"model": "digits@1", "url": URL, "speed": 3}, "model and url"),
        ({"model": "digits@1", "url": 3}, "url is int"),
        ({"model": "digits@1", "url": URL, "concurrency": True}, "concurrency is bool"),
        ({"model": "digits@1", "url": URL, "concurrency": 0}, "concurrency 0"),
        ({"model": "digits@1", "url": URL, "timeout_s": 601}, "timeout_s 601"),
        ({"model": "digits@1", "url": URL, "ca": "/dev/null"}, "ca is for https"),
        ({"model": "digits@1", "url": "https://h/x", "ca": "/dev/null"}, "holds no certificates"),
        ({"model": "digits@1", "url": "https://h/x", "ca": "/nowhere"}, "holds no certificates"),
        ("digits", "model and url"),
    ],
)
def test_an_entry_of_the_file_that_is_none_is_refused_with_the_reason(entry, reason, tmp_path):
    write_config(tmp_path, NodeConfig("n", ("inference",)))
    path = tmp_path / "node.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"backends": [entry]}))

    with pytest.raises(ConfigError, match=reason):
        read_config(tmp_path)


def test_a_model_has_one_server(tmp_path):
    twice = (BackendConfig("digits@1", URL), BackendConfig("digits@1", f"{URL}2"))
    with pytest.raises(ConfigError, match="each for another model"):
        write_config(tmp_path, replace(NodeConfig("n", ("inference",)), backends=twice))


def test_the_command_line_says_what_is_wrong_and_how_it_is_written(tmp_path, capsys):
    code = main(["node", "run", "--data", str(tmp_path), "--backend", f"digits={URL}", "--json"])

    said = json.loads(capsys.readouterr().out)["error"]
    assert (code, said["code"]) == (ExitCode.USAGE, "bad_backend")
    assert "digits@1=http://127.0.0.1:8080/digits" in said["hint"]
