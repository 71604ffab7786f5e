"""What a gateway says when there is no answer: a status, a stable word, and the reason with its numbers."""

from collections.abc import Mapping

# What a client's error code (`client_errors`, or a worker's refusal) becomes over HTTP: the word, and the status.
_FAULTS: Mapping[str, tuple[str, int]] = {
    "bad_input": ("bad_input", 400),
    "too_large": ("too_large", 413),
    "unpaid": ("insufficient_balance", 402),
    "price": ("fee_too_low", 402),
    "unknown_model": ("model_not_found", 404),
    "dissent": ("verification_failed", 409),
    "diverged": ("verification_failed", 409),
    "behind": ("capacity", 429),
    "busy": ("capacity", 429),
    "no_model": ("no_provider", 503),
    "no_worker": ("no_provider", 503),
    "no_network": ("no_network", 503),
    "unattested": ("quorum_timeout", 504),
    "expired": ("timeout", 504),
    "no_answer": ("timeout", 504),
    "timeout": ("timeout", 504),
}
REFUSED = 503  # a worker's own word for why stands beside it
RETRY_S = 1  # said to whoever is one too many


class Fault(Exception):
    """No answer. `code` is for programs, `reason` for people; `request_id` is empty when nothing was sent.

    After `retry_s` seconds it may go better; 0 where that is not known.
    """

    def __init__(self, status: int, code: str, reason: str, request_id: bytes = b"", retry_s: int = 0) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code
        self.reason = reason
        self.request_id = request_id
        self.retry_s = retry_s or (RETRY_S if status == 429 else 0)

    @property
    def headers(self) -> dict[str, str]:
        """Which request it was, if any; and when to come back, if that helps."""
        told = {"X-Request-Id": self.request_id.hex()} if self.request_id else {}
        told |= {"Retry-After": str(self.retry_s)} if self.retry_s else {}
        return told | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def translate(code: str, reason: str, request_id: bytes = b"") -> Fault:
    """The fault for a client's error.

    >>> translate("price", "2 grains are too few").status
    402
    """
    word, status = _FAULTS.get(code, (code, REFUSED))
    return Fault(status, word, reason, request_id)
