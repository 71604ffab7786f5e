"""`rolemesh model add`: check a model, find its class, put its bytes where others can fetch them, register it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from testnet.cli.arguments import Json
from testnet.cli.model_calibrate import (
    RANGE,
    ROWS,
    SEED,
    Pythons,
    Range,
    Rows,
    Samples,
    Seed,
    read_file,
    run_calibration,
    show,
)
from testnet.cli.output import CommandError, ExitCode, Output, format_role
from testnet.cli.wallet import From, NoWait, Timeout, find_home, find_payer, order_final

if TYPE_CHECKING:
    from protocol.ledger.model_records import Calibration
    from roles.engine.frames import Loaded

EPILOGUE = (
    "Examples:\n\n  rolemesh model add my.onnx --samples rows.npz\n\n"
    "  rolemesh model add sums.onnx --name sums --version 2 --class exact --labels low,high\n\n"
    "  rolemesh model add my.onnx --range -3:3 --from client-0 --json"
)


def add(
    file: Annotated[Path, Parameter(name="FILE")],
    /,
    *,
    name: str = "",
    version: int = 0,
    class_: Annotated[str, Parameter(name="--class")] = "",
    labels: str = "",
    samples: Samples = None,
    rows: Rows = ROWS,
    seed: Seed = SEED,
    numbers: Range = RANGE,
    python: Pythons = (),
    payer: From = "",
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    json: Json = False,
) -> None:
    """Register a model with the account of a running node, for a deposit that comes back some time after it is retired.

    The model is loaded in a worker process first. What is not of the exact class by its graph is calibrated.

    Parameters
    ----------
    file
        An .onnx file.
    name
        What people call it; the file's name unless given.
    version
        A whole number higher than the last one; the next unless given.
    class_
        `exact` or `fp32`; exact where the graph allows it, unless given.
    labels
        What the places of the output mean, separated by commas.
    """
    from protocol.content import compute_digest, format_cid
    from protocol.ledger.model_records import TensorSpec
    from protocol.ledger.models import RegisterModel
    from testnet.cli.ledger import read_state

    output = Output(json)
    directory = find_payer(payer)
    data = read_file(file)
    state, _ = read_state(directory)
    chosen = name or file.stem.lower()
    known = state.model_names.get(chosen)
    loaded = _load(data, output)
    is_exact = _choose_class(data, class_)
    rows_max = _limit_rows(data, is_exact, output)
    calibration: tuple[Calibration, ...] = ()
    if not is_exact:
        report = run_calibration(data, samples, rows, seed, numbers, python)
        show(report, output)
        if report.reason:
            hint = "`rolemesh model calibrate` shows what was measured; give logits, or other rows with --samples"
            what = f"not of the fp32 class: {report.reason}"
            raise CommandError("not_calibrated", what, hint, ExitCode.VERIFICATION_FAILED)
        calibration = (report.calibration,)
    body = RegisterModel(
        name=chosen,
        version=version or (known.version + 1 if known is not None else 1),
        digest=compute_digest(data),
        size_bytes=len(data),
        exact=int(is_exact),
        calibration=calibration,
        inputs=tuple(TensorSpec(spec.dtype, spec.shape) for spec in loaded.inputs),
        outputs=tuple(TensorSpec(spec.dtype, spec.shape) for spec in loaded.outputs),
        labels=tuple(part.strip() for part in labels.split(",")) if labels else (),
        rows_max=rows_max,
    )
    stores = _store(directory, data, output)
    told = order_final(directory, body, timeout, no_wait)
    when = "on its way" if told["height"] is None else f"final at height {told['height']} after {told['took_ms']} ms"
    kind = "exact" if is_exact else "fp32"
    cid = format_cid(body.digest)
    output.say(f"{body.name}@{body.version}, {kind}: {when}; {format_role(state.params.model_deposit)} of deposit")
    output.say(f"{cid} in {', '.join(map(str, stores))}")
    fields = {"name": body.name, "version": body.version, "class": kind, "cid": cid, "size_bytes": len(data)}
    fields["rows_max"] = rows_max
    bound = {"bound_ppt": calibration[0].bound_ppt if calibration else None}
    output.give({**told, **fields, **bound, "deposit_grains": state.params.model_deposit, "stores": stores})


def _load(data: bytes, output: Output) -> "Loaded":
    from roles.engine.errors import EngineError
    from testnet.examine import examine

    output.note("loading it in a worker process")
    try:
        return examine(data)
    except EngineError as error:
        hint = "the reason says what would have to change in the model"
        raise CommandError("model_refused", f"the model is not run here: {error}", hint, ExitCode.USAGE) from error


def _choose_class(data: bytes, wanted: str) -> bool:
    """Whether it is to be of the exact class. Raises CommandError when it is said to be and is not."""
    from roles.engine.exactness import find_inexact

    if wanted not in ("", "exact", "fp32"):
        raise CommandError("bad_class", f"no class {wanted!r}", "it is exact or fp32", ExitCode.USAGE)
    reason = find_inexact(data) if wanted != "fp32" else "as asked"
    if wanted == "exact" and reason:
        hint = "leave --class out to have it calibrated as fp32"
        raise CommandError("not_exact", f"not of the exact class: {reason}", hint, ExitCode.VERIFICATION_FAILED)
    return not reason


def _limit_rows(data: bytes, is_exact: bool, output: Output) -> int:
    """The most rows of one request. Raises CommandError when a worker could not defend even one in a dispute."""
    from protocol.ledger.limits import ROWS_MAX
    from roles.engine.traceable import find_rows_max

    found, reason = find_rows_max(data)
    if is_exact and not found:
        hint = "divide the large operators, or register it with --class fp32: optimised runs are not disputed"
        what = f"a worker could not defend it in a dispute: {reason}"
        raise CommandError("not_traceable", what, hint, ExitCode.VERIFICATION_FAILED)
    if found < ROWS_MAX:
        output.note(f"a run without optimisation can be traced for up to {found} rows: {reason}")
    return found if is_exact else ROWS_MAX


def _store(directory: Path, data: bytes, output: Output) -> list[Path]:
    """Put the bytes into the stores of the network's storage nodes on this machine, or else into the node's own."""
    from protocol.ledger.genesis import compute_chain_id
    from roles.blobs import add_blob
    from roles.config import read_genesis
    from testnet.network_file import NetworkFileError, read_network_file

    own = directory / "blobs"
    storage: list[Path] = []
    try:
        home = find_home(directory)
        network = read_network_file(home)
        if network.chain == compute_chain_id(read_genesis(directory)).hex():
            storage = [home.parent / node.directory / "blobs" for node in network.nodes if node.role == "storage"]
    except NetworkFileError:
        storage = []  # a node of no network of this machine
    stores = [folder for folder in storage if folder.is_dir()] or [own]
    if stores == [own]:
        output.note(
            "no storage node of this machine holds it: have one `rolemesh model pull` it, else nobody can fetch it"
        )
    try:
        for folder in stores:
            add_blob(folder, data)
    except OSError as error:
        hint = "the store must be writable and the disk have room"
        raise CommandError("cannot_store", f"{error.filename}: {error.strerror}", hint) from error
    return stores
