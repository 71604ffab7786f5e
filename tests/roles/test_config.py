"""`node.json`: what is written is read back, and what no node can run with is refused with a next step."""

import json
from dataclasses import replace

import pytest

from protocol.keys import format_node
from roles.config import EXIT_CONFIG, BootstrapPeer, ConfigError, NodeConfig, read_config, read_genesis, write_config

CONFIG = NodeConfig(
    name="inference-0",
    roles=("inference", "my.module:Role"),
    listen="/ip4/127.0.0.2/tcp/4001",
    bootstrap=(BootstrapPeer(format_node(bytes(32)), ("/ip4/127.0.0.3/tcp/4001",)),),
    options={"inference": {"price": 7, "models": [bytes(32), b"\x01" * 32], "deep": {"key": b"\xff"}}},
    enrol=True,
    engine_workers=2,
    direct=(BootstrapPeer(format_node(b"\x02" * 32), ("/ip4/192.0.2.7/tcp/4001",)),),
    peer_exchange=True,
    keep_blocks=1_000,
)


def test_a_configuration_comes_back_as_it_was_written(tmp_path):
    write_config(tmp_path, CONFIG)

    assert read_config(tmp_path) == CONFIG


def test_writing_leaves_nothing_but_the_file(tmp_path):
    write_config(tmp_path, CONFIG)
    write_config(tmp_path, replace(CONFIG, enrol=False))

    assert [path.name for path in tmp_path.iterdir()] == ["node.json"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": 2}, "format"),
        ({"name": ""}, "name"),
        ({"direct": [{"node": format_node(bytes(32)), "addresses": []}]}, "direct"),
        ({"direct": [{"node": "12D3KooNobody", "addresses": ["/ip4/192.0.2.7/tcp/1"]}]}, "peer id"),
        ({"peer_exchange": 1}, "peer_exchange"),
        ({"keep_blocks": 999}, "keep_blocks 999: 0 for all, or at least 1000"),
        ({"name": None}, "missing"),
        ({"name": "a/b"}, "name"),
        ({"roles": []}, "roles"),
        ({"roles": ["client", "client"]}, "roles"),
        ({"roles": "client"}, "roles"),
        ({"roles": [1]}, "roles"),
        ({"listen": "4001"}, "multiaddr"),
        ({"bootstrap": [7]}, "bootstrap"),
        ({"bootstrap": [{"node": "12D3Koox", "addresses": []}]}, "peer id"),
        ({"options": {"client": 3}}, "options"),
        ({"options": {"client": {"key": "hex:zz"}}}, "hexadecimal"),
        ({"enrol": 1}, "enrol"),
        ({"engine_workers": True}, "engine_workers"),
        ({"engine_workers": 0}, "engine_workers"),
        ({"announce": ["/ip4/0.0.0.0/tcp/4001"]}, "announce"),
        ({"announce": ["/ip4/192.0.2.7/tcp/0"]}, "announce"),
        ({"announce": ["/ip4/192.0.2.7/tcp/4001"] * 5}, "announce"),
        ({"trusted": ["example.org"]}, "IPv4 or IPv6"),
        ({"reachability": "perhaps"}, "reachability"),
        ({"http": "0.0.0.0:9464"}, "loopback"),
        ({"http": "127.0.0.1:99999"}, "loopback"),
        ({"http": 9464}, "http"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_no_node_can_run_with_is_refused_with_a_next_step(tmp_path, change, word):
    write_config(tmp_path, CONFIG)
    path = tmp_path / "node.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    with pytest.raises(ConfigError, match=word) as caught:
        read_config(tmp_path)

    assert caught.value.exit_code == EXIT_CONFIG
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * (1024 * 1024 + 1)])
def test_a_damaged_file_is_refused_with_a_next_step(tmp_path, content):
    (tmp_path / "node.json").write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path)

    assert caught.value.hint


def test_a_directory_without_a_configuration_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        read_config(tmp_path)

    assert "node init" in caught.value.hint


def test_a_configuration_nobody_could_read_is_not_written(tmp_path):
    with pytest.raises(ConfigError):
        write_config(tmp_path, replace(CONFIG, roles=()))
    with pytest.raises(ConfigError):
        write_config(tmp_path, replace(CONFIG, options={"client": {"key": object()}}))

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"name": 3}'])
def test_a_damaged_genesis_is_refused_with_a_next_step(tmp_path, content):
    (tmp_path / "genesis.json").write_bytes(content)

    with pytest.raises(ConfigError, match="genesis") as caught:
        read_genesis(tmp_path)

    assert "node init" in caught.value.hint
