"""Read what is kept for an audit: all of it, for the tree over its pieces, and the pieces that are asked for."""

from collections.abc import Callable

from protocol.audit import answer_audit, measure_contents
from protocol.cid import Cid
from protocol.errors import MalformedMessage, MissingBlob
from roles.store_effects import Prove, Proven


def prove(wanted: Prove, read: Callable[[Cid], bytes]) -> Proven:
    """What came of it; `read` gives a block that is checked, or raises MissingBlob. Raises what else it raises."""
    try:
        tree = measure_contents(wanted.cid, read, wanted.bytes_max)
        contents = tree.finish()
        asked = [index for index in wanted.indices if index < contents.pieces]
        return Proven(wanted.token, contents, answer_audit(tree, asked, read))
    except (MissingBlob, MalformedMessage) as error:
        return Proven(wanted.token, None, (), f"{type(error).__name__}: {error}")
