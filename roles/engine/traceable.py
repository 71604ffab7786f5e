"""How many rows of a model its worker could defend in a dispute: told from the graph, without running it.

A worker that cannot post the digests of all operators, or cannot show what one of them takes, loses a dispute by
silence, however honest it is. What an operator takes grows with the rows, so the answer is a number of rows.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from protocol.ledger.limits import ROWS_MAX
from protocol.proofs.trace import (
    EXHIBIT_BYTES_MAX,
    GIVEN_MAX,
    OPERATORS_MAX,
    SOURCES_MAX,
    compute_exhibit_bytes,
)
from protocol.tensor import ITEM_SIZES, TENSOR_BYTES_MAX
from roles.engine.admission import read_model
from roles.engine.growth import compute_values
from roles.engine.onnx_file import Node, OnnxFile
from roles.engine.shapes import Value

# What all operators give is held at once, three times over, in a process of a gigabyte (`engine.trace`).
TRACED_BYTES_MAX = 192 * 1024 * 1024
# With these a tensor may shrink while the rows grow; of all others it is enough to look at the most rows.
_TURNING = frozenset({"Shape", "Slice", "Split"})


def find_rows_max(model: bytes) -> tuple[int, str]:
    """Up to how many rows a model can be traced, and why not one more; empty at ROWS_MAX. Raises ModelRefused.

    0 for models no request of which could be defended. A model whose rows are fixed counts as any number of rows.
    """
    file, _ = read_model(model)
    operators = tuple(node for node in file.nodes if node.operator != "Constant")
    if len(operators) > OPERATORS_MAX:
        return 0, f"it has {len(operators)} operators, the digests of {OPERATORS_MAX} fit what a worker may post"
    reason = _explain_edges(file, operators)
    if reason:
        return 0, reason
    if not any(node.operator in _TURNING for node in operators):
        reason = _explain(file, operators, ROWS_MAX)
        if not reason:
            return ROWS_MAX, ""
    for rows in range(1, ROWS_MAX + 1):
        reason = _explain(file, operators, rows)
        if reason:
            return rows - 1, reason
    return ROWS_MAX, ""


def explain_rows(model: bytes, rows_max: int) -> str:
    """Why a model cannot be defended with as many rows as the ledger says it takes; empty when it can."""
    found, reason = find_rows_max(model)
    if found >= rows_max:
        return ""
    return f"at most {found} rows of it can be defended in a dispute, the ledger says {rows_max}: {reason}"


def _explain(file: OnnxFile, operators: Sequence[Node], rows: int) -> str:
    """Why a run of so many rows cannot be traced, or one of its operators not be shown; empty when all can."""
    values = compute_values(file, rows)
    given = [tuple(_measure(values[end.name]) for end in file.inputs)]
    given += [tuple(_measure(values[name]) for name in node.outputs if name) for node in operators]
    owners = _find_owners(file, operators)
    if max(map(max, given)) > TENSOR_BYTES_MAX:
        number = next(number for number, sizes in enumerate(given) if max(sizes) > TENSOR_BYTES_MAX)
        what = _name(operators, number)
        return f"{what} gives {max(given[number])} bytes for {rows} rows, {TENSOR_BYTES_MAX} fit one tensor"
    if sum(map(sum, given)) > TRACED_BYTES_MAX:
        return f"its operators give {sum(map(sum, given))} bytes for {rows} rows, {TRACED_BYTES_MAX} are held at once"
    for number, sources in enumerate(_list_sources(file, operators, owners), 1):
        size = compute_exhibit_bytes(given[source] for source in sources)
        if size > EXHIBIT_BYTES_MAX:
            what = _name(operators, number)
            return f"{what} takes {size} bytes for {rows} rows, {EXHIBIT_BYTES_MAX} can be shown in a dispute"
    return ""


def _explain_edges(file: OnnxFile, operators: Sequence[Node]) -> str:
    owners = _find_owners(file, operators)
    for number, sources in enumerate(_list_sources(file, operators, owners), 1):
        if len(sources) > SOURCES_MAX:
            return f"{_name(operators, number)} takes from {len(sources)} operators, {SOURCES_MAX} can be shown"
    for number, node in enumerate(operators, 1):
        if len(node.outputs) > GIVEN_MAX:
            return f"{_name(operators, number)} gives {len(node.outputs)} tensors, {GIVEN_MAX} can be shown"
    return ""


def _find_owners(file: OnnxFile, operators: Sequence[Node]) -> dict[str, int]:
    """Who gives a value: an operator by its number, 0 for the inputs. Constants are nobody's."""
    owners = {end.name: 0 for end in file.inputs}
    return owners | {name: number for number, node in enumerate(operators, 1) for name in node.outputs if name}


def _list_sources(file: OnnxFile, operators: Sequence[Node], owners: Mapping[str, int]) -> Iterator[set[int]]:
    """From which numbers each operator takes, and at last the outputs."""
    for names in (*(node.inputs for node in operators), tuple(end.name for end in file.outputs)):
        yield {owners[name] for name in names if name in owners}


def _measure(value: Value) -> int:
    return math.prod(value.shape) * ITEM_SIZES[value.dtype]


def _name(operators: Sequence[Node], number: int) -> str:
    if number == 0:
        return "its inputs"
    return f"operator {number} ({operators[number - 1].operator})" if number <= len(operators) else "its outputs"
