"""Turn what a user has (an array, a picture, rows of numbers) into the tensor a model takes."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.tensor import Tensor
from testnet.cli.output import CommandError, ExitCode
from testnet.cli.pipe import open_standard_input

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

INPUT_BYTES_MAX = 32 * 1024 * 1024
IMAGE_PIXELS_MAX = 16_000_000
NPY_MAGIC = b"\x93NUMPY"
PNG_MAGIC = b"\x89PNG\r\n"


def read_input(source: str, dtype: str, shape: Sequence[int], white: int = 16) -> Tensor:
    """The tensor of one input of a model, whose type is `dtype` and `shape` (a first dimension of 0 counts rows).

    `source` is a .npy, .png or .csv file, or `-` for any of these on standard input. A picture becomes grey values from
    0 to `white`. Raises CommandError that says what was expected and what was found.
    """
    data = _read_bytes(source)
    if data.startswith(NPY_MAGIC):
        array = _read_npy(data, source)
    elif data.startswith(PNG_MAGIC):
        array = _read_png(data, source, shape, white)
    else:
        array = _read_csv(data, source, dtype)
    return fit_array(array, dtype, shape, source)


def fit_array(array: "Array", dtype: str, shape: Sequence[int], source: str) -> Tensor:
    """An array as a tensor of the model's type. A single example may come without its dimension of rows."""
    import numpy as np

    if array.ndim + 1 == len(shape) and shape[0] == 0:
        array = array[np.newaxis]
    fits = array.ndim == len(shape) and all(want in (0, have) for want, have in zip(shape, array.shape, strict=True))
    if array.dtype.name != dtype or not fits or array.size == 0:
        expected = describe(dtype, shape)
        got = f"{array.dtype.name} ({', '.join(str(size) for size in array.shape)})"
        raise CommandError(
            "wrong_input",
            f"{source} does not fit the model: expected {expected}, got {got}",
            _next_step(array, dtype, shape),
            ExitCode.USAGE,
            expected=expected,
            got=got,
        )
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return Tensor(dtype, tuple(int(size) for size in array.shape), little.tobytes())


def describe(dtype: str, shape: Sequence[int]) -> str:
    """A type for people.

    >>> describe("uint8", (0, 64))
    'uint8 (rows, 64)'
    """
    return f"{dtype} ({', '.join('rows' if size == 0 else str(size) for size in shape)})"


def _next_step(array: "Array", dtype: str, shape: Sequence[int]) -> str:
    """How to make an array fit: by type and shape alone if that keeps every number, else by other data."""
    import numpy as np

    numbers = int(np.prod([size for size in shape if size]))
    if array.size == 0 or array.size % numbers or array.dtype.kind not in "iufb":
        return f"send {numbers} numbers for each row"
    sizes = ", ".join("-1" if size == 0 else str(size) for size in shape)
    return f"save it with numpy.save(file, array.astype({dtype!r}).reshape({sizes}))"


def _read_bytes(source: str) -> bytes:
    try:
        if source == "-":
            data = open_standard_input().read(INPUT_BYTES_MAX + 1)
        else:
            with Path(source).open("rb") as file:
                data = file.read(INPUT_BYTES_MAX + 1)
    except OSError as error:
        raise CommandError(
            "no_input", f"cannot read {source}: {error.strerror}", "name a .npy, .png or .csv file", ExitCode.USAGE
        ) from error
    if not data:
        where = "standard input" if source == "-" else source
        raise CommandError("bad_input", f"{where} is empty", "send a .npy, .png or .csv file", ExitCode.USAGE)
    if len(data) > INPUT_BYTES_MAX:
        message = f"{source} is larger than {INPUT_BYTES_MAX} bytes"
        raise CommandError("bad_input", message, "send fewer rows at a time", ExitCode.USAGE)
    return data


def _read_npy(data: bytes, source: str) -> "Array":
    import numpy as np

    try:
        array: Array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        hint = "write it with numpy.save"
        raise CommandError("bad_input", f"{source} is no .npy file: {error}", hint, ExitCode.USAGE) from error
    return array


def _read_png(data: bytes, source: str, shape: Sequence[int], white: int) -> "Array":
    """Grey, scaled to the model's square, light ink on dark. A light border means dark ink on paper: turned over."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    size = int(np.prod([side for side in shape if side]))
    side = round(size**0.5)
    if side * side != size:
        raise CommandError(
            "wrong_input",
            f"the model takes {describe('values', shape)}, which is no square picture",
            "send it as .npy or .csv",
            ExitCode.USAGE,
        )
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > IMAGE_PIXELS_MAX:
            raise CommandError(
                "bad_input", f"{source} has more than {IMAGE_PIXELS_MAX} pixels", "scale it down", ExitCode.USAGE
            )
        grey = image.convert("L").resize((side, side), Image.Resampling.BOX)
    except UnidentifiedImageError as error:
        raise CommandError(
            "bad_input", f"{source} is no PNG picture", "save it again as PNG", ExitCode.USAGE
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        hint = "save it again as PNG"
        raise CommandError("bad_input", f"{source} is no PNG picture: {error}", hint, ExitCode.USAGE) from error
    values = np.asarray(grey, dtype=np.float64)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    if border.mean() > 127.5:
        values = 255 - values
    scaled = np.rint(values * white / 255).astype(np.uint8)
    return scaled.reshape([1 if want == 0 else want for want in shape])


def _read_csv(data: bytes, source: str, dtype: str) -> "Array":
    import numpy as np

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values = np.loadtxt(io.StringIO(data.decode("utf-8")), delimiter=",", ndmin=2)
    except (ValueError, UserWarning) as error:
        raise CommandError(
            "bad_input",
            f"{source} is neither .npy nor .png, nor rows of numbers: {error}",
            "write one example per line, numbers separated by commas",
            ExitCode.USAGE,
        ) from error
    if np.dtype(dtype).kind in "iub":
        whole = np.rint(values)
        is_whole = bool(np.isfinite(values).all() and (whole == values).all())
        low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        if not is_whole or whole.min() < low or whole.max() > high:
            raise CommandError(
                "wrong_input",
                f"{source} holds numbers that are no {dtype}: expected whole numbers from {low} to {high}",
                "round or scale the numbers first",
                ExitCode.USAGE,
            )
    return values.astype(dtype)
