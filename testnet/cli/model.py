"""`rolemesh model`: the models on the ledger: look, fetch, measure, register, retire."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from testnet.cli import model_add, model_calibrate
from testnet.cli.arguments import Json, parse_duration
from testnet.cli.ledger import Where, read_state
from testnet.cli.output import CommandError, ExitCode, Output, format_bytes, format_role, format_table
from testnet.cli.progress import Progress
from testnet.cli.wallet import From, NoWait, Timeout, ask_running, find_payer, order_final

if TYPE_CHECKING:
    from protocol.ledger.model_records import ModelRecord
    from protocol.ledger.state import State

POLL_S = 0.1
PPT = 1e12

app = App(
    name="model",
    help="Models on the ledger: list, show, fetch, calibrate, register, retire.",
    help_epilogue="Examples:\n\n  rolemesh model ls\n\n  rolemesh model show digits\n\n"
    "  rolemesh model calibrate my.onnx --samples rows.npz\n\n  rolemesh model add my.onnx --samples rows.npz",
)
Which = Annotated[str, Parameter(name="MODEL", help="Name (its newest version), name@version, CID or sha256.")]

app.command(model_add.add, help_epilogue=model_add.EPILOGUE)
app.command(model_calibrate.calibrate, help_epilogue=model_calibrate.EPILOGUE)


@app.command(help_epilogue="Examples:\n\n  rolemesh model ls\n\n  rolemesh model ls --dir .rolemesh/dev-42 --json")
def ls(*, directory: Where = None, json: Json = False) -> None:
    """List the models on the ledger, as a node has stored it."""
    from testnet.registry import list_models

    output = Output(json)
    state, _ = read_state(directory)
    rows = [describe(model, state) for model in list_models(state)]
    cells = [
        (
            row["name"],
            str(row["version"]),
            row["class"],
            f"{row['bound']:.1e}" if row["bound"] else "-",
            format_bytes(row["size_bytes"]) if row["size_bytes"] else "-",
            str(row["served_by"]),
            "retired" if row["retired_ms"] else "served",
            row["cid"],
        )
        for row in rows
    ]
    output.say(format_table(("NAME", "VERSION", "CLASS", "BOUND", "SIZE", "NODES", "STATE", "CID"), cells))
    output.say(f"at height {state.height}, as that node has it")
    output.give({"height": state.height, "models": rows})


@app.command(help_epilogue="Examples:\n\n  rolemesh model show digits\n\n  rolemesh model show digits@1 --json")
def show(wanted: Which, /, *, directory: Where = None, json: Json = False) -> None:
    """Show all the ledger says of a model: what it takes and gives, its class, its calibration, who serves it."""
    output = Output(json)
    state, _ = read_state(directory)
    row = describe(find(state, wanted), state)
    calibration = row["calibration"]
    lines = {
        "name": f"{row['name']}, version {row['version']}" + (", retired" if row["retired_ms"] else ""),
        "class": "exact: every machine gives the same bits" if row["class"] == "exact" else "fp32",
        "takes": "; ".join(row["inputs"]),
        "gives": "; ".join(row["outputs"]),
        "rows": f"1 to {row['rows_max']} in one request",
        "labels": ", ".join(label if label.strip() else repr(label) for label in row["labels"]) or "none",
        "size": format_bytes(row["size_bytes"]) if row["size_bytes"] else "not told",
        "owner": row["owner"] or "genesis",
        "deposit": format_role(row["deposit_grains"]),
        "served by": f"{row['served_by']} nodes of this epoch",
        "CID": row["cid"],
        "sha256": row["sha256"],
    }
    if calibration:
        lines["bound"] = f"{calibration['bound']:.2e} of a row's largest number, four times the farthest honest row"
        lines["honest"] = f"{calibration['honest']:.2e} over {calibration['rows']} rows"
        lines["fp16"] = f"{calibration['fp16']:.2e}, the nearest row with weights of half precision"
        lines["onnxruntime"] = f"{', '.join(calibration['versions'])} on {calibration['isa']}"
    elif row["class"] == "fp32":
        lines["bound"] = "not calibrated: outputs of different profiles count only when equal"
    for name, text in lines.items():
        output.say(f"{name:>12}  {text}")
    output.give({"height": state.height, **row})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh model pull digits\n\n"
    "  rolemesh model pull digits@1 --from storage-0 --out digits.onnx --json"
)
def pull(
    wanted: Which,
    /,
    *,
    out: Annotated[Path | None, Parameter(name="--out", help="File to write; NAME.onnx unless given.")] = None,
    payer: From = "",
    timeout: Timeout = "30s",
    json: Json = False,
) -> None:
    """Have a running node fetch a model by its CID, check it against the ledger's digest and write it to a file.

    The node keeps it in its store: this is also how a storage node takes up a model.
    """
    from protocol.content import format_cid
    from protocol.errors import MissingBlob
    from roles.blobs import read_blob

    output = Output(json)
    timeout_s = parse_duration(timeout)
    directory = find_payer(payer)
    state, _ = read_state(directory)
    record = find(state, wanted)
    cid = format_cid(record.digest)
    _fetch(directory, cid, timeout_s)
    try:
        data = read_blob(directory / "blobs", record.digest)
    except MissingBlob as error:
        hint = "run it again: the node fetches it anew"
        raise CommandError("not_held", f"{directory} has no sound copy of {cid}", hint) from error
    target = out or Path(f"{record.name}.onnx")
    try:
        target.write_bytes(data)
    except OSError as error:
        hint = "name a file that can be written with --out"
        raise CommandError("cannot_write", f"{target}: {error.strerror}", hint) from error
    output.say(f"{target}: {format_bytes(len(data))}, as the ledger's digest says ({cid})")
    output.give({"file": target, "bytes": len(data), "cid": cid, "name": record.name, "version": record.version})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh model retire mine@1\n\n  rolemesh model retire mine --from ./worker --json"
)
def retire(
    wanted: Which, /, *, payer: From = "", no_wait: NoWait = False, timeout: Timeout = "30s", json: Json = False
) -> None:
    """End new work for a model of the node's account. The deposit comes back when all that was done is settled."""
    from protocol.ledger.models import RetireModel

    output = Output(json)
    directory = find_payer(payer)
    state, _ = read_state(directory)
    record = find(state, wanted)
    told = order_final(directory, RetireModel(record.digest), timeout, no_wait)
    when = "on its way" if told["height"] is None else f"final at height {told['height']}"
    back_s = state.params.unbonding_ms // 1_000
    output.say(
        f"{record.name}@{record.version} retired: {when}; {format_role(record.deposit)} come back after {back_s} s"
    )
    output.give({**told, "name": record.name, "version": record.version, "deposit_grains": record.deposit})


def find(state: "State", wanted: str) -> "ModelRecord":
    """A model on the ledger. Raises CommandError that lists what there is."""
    from roles.models import find_model
    from testnet.registry import list_models

    record = find_model(state, wanted)
    if record is None:
        names = [f"{model.name}@{model.version}" for model in list_models(state)]
        hint = f"there is: {', '.join(names) or 'none'}"
        raise CommandError("unknown_model", f"no model {wanted!r}", hint, ExitCode.USAGE, models=names)
    return record


def describe(model: "ModelRecord", state: "State") -> dict[str, Any]:
    """A model's record for people and programs; shares instead of ppt."""
    from protocol.content import format_cid
    from protocol.keys import format_account
    from roles.engine.specs import describe_tensor

    epoch = state.get_epoch(state.epoch)
    candidates = epoch.get_candidates("inference") if epoch is not None else ()
    calibration = [
        {
            "bound": item.bound_ppt / PPT,
            "honest": item.honest_ppt / PPT,
            "fp16": item.fp16_ppt / PPT,
            "rows": item.rows,
            "seed": item.seed,
            "isa": item.isa,
            "versions": list(item.versions),
        }
        for item in model.calibration
    ]
    return {
        "name": model.name,
        "version": model.version,
        "class": "exact" if model.exact else "fp32",
        "bound": calibration[0]["bound"] if calibration else None,
        "calibration": calibration[0] if calibration else None,
        "inputs": [describe_tensor(spec.dtype, spec.shape) for spec in model.inputs],
        "outputs": [describe_tensor(spec.dtype, spec.shape) for spec in model.outputs],
        "labels": list(model.labels),
        "rows_max": model.rows_max,
        "size_bytes": model.size_bytes,
        "cid": format_cid(model.digest),
        "sha256": model.digest.hex(),
        "owner": format_account(model.owner) if model.owner else None,
        "deposit_grains": model.deposit,
        "retired_ms": model.retired_ms,
        "served_by": sum(candidate.serves(model.digest) for candidate in candidates),
    }


def _fetch(directory: Path, cid: str, timeout_s: float) -> None:
    """Have the node fetch a blob and wait until it is in its store. Raises CommandError."""
    progress = Progress()
    deadline_s = time.monotonic() + timeout_s
    told = ask_running(directory, {"command": "blob.fetch", "cid": cid, "begin": True})
    while told["state"] == "fetching" and time.monotonic() < deadline_s:
        progress.show(f"fetching {cid}")
        time.sleep(POLL_S)
        told = ask_running(directory, {"command": "blob.fetch", "cid": cid})
    progress.end()
    if told["state"] == "missing":
        hint = "its owner puts it into a storage node: `rolemesh model add` does, for those of its network"
        raise CommandError("missing_model", f"{cid}: {told['reason']}", hint)
    if told["state"] != "held":
        hint = "wait longer with --timeout; the node goes on fetching"
        raise CommandError("timeout", f"{cid} is not here after {timeout_s:g} s", hint, ExitCode.TIMEOUT)
