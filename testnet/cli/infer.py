"""`rolemesh infer`: run a model on the network and get an answer with its receipt."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from testnet.cli.arguments import Json, Network, open_network, parse_duration
from testnet.cli.output import CommandError, ExitCode, Output, format_count, format_role
from testnet.cli.receipt import keep_receipt
from testnet.network_file import NetworkFile, is_running

if TYPE_CHECKING:
    from protocol.ledger.model_records import ModelRecord
    from protocol.tensor import Tensor
    from roles.client import Answer

FEE_MAX, TEXT_FEE_MAX = 100_000_000, 1_000_000_000  # grains
HINTS = {
    "price": "raise the limit with --max-fee",
    "expired": "give it more time with --timeout",
    "no_answer": "`rolemesh testnet status` shows which nodes run; give it more time with --timeout",
    "timeout": "give it more time with --timeout",
}


def add_to(app: App) -> None:
    """Add the command to the tree."""
    app.command(
        infer,
        help_epilogue="Examples:\n\n  rolemesh infer digits --input digit.png\n\n"
        "  rolemesh infer digits --input rows.csv --json\n\n"
        "  head -1 rows.csv | rolemesh infer digits --input - --direct --timeout 10s\n\n"
        "  rolemesh infer digits --input digit.png --mode batch\n\n"
        '  rolemesh infer pydoc --text "The " --max-tokens 200 --stream',
    )


def infer(
    model: str,
    /,
    *,
    input: Annotated[str, Parameter(name="--input", allow_leading_hyphen=True)] = "",
    text: Annotated[str, Parameter(name="--text", allow_leading_hyphen=True)] = "",
    stream: Annotated[bool, Parameter(negative="")] = False,
    max_tokens: int = 100,
    temperature: float = 0.0,
    seed: int = 0,
    stop: str = "",
    network: Network = None,
    direct: Annotated[bool, Parameter(negative="")] = False,
    timeout: str = "30s",
    max_fee: int = 0,
    white: int = 16,
    hedge: str = "",
    mode: Literal["individual", "batch", "private"] = "individual",
    json: Json = False,
) -> None:
    """Ask the network to run a model, wait until two verifiers have attested the answer, and keep the receipt.

    A model that makes text goes on with `--text`; with `--stream` it is printed as it comes, on one worker's word, and
    what the verifiers say follows.

    In mode `batch` the answer comes as soon as the worker has signed it: the ledger has some answers checked later, and
    a worker caught lying loses its stake. In mode `private` nobody checks.

    Parameters
    ----------
    model
        Name, CID or sha256 of a model on the ledger.
    input
        A .npy, .png or .csv file, or - for one of these on standard input.
    text
        What a model that makes text is to go on with.
    stream
        Print the text while it is made; with --json, a line for each piece of it.
    max_tokens
        How many tokens to make, 1 to 512. They are paid for, and those of the text given, made or not.
    temperature
        0 for the likeliest text; higher for more chance in it.
    seed
        What chance is drawn from: the same seed makes the same text.
    stop
        A character to end with.
    direct
        Go straight to a worker instead of by gossip.
    timeout
        The request's deadline from now: 30s, 500ms, 1m; at most 2m.
    max_fee
        The most to pay, in grains (1 ROLE is 1,000,000,000 grains); 0.1 ROLE for rows, 1 ROLE for text unless given.
    white
        What white becomes when a picture is scaled to the model's numbers.
    hedge
        Ask a second worker when the first has not answered after so long: 300ms. It may cost as much again.
    mode
        When the answer is checked, and so how it is paid.
    """
    from testnet.cli.infer_text import check_settings
    from testnet.cli.infer_text import run as infer_text
    from testnet.cli.inputs import read_input

    output = Output(json)
    timeout_ms = read_timeout(timeout)
    if max_fee < 0:
        raise CommandError("bad_fee", f"not a fee: {max_fee}", "give --max-fee in grains, 0 or more", ExitCode.USAGE)
    path, found = open_network(network)
    record = _find_model(path.parent, found, model)
    if bool(text) == bool(input):
        hint = "give rows with --input, or with --text what a model that makes text is to go on with"
        raise CommandError("wrong_input", "the model is to be given either rows or a text", hint, ExitCode.USAGE)
    if text:
        check_settings(record, text, stop, max_tokens, temperature)
        directory = open_running(path, found)
        output.note(f"asking network {found.name} for {record.name}, up to {format_count(max_tokens, 'token')}")
        options = {
            "mode": mode,
            "max_fee": max_fee or TEXT_FEE_MAX,
            "timeout_s": timeout_ms / 1_000,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "stop": stop,
        }
        infer_text(directory, record, text, options, output, stream)
        return
    if len(record.inputs) != 1:
        message = f"{record.name} takes {len(record.inputs)} inputs; this command sends one"
        raise CommandError("many_inputs", message, "use the Python API", ExitCode.USAGE)
    tensor = read_input(input, record.inputs[0].dtype, record.inputs[0].shape, white)
    if record.inputs[0].shape[:1] == (0,) and tensor.shape[0] > record.rows_max:
        message = f"{input} has {tensor.shape[0]} rows, {record.name} takes from 1 to {record.rows_max} in one request"
        raise CommandError("wrong_input", message, "send them in several requests", ExitCode.USAGE)
    directory = open_running(path, found)
    output.note(f"asking network {found.name} for {record.name}, {format_count(tensor.shape[0], 'row')}")
    options = {
        "mode": mode,
        "max_fee": max_fee or FEE_MAX,
        "timeout_s": timeout_ms / 1_000,
        "hedge_ms": round(parse_duration(hedge) * 1_000) if hedge else 0,
        "is_direct": direct,
    }
    outcome = _ask(directory, record.digest, (tensor,), options, output)
    _show(output, record, outcome, mode, keep_receipt(directory, outcome))


def read_timeout(text: str) -> int:
    """A deadline from now in ms. Raises CommandError for more than a network takes."""
    from protocol.check import AHEAD_MS_MAX

    timeout_ms = round(parse_duration(text) * 1_000)
    if timeout_ms > AHEAD_MS_MAX:
        message = f"a deadline of {text} is too far ahead"
        raise CommandError("bad_duration", message, f"use at most {AHEAD_MS_MAX // 1_000}s", ExitCode.USAGE)
    return timeout_ms


def _find_model(directory: Path, network: NetworkFile, wanted: str) -> "ModelRecord":
    """A model by name, CID or digest, of genesis or registered since. Raises CommandError that lists what there is."""
    from protocol.ledger.genesis import build_state
    from roles.models import find_model
    from testnet.cli.ledger import read_state
    from testnet.join import read_network_genesis
    from testnet.registry import list_models

    state = build_state(read_network_genesis(network))
    record = find_model(state, wanted)
    if record is None:
        state, _ = read_state(directory)
        record = find_model(state, wanted)
    if record is not None:
        return record
    names = [model.name for model in list_models(state)]
    raise CommandError(
        "unknown_model",
        f"network {network.name} has no model {wanted!r}",
        f"its models are: {', '.join(names)}",
        ExitCode.USAGE,
        models=names,
    )


def open_running(path: Path, network: NetworkFile) -> Path:
    """A client's directory in a network that runs. Raises CommandError."""
    if is_running(path.parent):
        return _open_client(path)
    message = f"network {network.name} is not running"
    raise CommandError("not_running", message, "start one with `rolemesh testnet up`", ExitCode.UNREACHABLE)


def _open_client(path: Path) -> Path:
    from testnet.join import NoAccount, open_client

    try:
        return open_client(path)
    except NoAccount as error:
        raise CommandError("no_account", error.message, error.hint, ExitCode.CONFIG) from error


def _ask(
    directory: Path, model: bytes, inputs: "tuple[Tensor, ...]", options: Mapping[str, Any], output: Output
) -> "Answer":
    from roles.client_errors import ClientError
    from testnet.ask import ask_network

    try:
        return ask_network(directory, model, inputs, output.note, **options)
    except ClientError as error:
        raise CommandError(
            error.code,
            f"the request was not answered: {error.reason}",
            HINTS.get(error.code, error.hint),
            ExitCode(error.exit_code),
            request_id=error.request_id,
            attempts=error.attempts,
        ) from error


def _show(output: Output, record: "ModelRecord", outcome: "Answer", mode: str, receipt: Path) -> None:
    from protocol.keys import format_node
    from testnet.labels import compute_labels

    labels = compute_labels(record, outcome.outputs)
    verifiers = [format_node(verifier) for verifier in outcome.verifiers]
    output.say(f"{'label':>12}  {', '.join(labels)}" if labels else f"{'outputs':>12}  {len(outcome.outputs)} tensors")
    output.say(f"{'worker':>12}  {format_node(outcome.worker)}")
    for verifier in verifiers:
        output.say(f"{'attested by':>12}  {verifier}")
    if not outcome.is_attested:
        nobody = "nobody yet: signed, checked later if drawn" if mode == "batch" else "nobody: signed, never checked"
        output.say(f"{'attested by':>12}  {nobody}")
    how = "straight to the worker" if outcome.was_direct else "by gossip"
    output.say(f"{'sent':>12}  {how}, {format_count(outcome.attempts, 'attempt')}")
    output.say(f"{'fee':>12}  {format_role(outcome.fee)}")
    output.say(f"{'receipt':>12}  {receipt}")
    output.say(f"{'check it':>12}  rolemesh verify {receipt}")
    output.give(_describe(record, outcome, labels, verifiers, receipt))


def _describe(
    record: "ModelRecord", outcome: "Answer", labels: list[str], verifiers: list[str], receipt: Path
) -> Mapping[str, Any]:
    from protocol.keys import format_node

    return {
        "model": record.name,
        "labels": labels,
        "outputs": [{"dtype": item.dtype, "shape": item.shape, "data": item.data} for item in outcome.outputs],
        "worker": format_node(outcome.worker),
        "attested_by": verifiers,
        "is_attested": outcome.is_attested,
        "fee_grains": outcome.fee,
        "attempts": outcome.attempts,
        "direct": outcome.was_direct,
        "request_id": outcome.request_id,
        "receipt": str(receipt),
    }
