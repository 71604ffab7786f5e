"""`rolemesh model calibrate`, and the reading of rows that `rolemesh model add` shares with it."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from testnet.cli.arguments import Json
from testnet.cli.ledger import Where, read_state
from testnet.cli.output import CommandError, ExitCode, Output, format_count
from testnet.cli.progress import Progress

if TYPE_CHECKING:
    from testnet.calibrate import Report

ROWS, SEED, RANGE, HELDOUT_SHARE = 5_000, 1, "0:1", 0.3
PPT = 1e12
EPILOGUE = (
    "Examples:\n\n  rolemesh model calibrate digits-fp32 --range 0:16\n\n"
    "  rolemesh model calibrate my.onnx --samples rows.npz --json\n\n"
    "  rolemesh model calibrate my.onnx --rows 20000 --seed 7 --python older/bin/python --python newer/bin/python"
)

Samples = Annotated[
    Path | None,
    Parameter(
        name="--samples",
        help="An .npz file of rows, arrays called like the model's inputs; rows are drawn unless given.",
    ),
]
Rows = Annotated[
    int, Parameter(name="--rows", help="How many rows to draw; 3 in 10 more are drawn to try the bound on.")
]
Seed = Annotated[int, Parameter(name="--seed", help="Of the rows drawn: the same seed draws the same rows.")]
Range = Annotated[str, Parameter(name="--range", help="Of the numbers drawn, as LOW:HIGH.")]
Pythons = Annotated[
    tuple[Path, ...],
    Parameter(
        name="--python",
        negative="",
        help="Python of another environment with onnxruntime and numpy, to compare versions; may be repeated.",
    ),
]


def calibrate(
    model: Annotated[str, Parameter(name="FILE|MODEL")],
    /,
    *,
    samples: Samples = None,
    rows: Rows = ROWS,
    seed: Seed = SEED,
    numbers: Range = RANGE,
    python: Pythons = (),
    directory: Where = None,
    json: Json = False,
) -> None:
    """Measure how far apart honest runs of a float model are, how near cheaper weights come, and what bound follows.

    Exits with 5 when the model is not of the fp32 class: when cheaper weights would hardly show.

    Parameters
    ----------
    model
        An .onnx file, or a model on the ledger whose bytes a node on this machine holds.
    """
    output = Output(json)
    data = _read_model(model, directory)
    report = run_calibration(data, samples, rows, seed, numbers, python)
    show(report, output)
    if report.reason:
        hint = "let the model give logits instead of votes, saturated probabilities or labels; or take other rows"
        raise CommandError(
            "not_calibrated",
            f"not of the fp32 class: {report.reason}",
            hint,
            ExitCode.VERIFICATION_FAILED,
            **describe(report),
        )
    output.give(describe(report))


def run_calibration(
    model: bytes, samples: Path | None, rows: int, seed: int, numbers: str, pythons: tuple[Path, ...]
) -> "Report":
    """Calibrate with rows of a file or of a seed, showing how far it is. Raises CommandError."""
    from roles.engine.admission import verify_model
    from roles.engine.errors import ModelRefused
    from roles.engine.protobuf import MalformedProtobuf
    from testnet.calibrate import calibrate as measure
    from testnet.rows_process import RowsFailed, RowsProcess
    from testnet.sample_rows import BadRows, draw_rows, read_rows, split_rows

    low, high = _parse_range(numbers)
    if not 10 <= rows <= 1_000_000 or not 0 <= seed < 2**63:
        message = f"cannot draw {rows} rows with seed {seed}"
        raise CommandError("bad_rows", message, "10 to 1000000 rows and a seed from 0", ExitCode.USAGE)
    progress = Progress()
    interpreters = [sys.executable, *map(str, pythons)]
    try:
        verify_model(model)
        with RowsProcess(sys.executable, {"model": model}) as process:
            inputs = process.described["inputs"]
        if samples is not None:
            seed = 0
            used, held = split_rows(read_rows(samples, inputs), HELDOUT_SHARE)
        else:
            used = draw_rows(inputs, rows, seed, low, high)
            held = draw_rows(inputs, max(1, round(rows * HELDOUT_SHARE)), seed + 1, low, high)
        return measure(model, used, held, interpreters, seed, progress.show)
    except ModelRefused as error:
        hint = "the reason says what would have to change in the model"
        raise CommandError("model_refused", f"the model is not run here: {error}", hint, ExitCode.USAGE) from error
    except BadRows as error:
        hint = "give rows with --samples, or a range that fits with --range LOW:HIGH"
        raise CommandError("bad_rows", str(error), hint, ExitCode.USAGE) from error
    except (RowsFailed, MalformedProtobuf, ValueError) as error:
        hint = "every --python needs onnxruntime and numpy, and must run the model"
        raise CommandError("calibration_failed", str(error), hint) from error
    finally:
        progress.end()


def show(report: "Report", output: Output) -> None:
    found = report.calibration
    output.say(f"{'rows':>12}  {found.rows}, and {report.heldout_rows} held out")
    versions = ", ".join(found.versions)
    output.say(f"{'profiles':>12}  {report.profiles}, onnxruntime {versions} on {found.isa}")
    output.say(f"{'honest':>12}  {found.honest_ppt / PPT:.2e} at most, {report.honest_p999:.2e} in 99.9 % of rows")
    output.say(
        f"{'fp16 cheat':>12}  {found.fp16_ppt / PPT:.2e} at least, {report.ratio:.1f} times the farthest honest row"
    )
    output.say(f"{'int8 cheat':>12}  {report.int8_min:.2e} at least")
    output.say(f"{'bound':>12}  {found.bound_ppt / PPT:.2e} of a row's largest number")
    held = format_count(report.heldout_outside, "honest row")
    shares = ", ".join(f"{share:.2%} of {cheat} rows" for cheat, share in report.detected.items())
    output.say(f"{'held out':>12}  {held} beyond the bound (at most {report.heldout_honest:.2e}); {shares} found")


def describe(report: "Report") -> dict[str, Any]:
    found = report.calibration
    return {
        "rows": found.rows,
        "seed": found.seed,
        "profiles": report.profiles,
        "versions": list(found.versions),
        "isa": found.isa,
        "honest_max": found.honest_ppt / PPT,
        "honest_p999": report.honest_p999,
        "fp16_min": found.fp16_ppt / PPT,
        "int8_min": report.int8_min,
        "ratio": report.ratio if found.honest_ppt else None,
        "bound": found.bound_ppt / PPT,
        "bound_ppt": found.bound_ppt,
        "heldout_rows": report.heldout_rows,
        "heldout_honest_max": report.heldout_honest,
        "heldout_outside": report.heldout_outside,
        "detected": dict(report.detected),
        "refused": report.reason or None,
        "record": asdict(found),
    }


def read_file(path: Path) -> bytes:
    """A model's file. Raises CommandError."""
    from roles.engine.specs import MODEL_BYTES_MAX

    try:
        with path.open("rb") as file:
            data = file.read(MODEL_BYTES_MAX + 1)
    except OSError as error:
        hint = "name an .onnx file"
        raise CommandError("no_model", f"cannot read {path}: {error.strerror}", hint, ExitCode.USAGE) from error
    if len(data) > MODEL_BYTES_MAX:
        message = f"{path} is larger than {MODEL_BYTES_MAX} bytes"
        raise CommandError("model_refused", message, "networks of this version run smaller models", ExitCode.USAGE)
    return data


def _read_model(model: str, directory: Path | None) -> bytes:
    from roles.models import find_model
    from testnet.cli.arguments import open_network
    from testnet.registry import find_bytes

    if Path(model).is_file() or model.endswith(".onnx"):
        return read_file(Path(model))
    state, _ = read_state(directory)
    record = find_model(state, model)
    home = directory if directory is not None else open_network(None)[0].parent
    data = find_bytes(home, record.digest) if record is not None else None
    if data is None:
        what = "is not held by a node on this machine" if record is not None else "is neither a file nor on the ledger"
        hint = "name an .onnx file, or fetch it: `rolemesh model pull`"
        raise CommandError("unknown_model", f"{model} {what}", hint, ExitCode.USAGE)
    return data


def _parse_range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        low, high = 1.0, 0.0
    if not low < high or high - low == float("inf"):
        raise CommandError("bad_range", f"not a range: {text!r}", "write it like 0:1 or -3:3", ExitCode.USAGE)
    return low, high
