"""Jobs a client has called off before their requests came: gossip may bring a request after its cancellation."""

from collections import OrderedDict

from protocol.jobs import PaidRequest
from protocol.messages import Cancel

KEPT_MAX = 4_096
_Key = tuple[bytes, bytes, int, bytes]  # client, channel, seq, request id


class Unwanted:
    """The newest KEPT_MAX of them. Whoever signs a cancellation can only call off what it asks for itself."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, None] = OrderedDict()

    def add(self, client: bytes, wish: Cancel) -> None:
        self._kept[client, wish.channel, wish.seq, wish.request_id] = None
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)

    def take(self, item: PaidRequest) -> bool:
        """Whether this request was called off. The answer is given once: from then on there is a job."""
        voucher = item.voucher
        key = item.request.client, voucher.channel, voucher.seq, voucher.request_id
        if key not in self._kept:
            return False
        del self._kept[key]
        return True
