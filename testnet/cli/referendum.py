"""What a run with --propose decides: a client proposes another deposit for models, and every validator votes for it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from testnet.cli.ledger import read_state
from testnet.cli.node_orders import find_height, submit

if TYPE_CHECKING:
    from protocol.ledger.governance_records import Proposal

PARAMETER = "model_deposit"
LOOK_S = 0.5


class Referendum:
    """One proposal from beginning to end. `tick` never waits: it asks how far it is and goes on by one step."""

    def __init__(self, client: Path, validators: Sequence[Path]) -> None:
        self._client = client
        self._left = list(validators)  # that have not voted
        self._token = ""
        self._key = b""
        self._look_s = 0.0  # when to look again
        self.phase = ""  # how it ended

    def tick(self) -> None:
        """Go one step on, if it is time. Raises CommandError when the ledger refuses an order."""
        if self.phase or time.monotonic() < self._look_s:
            return
        self._look_s = time.monotonic() + LOOK_S
        if not self._key:
            self._propose()
        elif self._left:
            self._vote()
        else:
            self._look()

    def _propose(self) -> None:
        from protocol.ledger.governance import Propose
        from protocol.ledger.governance_records import Motion, ParameterChange
        from testnet.report import PROPOSED  # pulls in what help can do without

        state, _ = read_state(self._client)
        if not self._token:
            value = getattr(state.params, PARAMETER) // 2
            self._token = submit(
                self._client, Propose(PROPOSED, Motion(parameter=(ParameterChange(PARAMETER, value),)))
            )
        elif find_height(self._client, self._token, "the proposal") is not None:
            # What is final may not be on the disk yet: then it is found the next time.
            self._key = next((key for key, item in state.proposals.items() if item.title == PROPOSED), b"")
            self._token = "" if self._key else self._token

    def _vote(self) -> None:
        from protocol.ledger.governance_records import Choice
        from protocol.ledger.governance_votes import build_votes
        from roles.keystore import get_key_path, read_public
        from testnet.snapshot import read_snapshot

        validator = self._left[0]
        if self._token:
            if find_height(validator, self._token, "a vote") is not None:
                self._left.pop(0)
                self._token = ""
            return
        proposal = self._read()
        snapshot = read_snapshot(self._client, proposal.height, proposal.root)
        account = read_public(get_key_path(validator, "account"))
        self._token = submit(validator, build_votes(snapshot, account, self._key, Choice.YES)[0])

    def _look(self) -> None:
        """Only when something may have come of it: reading a state takes time."""
        proposal = self._read()
        if not proposal.is_open:
            self.phase = proposal.phase
        else:
            self._look_s += max(0, proposal.due_ms - time.time_ns() // 1_000_000) / 1_000

    def _read(self) -> "Proposal":
        state, _ = read_state(self._client)
        return state.proposals[self._key]
