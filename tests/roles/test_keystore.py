"""Key files: for their owner alone, never replaced, and public keys are good on their own network only."""

import os
import stat

import pytest

from roles.config import ConfigError
from roles.keystore import read_key, read_keys, write_key

SEED = bytes(range(32))
SEED_HEX = SEED.hex()
CHAIN, OTHER_CHAIN = b"chain-01", b"chain-02"


def test_a_key_comes_back_as_it_was_written(tmp_path):
    write_key(tmp_path, "node", SEED, CHAIN)

    assert read_key(tmp_path, "node", CHAIN).seed == SEED


def test_a_key_file_and_its_folder_are_for_their_owner_alone(tmp_path):
    path = write_key(tmp_path, "node", SEED, None)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["node.key"]


def test_a_key_is_never_replaced(tmp_path):
    write_key(tmp_path, "node", SEED, None)

    with pytest.raises(ConfigError, match="is there already"):
        write_key(tmp_path, "node", bytes(32), None)

    assert read_key(tmp_path, "node", CHAIN).seed == SEED
    assert len(list((tmp_path / "keys").iterdir())) == 1


def test_a_public_development_key_is_refused_on_another_chain(tmp_path):
    write_key(tmp_path, "account", SEED, CHAIN)

    with pytest.raises(ConfigError, match="public development key"):
        read_key(tmp_path, "account", OTHER_CHAIN)


def test_a_key_of_ones_own_is_good_on_any_chain(tmp_path):
    write_key(tmp_path, "node", SEED, None)

    assert read_key(tmp_path, "node", OTHER_CHAIN).seed == SEED


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_may_use_is_refused(tmp_path, mode):
    path = write_key(tmp_path, "node", SEED, CHAIN)
    path.chmod(mode)

    with pytest.raises(ConfigError, match="mode") as caught:
        read_key(tmp_path, "node", CHAIN)

    assert "chmod 600" in caught.value.hint


def test_a_link_is_not_followed(tmp_path):
    path = write_key(tmp_path, "node", SEED, CHAIN)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ConfigError, match="cannot be opened"):
        read_key(tmp_path, "node", CHAIN)


def test_a_pipe_in_place_of_a_key_does_not_hang(tmp_path):
    (tmp_path / "keys").mkdir()
    os.mkfifo(tmp_path / "keys" / "node.key", 0o600)

    with pytest.raises(ConfigError, match="not a plain file"):
        read_key(tmp_path, "node", CHAIN)


def spell(purpose="node", mark="plain", seed=SEED_HEX, end="}"):
    return f'{{"format": 1, "purpose": "{purpose}", "mark": "{mark}", "seed": "{seed}"' + end


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "[" * 4_000,
        "x" * 5_000,
        '{"format": 1}',
        spell(purpose="vote"),
        spell(mark="secret"),
        spell(seed=SEED.hex()[:-2]),
        spell(seed="z" + SEED.hex()[1:]),
        spell(seed=""),
        spell(end=""),
    ],
)
def test_a_damaged_key_is_refused_and_the_error_shows_no_secret(tmp_path, content):
    path = write_key(tmp_path, "node", SEED, None)
    path.write_text(content)

    with pytest.raises(ConfigError) as caught:
        read_key(tmp_path, "node", CHAIN)

    told = f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
    assert SEED.hex()[:16] not in told
    assert caught.value.hint


def test_a_missing_key_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="cannot be opened") as caught:
        read_key(tmp_path, "node", CHAIN)

    assert "node init" in caught.value.hint


def test_the_keys_of_a_node_with_and_without_a_vote(tmp_path):
    write_key(tmp_path, "node", SEED, CHAIN)
    write_key(tmp_path, "account", bytes(32), CHAIN)
    assert read_keys(tmp_path, CHAIN).vote is None

    write_key(tmp_path, "vote", bytes([1] * 32), CHAIN)
    keys = read_keys(tmp_path, CHAIN)

    assert keys.vote is not None
    assert len({keys.node.public, keys.account.public, keys.vote.public}) == 3
