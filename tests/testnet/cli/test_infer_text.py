"""What `rolemesh infer --text` refuses before it asks anybody."""

import pytest

from testnet.cli.infer_text import check_settings
from testnet.cli.output import CommandError, ExitCode
from testnet.genesis import load_models

(PYDOC,), (DIGITS,) = load_models(("pydoc",)), load_models(("digits",))


@pytest.mark.parametrize(
    ("record", "text", "stop", "max_tokens", "temperature", "reason"),
    [
        (DIGITS, "The ", "", 10, 0.0, "makes no text"),
        (PYDOC, "", "", 10, 0.0, "0 characters"),
        (PYDOC, "x" * 513, "", 10, 0.0, "513 characters"),
        (PYDOC, "café", "", 10, 0.0, "'é'"),
        (PYDOC, "The ", "ß", 10, 0.0, "'ß'"),
        (PYDOC, "The ", "ab", 10, 0.0, "more than one"),
        (PYDOC, "The ", "", 0, 0.0, "0 tokens"),
        (PYDOC, "The ", "", 513, 0.0, "513 tokens"),
        (PYDOC, "The ", "", 10, -0.1, "-0.1"),
        (PYDOC, "The ", "", 10, 10.1, "10.1"),
    ],
)
def test_what_no_worker_would_take_is_refused_with_what_to_do(record, text, stop, max_tokens, temperature, reason):
    with pytest.raises(CommandError, match=reason) as caught:
        check_settings(record, text, stop, max_tokens, temperature)

    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.hint


def test_what_can_be_asked_is_let_through():
    check_settings(PYDOC, "def f(x):\n", "\n", 512, 10.0)
