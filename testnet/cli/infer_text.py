"""`rolemesh infer MODEL --text …`: have a model go on with a text, and print it while it is made."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testnet.cli.output import CommandError, ExitCode, Output, format_role
from testnet.cli.receipt import keep_receipt

if TYPE_CHECKING:
    from protocol.ledger.model_records import ModelRecord
    from roles.client import Answer
    from roles.client_stream import StreamedPiece

# What is left of the general hints for those who sent no rows.
HINTS = {
    "price": "raise the limit with --max-fee, or ask for less with --max-tokens",
    "expired": "give it more time with --timeout",
    "timeout": "give it more time with --timeout",
}


def check_settings(record: "ModelRecord", text: str, stop: str, max_tokens: int, temperature: float) -> None:
    """Raises CommandError for what no worker would take."""
    from protocol.generation import PROMPT_TOKENS_MAX, TEMPERATURE_MAX, TOKENS_MAX, read_form

    if read_form(record.inputs, record.outputs) is None:
        message, hint = f"{record.name} makes no text", "send it rows with --input"
        raise CommandError("wrong_input", message, hint, ExitCode.USAGE)
    if not 1 <= len(text) <= PROMPT_TOKENS_MAX:
        message = f"a text of {len(text)} characters"
        raise CommandError("wrong_input", message, f"give 1 to {PROMPT_TOKENS_MAX}", ExitCode.USAGE)
    strange = sorted({*text, *stop} - {*record.labels})
    if strange or len(stop) > 1:
        names = ", ".join(map(repr, strange))
        message = f"{record.name} does not know {names}" if strange else f"{stop!r} is more than one character"
        hint = "leave them out; --stop takes one character of those the model knows"
        raise CommandError("wrong_input", message, hint, ExitCode.USAGE, characters=strange)
    if not 1 <= max_tokens <= TOKENS_MAX:
        message = f"cannot ask for {max_tokens} tokens"
        raise CommandError("wrong_input", message, f"give --max-tokens from 1 to {TOKENS_MAX}", ExitCode.USAGE)
    if not 0 <= temperature <= TEMPERATURE_MAX / 1_000:
        message = f"not a temperature: {temperature}"
        raise CommandError("wrong_input", message, "give one from 0 to 10, 0 for the likeliest text", ExitCode.USAGE)


def run(
    directory: Path, record: "ModelRecord", text: str, options: Mapping[str, Any], output: Output, streams: bool
) -> None:
    """Ask, print, and give the answer. Raises CommandError."""
    from roles.client_errors import ClientError, StreamBroken
    from testnet.ask import stream_network

    shown: list[str] = []

    def show(piece: "StreamedPiece") -> None:
        if streams and not output.is_json:
            sys.stdout.write(piece.text if shown else text + piece.text)
            sys.stdout.flush()
        if streams:
            output.give({"start": piece.start, "text": piece.text, "tokens": piece.tokens})
        shown.append(piece.text)

    try:
        answer = stream_network(directory, record.digest, text, output.note, show, **options)
    except ClientError as error:
        if shown and streams:
            output.say()
        good = f" (of what was printed, {error.good} tokens stand)" if isinstance(error, StreamBroken) else ""
        if shown and not good:
            good = " (what was printed before is one worker's word and no more)"
        raise CommandError(
            error.code,
            f"the request was not answered: {error.reason}{good if streams else ''}",
            HINTS.get(error.code, error.hint),
            ExitCode(error.exit_code),
            request_id=error.request_id,
            attempts=error.attempts,
            good=error.good,
        ) from error
    output.say("" if streams else text + "".join(shown))
    _show(output, record, answer, "".join(shown), keep_receipt(directory, answer))


def _show(output: Output, record: "ModelRecord", answer: "Answer", text: str, receipt: Path) -> None:
    from protocol.keys import format_node

    verifiers = [format_node(verifier) for verifier in answer.verifiers]
    output.note(f"{'worker':>12}  {format_node(answer.worker)}")
    for verifier in verifiers:
        output.note(f"{'attested by':>12}  {verifier}")
    if not answer.is_attested:
        output.note(f"{'attested by':>12}  nobody yet: signed, not verified")
    output.note(f"{'fee':>12}  {format_role(answer.fee)}")
    output.note(f"{'receipt':>12}  {receipt}")
    output.note(f"{'check it':>12}  rolemesh verify {receipt}")
    output.give(
        {
            "model": record.name,
            "text": text,
            "tokens": len(text),
            "worker": format_node(answer.worker),
            "attested_by": verifiers,
            "is_attested": answer.is_attested,
            "fee_grains": answer.fee,
            "attempts": answer.attempts,
            "request_id": answer.request_id,
            "receipt": str(receipt),
        }
    )
