"""Read what is kept for an audit: all of it, for the tree over its pieces, and the pieces that are asked for."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from protocol.audit import AuditTree, answer_audit, measure_contents
from protocol.cid import Cid
from protocol.errors import MalformedMessage, MissingBlob
from roles.store_effects import Prove, Proven

PIECES_MAX = 1 << 20  # of the trees that are remembered, 64 bytes each: for 4 GiB


class Prover:
    """Answers audits. `read` gives a block that is checked, or raises MissingBlob. Called from threads.

    Trees that were made are remembered, the latest: an audit then reads the blocks it asks for, and not everything.
    What is measured, to accept a lease, is read whole.
    """

    def __init__(self, read: Callable[[Cid], bytes], pieces_max: int = PIECES_MAX) -> None:
        self._read = read
        self._pieces_max = pieces_max
        self._trees: OrderedDict[Cid, AuditTree] = OrderedDict()
        self._lock = threading.Lock()

    def prove(self, wanted: Prove) -> Proven:
        """What came of it. Raises what `read` raises but for MissingBlob."""
        try:
            with self._lock:
                tree = self._trees.pop(wanted.cid, None)
            if tree is None or not wanted.indices:
                tree = measure_contents(wanted.cid, self._read, wanted.bytes_max)
            self._remember(wanted.cid, tree)
            contents = tree.finish()
            asked = [index for index in wanted.indices if index < contents.pieces]
            return Proven(wanted.token, contents, answer_audit(tree, asked, self._read))
        except (MissingBlob, MalformedMessage) as error:
            return Proven(wanted.token, None, (), f"{type(error).__name__}: {error}")

    def _remember(self, cid: Cid, tree: AuditTree) -> None:
        with self._lock:
            self._trees[cid] = tree
            while (
                len(self._trees) > 1 and sum(each.finish().pieces for each in self._trees.values()) > self._pieces_max
            ):
                self._trees.popitem(last=False)
