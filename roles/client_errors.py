"""Why a client got no answer: one class for each thing there is to do about it."""

from collections.abc import Mapping

from roles.attempts import Outcome
from roles.config import EXIT_FAILURE, EXIT_UNREACHABLE, UserError

EXIT_TIMEOUT = 7


class ClientError(UserError):
    """No answer. `code` is a stable word for programs, `reason` says what happened with its numbers, `hint` what to do.

    `good` counts the tokens of a broken stream that still count as far as its worker's word goes; 0 for all else.
    `request_id` is empty when nothing was sent: then nothing is owed either. With one, `Client.ask_again` tells whether
    an answer came after all. `attempts` counts the workers that were asked.
    """

    exit_code = EXIT_FAILURE

    def __init__(self, code: str, reason: str, hint: str = "", request_id: bytes = b"", attempts: int = 0) -> None:
        super().__init__(reason, hint or HINTS.get(code, DEFAULT_HINT), type(self).exit_code)
        self.code = code
        self.reason = reason
        self.request_id = request_id
        self.attempts = attempts
        self.good = 0


class NotJoined(ClientError):
    """No node of the network let the client catch up in time."""

    exit_code = EXIT_UNREACHABLE


class UnknownModel(ClientError):
    """The ledger has no such model."""


class BadInput(ClientError):
    """The inputs are not what the model takes, or more than a request can carry."""


class NoWorker(ClientError):
    """Nobody serves the model in this epoch."""


class TooDear(ClientError):
    """Every worker left costs more than the limit."""


class Unpaid(ClientError):
    """The account cannot pay, or its channel was not opened."""


class Busy(ClientError):
    """There is too much under way, here or with the workers."""


class Refused(ClientError):
    """A worker said no, and no other would say yes; its signed refusal is kept (`rolemesh explain`)."""


class Unattested(ClientError):
    """A worker answered, and the drawn verifiers did not vouch for it: the answer was not released."""

    exit_code = EXIT_TIMEOUT


class TimedOut(ClientError):
    """The deadline passed without an answer."""

    exit_code = EXIT_TIMEOUT


class StreamBroken(ClientError):
    """A stream was cut, or another worker's answer differs from what was streamed. The first `good` tokens stand."""


class UnknownRequest(ClientError):
    """This client knows of no such request, or no longer has its receipt."""


DEFAULT_HINT = "`rolemesh testnet logs` shows what the nodes say"
HINTS: Mapping[str, str] = {
    "bad_input": "`rolemesh model ls` shows what each model takes",
    "cut": "ask again; unless told to end with its stream, a request is taken up by the next worker",
    "diverged": "one of the two lied: ask again in mode individual, where drawn verifiers decide",
    "behind": "try again in a moment: the ledger is late",
    "busy": "try again in a moment",
    "expired": "give it more time",
    "no_answer": "`rolemesh testnet status` shows which nodes run; give it more time",
    "no_model": "try again in a moment: its workers have not fetched the model yet",
    "no_network": "`rolemesh testnet status` shows which nodes run",
    "no_receipt": "look for the file in receipts/ of the client's directory, or ask anew",
    "no_worker": "start an inference node: `rolemesh node init`, then `rolemesh node run --role inference`",
    "price": "raise the limit on the fee",
    "timeout": "give it more time",
    "too_large": "send fewer rows at a time",
    "unattested": "are two verifiers running? `rolemesh testnet status` shows the nodes",
    "unknown_model": "`rolemesh model ls` shows what the ledger has",
    "unknown_request": "use the id that an answer or an error has carried",
    "unpaid": "the account cannot pay: `rolemesh ledger balance` shows what it has",
}
_CLASSES: Mapping[str, type[ClientError]] = {
    "bad_input": BadInput,
    "behind": Busy,
    "busy": Busy,
    "cut": StreamBroken,
    "dissent": Unattested,
    "diverged": StreamBroken,
    "expired": TimedOut,
    "no_answer": TimedOut,
    "no_model": Busy,
    "no_receipt": UnknownRequest,
    "no_worker": NoWorker,
    "price": TooDear,
    "timeout": TimedOut,
    "too_large": BadInput,
    "unattested": Unattested,
    "unknown_model": UnknownModel,
    "unknown_request": UnknownRequest,
    "unpaid": Unpaid,
}


def make_error(outcome: Outcome) -> ClientError:
    """The error of an outcome that is no answer; a code without a class of its own is a refusal."""
    kind = _CLASSES.get(outcome.code, Refused)
    error = kind(outcome.code, outcome.reason, "", outcome.request_id, outcome.attempts)
    error.good = outcome.good
    return error
