"""What a run with --workflow puts on the ledger: a feed with a reading a second, and a model scheduled over it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testnet.cli.node_orders import find_height, submit

if TYPE_CHECKING:
    from protocol.ledger.model_records import ModelRecord

FEED = "GOOG-live"  # the recorded series, a week a second
WORKFLOW = "GOOG-scheduled"
HEARTBEAT_MS = 1_000
EVERY_MS = 2_000
HOUR_MS = 3_600_000
LOOK_S = 0.2


class Schedule:
    """Two orders of a client's node, one after the other. `tick` never waits: it asks the node how far they are.

    A node that cannot be asked, for it was killed perhaps, is asked later.
    """

    def __init__(self, client: Path, url: str, model: "ModelRecord") -> None:
        self._client = client
        self._url = url
        self._model = model
        self._token = ""
        self._left = [self._make_feed, self._make_workflow]
        self._looked_s = 0.0

    def tick(self) -> None:
        """Go one step on, if it is time. Raises CommandError when the ledger refuses an order."""
        if not self._left or time.monotonic() < self._looked_s + LOOK_S:
            return
        self._looked_s = time.monotonic()
        if not self._token:
            self._token = submit(self._client, self._left[0]())
        elif find_height(self._client, self._token, "scheduled work") is not None:
            self._left.pop(0)
            self._token = ""

    def _make_feed(self) -> Any:
        from protocol.ledger.feeds import FeedSource, RegisterFeed
        from testnet.genesis import FEED_PATH

        return RegisterFeed(
            name=FEED,
            source=FeedSource.HTTP_JSON,
            address=self._url,
            path=FEED_PATH,
            decimals=6,
            heartbeat_ms=HEARTBEAT_MS,
            deviation_bp=0,
            outlier_bp=2_000,
            jump_bp=5_000,
            observers_min=1,
            age_ms_max=4 * HEARTBEAT_MS,
            allowed=(),
        )

    def _make_workflow(self) -> Any:
        from protocol.ledger.workflows import AddWorkflow
        from protocol.queries import CandleQuery, InputQuery, SeriesQuery
        from protocol.types import GRAINS_PER_ROLE

        count = self._model.inputs[0].shape[1]
        series = SeriesQuery(CandleQuery(FEED, HEARTBEAT_MS, count), ("close",))
        return AddWorkflow(
            name=WORKFLOW,
            model=self._model.digest,
            inputs=(InputQuery((series,)),),
            every_ms=EVERY_MS,
            end_ms=time.time_ns() // 1_000_000 + HOUR_MS,
            fee=GRAINS_PER_ROLE // 100,
            verifiers=2,
            timeout_ms=10_000,
            budget=10 * GRAINS_PER_ROLE,
            decimals=6,
            age_ms_max=5 * EVERY_MS,
        )
