"""Models of any shape, and workers that get one operator wrong and pass it on."""

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from protocol.proofs.trace import Exhibit, Given, Trace
from protocol.tensor import ITEM_SIZES, Tensor, compute_tensors_digest
from roles.engine.errors import ComputeFailed
from roles.engine.graph import Graph, read_graph
from roles.engine.trace import compute_operator
from tests.support.onnx_bytes import FLOAT, attribute, model, node, tensor, value_info

_ONE = ("Neg", "Abs", "Relu", "Sqrt", "Exp", "Tanh", "Identity")
_TWO = ("Add", "Mul", "Sub", "Max", "Div")


FAULTS_MAX = 1_024  # changes tried
STRIDE = 97  # numbers from one that is changed to the next


@dataclass(frozen=True)
class Lie:
    """A run of a model in which one operator gave something else than it should."""

    graph: Graph
    given: tuple[tuple[Tensor, ...], ...]

    @property
    def trace(self) -> Trace:
        return tuple(map(compute_tensors_digest, self.given))

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self.given[-1]

    def show(self, number: int) -> Exhibit:
        """What the liar publishes as the inputs of an operator: what it really gave to it."""
        return Exhibit(tuple(Given(source, self.given[source]) for source in self.graph.sources[number]))


def plant(data: bytes, inputs: tuple[Tensor, ...], fault: int) -> Lie:
    """Run a model operator by operator; the one numbered `fault` gives something else, and all later ones go on.

    The fault is one that shows in the outputs: of some numbers nothing is left after what follows, and with some a
    later operator cannot go on, as with a place outside of its table.
    """
    graph = read_graph(data)
    honest = _run(graph, inputs, fault=0, at=0)
    for at in range(FAULTS_MAX):
        with suppress(ComputeFailed):
            given = _run(graph, inputs, fault, at)
            if given[-1] != honest[-1]:
                return Lie(graph, given)
    raise AssertionError(f"no change of operator {fault} shows in the outputs")


def _run(graph: Graph, inputs: tuple[Tensor, ...], fault: int, at: int) -> tuple[tuple[Tensor, ...], ...]:
    given = [inputs]
    for number in range(1, graph.last + 1):
        exhibit = Exhibit(tuple(Given(source, given[source]) for source in graph.sources[number]))
        outputs = compute_operator(graph, number, exhibit)
        given.append(spoil(outputs, at) if number == fault else outputs)
    return tuple(given)


def spoil(tensors: tuple[Tensor, ...], at: int) -> tuple[Tensor, ...]:
    """The same with one number changed, of each tensor in turn: one of its two highest bits or of two low ones.

    Of whole numbers that are counted round, as places in a window of 64, only the lowest is left. Numbers are from
    all over the tensor: most of one may be masked by what follows.
    """
    which, at = at % len(tensors), at // len(tensors)
    chosen = tensors[which]
    size = ITEM_SIZES[chosen.dtype]
    start = at // 4 * STRIDE * size % len(chosen.data)
    place, bit = ((start + size - 1, 0x80), (start + size - 1, 0x40), (start, 0x40), (start, 0x01))[at % 4]
    changed = chosen.data[:place] + bytes((chosen.data[place] ^ bit,)) + chosen.data[place + 1 :]
    return (*tensors[:which], replace(chosen, data=changed), *tensors[which + 1 :])


@st.composite
def random_model(draw: st.DrawFn) -> bytes:
    """A graph of floats of any shape: x (rows, 2) goes in, y comes out of whatever nobody else takes."""
    names = ["x"]
    nodes: list[bytes] = []
    for number in range(draw(st.integers(1, 12))):
        name = f"v{number}"
        # Mostly of what is new, so that graphs get deep as well as wide.
        operator = draw(st.sampled_from([*_ONE, *_TWO, "Split", "MatMul"]))
        first, second = draw(st.sampled_from(names[-4:])), draw(st.sampled_from(names))
        if operator == "Split":
            halves = [f"{name}a", f"{name}b"]
            nodes.append(node("Split", [first], halves, attribute("axis", 3, 1, 2)))
            nodes.append(node("Concat", halves[::-1], [name], attribute("axis", 3, 1, 2)))
        elif operator == "MatMul":
            nodes.append(node("MatMul", [first, "w"], [name]))
        else:
            nodes.append(node(operator, [first, second] if operator in _TWO else [first], [name]))
        names.append(name)
    nodes.append(node("Sum", names[1:], ["y"]))
    weights = tensor("w", FLOAT, (2, 2), np.array([[0.5, -1], [2, 0.25]], "<f4").tobytes())
    shape = value_info("x", FLOAT, ("rows", 2)), value_info("y", FLOAT, ("rows", 2))
    return model(nodes, [shape[0]], [shape[1]], (weights,))
