"""A node that keeps one number after another and says each; it dies if it ever said what it had not kept."""

import itertools
import resource
from functools import partial
from pathlib import Path

import trio

from protocol.ledger.genesis import build_state
from protocol.types import NodeState
from roles import core_effects as ce
from roles.node import run_node


class KeepingCore:
    state = NodeState.SERVING

    def __init__(self, directory, plan, restored):
        self.ledger = build_state(plan.genesis)
        self.pending_restarts = (self.ledger, ())
        self.rotation = {}
        kept = restored.kv.get("kept", {})
        self.numbers = itertools.count(len(kept))
        said = [line for line in Path(directory, "events.jsonl").read_text().splitlines() if '"number.kept"' in line]
        assert len(said) <= len(kept), "said more than was kept"

    def handle(self, event, now_ms):
        number = next(self.numbers)
        kept = ce.Put("kept", number.to_bytes(8), b"")
        return [kept, ce.Log("number.kept", {"number": number}), ce.Wake("next", 0)]


def main(arguments):
    """DIRECTORY [BYTES]: no file may grow beyond so many bytes, which is what a full disk looks like."""
    directory, *limits = arguments
    for limit in map(int, limits):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    trio.run(partial(run_node, Path(directory), make_core=partial(KeepingCore, directory)))
