"""What a user types or holds, as the tensor a model takes; and clear errors for the rest."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testnet.cli.arguments import parse_duration, parse_roles, spread_nodes
from testnet.cli.inputs import read_input
from testnet.cli.output import CommandError, ExitCode

SHAPE = (0, 64)


def save(path: Path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


def test_an_array_becomes_a_tensor_and_a_single_example_a_batch_of_one(tmp_path: Path) -> None:
    rows = np.arange(128, dtype=np.uint8).reshape(2, 64)

    assert read_input(save(tmp_path / "rows.npy", rows), "uint8", SHAPE).shape == (2, 64)
    one = read_input(save(tmp_path / "one.npy", rows[1]), "uint8", SHAPE)
    assert (one.dtype, one.shape, one.data) == ("uint8", (1, 64), rows[1].tobytes())


def test_rows_of_numbers_are_read_from_a_file_and_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join(",".join(str(number % 17) for number in range(64)) for _ in range(3))
    (tmp_path / "rows.csv").write_text(text)
    from_file = read_input(str(tmp_path / "rows.csv"), "uint8", SHAPE)
    with (tmp_path / "rows.csv").open() as piped:
        monkeypatch.setattr("sys.stdin", piped)
        assert read_input("-", "uint8", SHAPE) == from_file
    assert from_file.shape == (3, 64)


@pytest.mark.parametrize("is_paper", [False, True])
def test_a_picture_is_scaled_to_the_models_numbers_and_dark_ink_on_paper_turned_over(
    tmp_path: Path, is_paper: bool
) -> None:
    digit = np.zeros((32, 32), dtype=np.uint8)
    digit[8:24, 12:20] = 255
    Image.fromarray(255 - digit if is_paper else digit).save(tmp_path / "digit.png")

    tensor = read_input(str(tmp_path / "digit.png"), "uint8", SHAPE)

    pixels = np.frombuffer(tensor.data, np.uint8).reshape(8, 8)
    assert pixels[4, 4] == 16
    assert pixels[0, 0] == 0


@pytest.mark.parametrize(
    ("array", "got", "hint"),
    [
        (np.zeros((2, 63), dtype=np.uint8), r"got uint8 \(2, 63\)", "64 numbers for each row"),
        (np.zeros((2, 64), dtype=np.float32), r"got float32 \(2, 64\)", "numpy.save"),
        (np.zeros((2, 8, 8), dtype=np.uint8), r"got uint8 \(2, 8, 8\)", "numpy.save"),
        (np.zeros((0, 64), dtype=np.uint8), r"got uint8 \(0, 64\)", "64 numbers for each row"),
        (np.full((1, 64), "a"), r"got str32 \(1, 64\)", "64 numbers for each row"),
    ],
)
def test_a_wrong_shape_or_dtype_says_what_was_expected_and_what_came(
    tmp_path: Path, array: np.ndarray, got: str, hint: str
) -> None:
    path = save(tmp_path / "bad.npy", array)

    with pytest.raises(CommandError, match=rf"expected uint8 \(rows, 64\), {got}") as raised:
        read_input(path, "uint8", SHAPE)

    assert raised.value.exit_code is ExitCode.USAGE
    assert hint in raised.value.hint


@pytest.mark.parametrize(
    "data", [b"", b"\x93NUMPY", b"\x89PNG\r\n\x1a\n", b"one,two", b"1,2\n3", b"\xff\xfe", b"1.5,2"]
)
def test_anything_else_is_a_clear_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "input"
    path.write_bytes(data)

    with pytest.raises(CommandError, match="input"):
        read_input(str(path), "uint8", SHAPE)


def test_numbers_that_do_not_fit_the_type_are_refused_not_rounded(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for number in ("0.5", "256", "-1", "nan"):
        path.write_text(",".join([number] * 64))
        with pytest.raises(CommandError, match="whole numbers from 0 to 255"):
            read_input(str(path), "uint8", SHAPE)


def test_durations_and_roles_are_read_and_nonsense_is_a_usage_error() -> None:
    assert parse_duration("2m") == 120
    assert parse_roles("inference=2, verifier=3") == {"inference": 2, "verifier": 3}
    assert sum(spread_nodes(30).values()) == 30
    for bad in ("", "60 s", "-1s", "0s", "1y"):
        with pytest.raises(CommandError, match="duration"):
            parse_duration(bad)
    for bad in ("", "inferense=2", "inference=x", "inference=1,inference=2", "a b:C=1"):
        with pytest.raises(CommandError):
            parse_roles(bad)
    with pytest.raises(CommandError, match="every role"):
        spread_nodes(6)
