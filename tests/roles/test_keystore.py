"""Key files: for their owner alone, never replaced, and public keys are good on their own network only."""

import os
import stat

import pytest

from protocol.keys import PrivateKey
from roles.config import ConfigError
from roles.keystore import (
    PassphraseNeeded,
    Place,
    get_key_path,
    get_place,
    read_key,
    read_keys,
    seal_text,
    write_key,
    write_key_file,
)

SEED = bytes(range(32))
SEED_HEX = SEED.hex()
CHAIN, OTHER_CHAIN = b"chain-01", b"chain-02"
HERE, ELSEWHERE = Place(CHAIN, is_test_network=True), Place(OTHER_CHAIN, is_test_network=True)
PASSPHRASE = "four words say it"


def test_a_key_comes_back_as_it_was_written(tmp_path):
    write_key(tmp_path, "node", SEED, CHAIN)

    assert read_key(tmp_path, "node", HERE).seed == SEED


def test_a_key_file_and_its_folder_are_for_their_owner_alone(tmp_path):
    path = write_key(tmp_path, "node", SEED, None)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["node.key"]


def test_a_key_is_never_replaced(tmp_path):
    write_key(tmp_path, "node", SEED, None)

    with pytest.raises(ConfigError, match="is there already"):
        write_key(tmp_path, "node", bytes(32), None)

    assert read_key(tmp_path, "node", HERE).seed == SEED
    assert len(list((tmp_path / "keys").iterdir())) == 1


def test_a_public_development_key_is_refused_on_another_chain(tmp_path):
    write_key(tmp_path, "account", SEED, CHAIN)

    with pytest.raises(ConfigError, match="public development key"):
        read_key(tmp_path, "account", ELSEWHERE)


def test_a_key_of_ones_own_is_good_on_any_chain(tmp_path):
    write_key(tmp_path, "node", SEED, None)

    assert read_key(tmp_path, "node", ELSEWHERE).seed == SEED


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_may_use_is_refused(tmp_path, mode):
    path = write_key(tmp_path, "node", SEED, CHAIN)
    path.chmod(mode)

    with pytest.raises(ConfigError, match="mode") as caught:
        read_key(tmp_path, "node", HERE)

    assert "chmod 600" in caught.value.hint


def test_a_link_is_not_followed(tmp_path):
    path = write_key(tmp_path, "node", SEED, CHAIN)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ConfigError, match="cannot be opened"):
        read_key(tmp_path, "node", HERE)


def test_a_pipe_in_place_of_a_key_does_not_hang(tmp_path):
    (tmp_path / "keys").mkdir()
    os.mkfifo(tmp_path / "keys" / "node.key", 0o600)

    with pytest.raises(ConfigError, match="not a plain file"):
        read_key(tmp_path, "node", HERE)


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
        spell(mark="sealed"),
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
        read_key(tmp_path, "node", HERE)

    told = f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
    assert SEED.hex()[:16] not in told
    assert caught.value.hint


def test_a_missing_key_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="cannot be opened") as caught:
        read_key(tmp_path, "node", HERE)

    assert "node init" in caught.value.hint


def test_the_keys_of_a_node_with_and_without_a_vote(tmp_path):
    write_key(tmp_path, "node", SEED, CHAIN)
    write_key(tmp_path, "account", bytes(32), CHAIN)
    assert read_keys(tmp_path, HERE).vote is None

    write_key(tmp_path, "vote", bytes([1] * 32), CHAIN)
    keys = read_keys(tmp_path, HERE)

    assert keys.vote is not None
    assert len({keys.node.public, keys.account.public, keys.vote.public}) == 3


def seal(directory, purpose="account", dev_chain=CHAIN):
    key = PrivateKey.from_seed(SEED)
    return write_key_file(get_key_path(directory, purpose), seal_text(key, purpose, PASSPHRASE, dev_chain))


def test_a_sealed_key_opens_under_its_passphrase_alone(tmp_path):
    path = seal(tmp_path)

    assert read_key(tmp_path, "account", HERE, PASSPHRASE).seed == SEED
    with pytest.raises(ConfigError, match="the passphrase does not fit"):
        read_key(tmp_path, "account", HERE, PASSPHRASE + "!")
    with pytest.raises(PassphraseNeeded, match="is sealed"):
        read_key(tmp_path, "account", HERE)
    assert SEED_HEX not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_strongly_sealed_key_is_good_on_any_network(tmp_path):
    seal(tmp_path, dev_chain=None)

    assert read_key(tmp_path, "account", Place(OTHER_CHAIN), PASSPHRASE).seed == SEED


def test_a_public_network_refuses_a_fast_seal_even_on_its_own_chain(tmp_path):
    seal(tmp_path)

    with pytest.raises(ConfigError, match="this is a public network"):
        read_key(tmp_path, "account", get_place(CHAIN, "rolemesh"), PASSPHRASE)
    with pytest.raises(ConfigError, match="it is for another network"):
        read_key(tmp_path, "account", ELSEWHERE, PASSPHRASE)
    assert read_key(tmp_path, "account", get_place(CHAIN, "dev-42"), PASSPHRASE).seed == SEED


@pytest.mark.parametrize("purpose", ["account", "vote"])
def test_a_key_of_value_in_clear_is_refused(tmp_path, purpose):
    write_key(tmp_path, purpose, SEED, None)

    with pytest.raises(ConfigError, match="in clear") as caught:
        read_key(tmp_path, purpose, HERE)

    assert "keys import" in caught.value.hint


def test_a_sealed_file_cut_short_anywhere_is_refused_and_shows_no_secret(tmp_path):
    path = seal(tmp_path)
    text = path.read_text()

    for length in range(0, len(text) - 2, 7):
        path.write_text(text[:length])
        with pytest.raises(ConfigError) as caught:
            read_key(tmp_path, "account", HERE, PASSPHRASE)
        assert PASSPHRASE not in f"{caught.value} {caught.value.hint}"
