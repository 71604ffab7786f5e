"""Hostile models: every way a file is known to hurt who runs it, and more. Written without the onnx package.

Each says what admission makes of it, and what it is to be given if it gets further than that.
"""

from dataclasses import dataclass

from protocol.tensor import Tensor
from tests.roles.engine.test_admission import SEEDS
from tests.support.onnx_bytes import (
    FLOAT,
    INT64,
    STRING,
    attribute,
    crashing,
    doubled,
    field,
    huge_constant,
    int64s,
    many_products,
    model,
    node,
    of_floats,
    of_int,
    of_ints,
    of_texts,
    tensor,
    unary,
    value_info,
)

ONE = (Tensor("float32", (1,), bytes.fromhex("0000803f")),)
ROW = (Tensor("float32", (1, 2), bytes.fromhex("0000803f") * 2),)
X, Y = value_info("x", FLOAT, (1,)), value_info("y", FLOAT, (1,))
ROWS = value_info("x", FLOAT, ("rows", 2)), value_info("y", FLOAT, ("rows", 1))
ML = field(8, field(1, "ai.onnx.ml") + field(2, 3))
TRUE = tensor("true", 9, (), b"\x01")


@dataclass(frozen=True)
class Specimen:
    """`refusal` is in what admission says; empty when the file is let through, and then `ends` says how it may end."""

    data: bytes
    refusal: str
    inputs: tuple[Tensor, ...] = ONE
    ends: str = "ModelRefused"


def run_to_its_end(data: bytes, ends: str, inputs: tuple[Tensor, ...] = ONE) -> Specimen:
    return Specimen(data, "", inputs, ends)


def graph(nodes: list[bytes], inputs: list[bytes], outputs: list[bytes]) -> bytes:
    body = b"".join(field(1, each) for each in nodes) + field(2, "body")
    return body + b"".join(field(11, each) for each in inputs) + b"".join(field(12, each) for each in outputs)


def loop(count: int | None) -> bytes:
    """A loop that runs so often, or for ever."""
    ends = [value_info("i", INT64, ()), value_info("go", 9, ()), value_info("v", FLOAT, (1,))]
    gives = [value_info("on", 9, ()), value_info("w", FLOAT, (1,))]
    body = graph([node("Identity", ["go"], ["on"]), node("Neg", ["v"], ["w"])], ends, gives)
    tensors = (TRUE,) if count is None else (TRUE, tensor("count", INT64, (), count.to_bytes(8, "little")))
    step = node("Loop", ["" if count is None else "count", "true", "x"], ["y"], attribute("body", 6, body, 5))
    return model([step], [X], [Y], tensors)


def nested(depth: int) -> bytes:
    """If in If in If."""
    inner = graph([node("Neg", ["x"], ["z"])], [], [value_info("z", FLOAT, (1,))])
    for _ in range(depth):
        branches = attribute("then_branch", 6, inner, 5), attribute("else_branch", 6, inner if depth < 9 else b"", 5)
        inner = graph([node("If", ["true"], ["z"], *branches)], [], [value_info("z", FLOAT, (1,))])
    step = node("If", ["true"], ["y"], attribute("then_branch", 6, inner, 5), attribute("else_branch", 6, inner, 5))
    return model([step], [X], [Y], (TRUE,))


def scan() -> bytes:
    body = graph([node("Neg", ["v"], ["w"])], [value_info("v", FLOAT, ())], [value_info("w", FLOAT, ())])
    return model([node("Scan", ["x"], ["y"], attribute("body", 6, body, 5), of_int("num_scan_inputs", 1))], [X], [Y])


def external(location: str, **entries: str) -> bytes:
    """A weight that is to be read from elsewhere."""
    parts = {"location": location, **entries}
    where = b"".join(field(13, field(1, key) + field(2, value)) for key, value in parts.items())
    weight = field(1, 1) + field(2, FLOAT) + field(8, "w") + where + field(14, 1)
    return model([node("Add", ["x", "w"], ["y"])], [X], [Y], (weight,))


def weighted(weight: bytes) -> bytes:
    return model([node("Add", ["x", "w"], ["y"])], [X], [Y], (weight,))


def sized(operator: str, *sizes: int) -> bytes:
    return model([node(operator, ["x", "s"], ["y"])], [X], [Y], (int64s("s", *sizes),))


def hog(count: int) -> bytes:
    """Many tensors of 128 MiB at once, none of them too large alone."""
    wide = [node("Mul", ["x", f"c{n}"], [f"s{n}"]) for n in range(count)]
    wide += [node("Expand", [f"s{n}", "size"], [f"w{n}"]) for n in range(count)]
    steps = [*wide, node("Sum", [f"w{n}" for n in range(count)], ["all"]), node("ReduceMax", ["all"], ["y"])]
    numbers = tuple(tensor(f"c{n}", FLOAT, (1,), bytes((n, 0, 128, 63))) for n in range(count))
    return model(steps, [X], [value_info("y", FLOAT, (1, 1))], (int64s("size", 2**12, 2**13), *numbers))


def chain(count: int) -> list[bytes]:
    """So many operators one after the other. From a template: all tests wait while this file is read."""
    template = node("Relu", ["x<from"], ["x<upto"])
    steps = [template.replace(b"<from", b"%05d" % n).replace(b"<upto", b"%05d" % (n + 1)) for n in range(1, count)]
    return [node("Relu", ["x"], ["x00001"]), *steps]


def tree(true_ids: tuple[int, ...], node_ids: tuple[int, ...] = (0, 1, 2), targets: int = 1) -> bytes:
    """A tree of one decision, unless its branches lead elsewhere."""
    given = (
        of_ints("nodes_treeids", 0, 0, 0), of_ints("nodes_nodeids", *node_ids), of_ints("nodes_featureids", 1, 0, 0),
        of_floats("nodes_values", 9, 0, 0), of_texts("nodes_modes", "BRANCH_LEQ", "LEAF", "LEAF"),
        of_ints("nodes_truenodeids", *true_ids), of_ints("nodes_falsenodeids", 2, 0, 0),
        of_ints("target_treeids", 0, 0), of_ints("target_nodeids", 1, 2), of_ints("target_ids", 0, 0),
        of_floats("target_weights", 1, 2), of_int("n_targets", targets),
    )  # fmt: skip
    return model([node("TreeEnsembleRegressor", ["x"], ["y"], *given, domain="ai.onnx.ml")], *([end] for end in ROWS),
                 extra=ML)  # fmt: skip


def far_index() -> bytes:
    """A row of a table that it does not have."""
    return model([node("GatherND", ["t", "i"], ["z"]), node("Add", ["x", "z"], ["y"])], [X], [Y],
                 (tensor("t", FLOAT, (1,), bytes(4)), int64s("i", 2**62)))  # fmt: skip


RANGE = {"a": 0, "b": 2**40, "c": 1}
DIGITS = SEEDS["digits.onnx"]
ZOO = {
    # Work and memory while loading.
    "a product of large constants": Specimen(many_products(1, 6_000, is_constant=True), "36000000 numbers"),
    "twelve products of constants": Specimen(many_products(12, 3_000, is_constant=True), "9000000 numbers"),
    "long work on small constants": Specimen(many_products(400, 1_500, is_constant=True), "all done while loading"),
    "a constant of 100 GB": Specimen(huge_constant(163_840), "26843545600 numbers"),
    "a hundred constants": Specimen(
        model([*(node("ConstantOfShape", ["s"], [f"c{n}"]) for n in range(300)),
               *(node("Sum", [f"c{n}" for n in range(300)], ["all"]),), node("Add", ["x", "all"], ["y"])],
              [X], [Y], (int64s("s", 2**11, 2**11),)),
        "all done while loading",
    ),
    "doublings": Specimen(doubled(36), "67108864 numbers (67108864,), at most 33554432 are taken"),
    "a range": Specimen(
        model([node("Range", ["a", "b", "c"], ["y"])], [X], [Y],
              tuple(tensor(name, INT64, (), n.to_bytes(8, "little")) for name, n in RANGE.items())),
        "1099511627776 numbers",
    ),
    "50,000 nodes": Specimen(
        model(chain(50_000), [X], [value_info("x50000", FLOAT, (1,))]),
        "more nodes than 4096",
    ),
    # Control flow and graphs within graphs.
    "a loop without end": Specimen(loop(None), "Loop holds a graph of its own"),
    "a loop of 2^40 turns": Specimen(loop(2**40), "Loop holds a graph of its own"),
    "a loop without a body": Specimen(unary("Loop"), "it is control flow"),
    "a branch": Specimen(nested(0), "If holds a graph of its own"),
    "400 branches in each other": Specimen(nested(400), "If holds a graph of its own"),
    "a scan": Specimen(scan(), "Scan holds a graph of its own"),
    "a function of its own": Specimen(unary("Relu") + field(25, field(1, "f")), "functions of its own"),
    "training": Specimen(unary("Relu") + field(20, field(1, b"")), "training information"),
    # Data elsewhere.
    "data in a file": Specimen(external("/etc/passwd", length="4"), "keeps data outside its own file"),
    "data above": Specimen(external("../../../../etc/passwd", length="4"), "keeps data outside its own file"),
    "data beside": Specimen(external("weights.bin", offset="0", length="4"), "keeps data outside its own file"),
    "data without end": Specimen(external("/dev/zero"), "keeps data outside its own file"),
    "data from its process": Specimen(external("/proc/self/environ"), "keeps data outside its own file"),
    "data at an address": Specimen(
        external("*/_ORT_MEM_ADDR_/*", offset="4096", length="4"), "keeps data outside its own file"
    ),
    # What nobody can repeat.
    "dice": Specimen(unary("RandomNormalLike"), "it is random", ROW),
    "scales by the batch": Specimen(unary("DynamicQuantizeLinear"), "depends on its neighbours", ROW),
    "a size that hangs on contents": Specimen(unary("NonZero"), "hangs on its input", ROW),
    "an operator of others": Specimen(
        model([node("Gelu", ["x"], ["y"], domain="com.microsoft")], [X], [Y]), "'com.microsoft' are not onnx's own"
    ),
    "an operator of nobody": Specimen(
        model([node("Evil", ["x"], ["y"], domain="evil")], [X], [Y], extra=field(8, field(1, "evil") + field(2, 1))),
        "'evil' are not onnx's own",
    ),
    "text": Specimen(unary("Identity", STRING), "is of text"),
    "a sparse tensor": Specimen(
        field(1, 8) + field(7, field(1, node("Relu", ["x"], ["y"])) + field(11, X) + field(12, Y) + field(15, b""))
        + field(8, field(2, 17)),
        "sparse tensors",
    ),
    # Bytes that are no model.
    "nothing": Specimen(b"", "0 bytes"),
    "noise": Specimen(bytes(range(256)) * 40, "no ONNX model"),
    "half a model": Specimen(DIGITS[: len(DIGITS) // 2], "bytes early"),
    "a model and a half": Specimen(DIGITS + DIGITS[: len(DIGITS) // 2], "says ir_version twice"),
    "too many bytes": Specimen(DIGITS + bytes(2 * 1024 * 1024), "are run here"),
    # Tensors, names and graphs that lie.
    "2^62 rows": Specimen(weighted(tensor("w", FLOAT, (2**62,), bytes(4))), "but holds 1 numbers"),
    "a product that overflows": Specimen(weighted(tensor("w", FLOAT, (2**32, 2**32), b"")), "but holds 0 numbers"),
    "fewer than nothing": Specimen(weighted(tensor("w", FLOAT, (-4,), bytes(4))), "below 0"),
    "an input of nothing": Specimen(unary("Relu", FLOAT, (1, 0)), "a number from 1 on"),
    "a free size": Specimen(unary("Relu", FLOAT, (1, "any")), "only the first dimension may be free", ROW),
    "fewer numbers than said": Specimen(weighted(tensor("w", FLOAT, (1_000,), bytes(4))), "but holds 1 numbers"),
    "a name of 1 MB": Specimen(
        model([node("Relu", ["x"], ["n" * 1_000_000])], [X], [value_info("n" * 1_000_000, FLOAT, (1,))]),
        "1000000 bytes, at most 256",
    ),
    "a circle": Specimen(
        model([node("Add", ["x", "z"], ["y"]), node("Relu", ["y"], ["z"])], [X], [Y]), "nothing before it gives"
    ),
    "a name given twice": Specimen(
        model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])], [X], [Y]), "given more than once"
    ),
    "a second graph": Specimen(unary("Relu") + field(7, field(1, node("Loop", ["x"], ["z"]))), "says graph twice"),
    "a type beyond 32 bits": Specimen(weighted(tensor("w", FLOAT + 2**32, (1,), bytes(4))), "more than 32 bits"),
    "a tree of 2^40 targets": Specimen(tree((1, 0, 0), targets=2**40), "70368744177664 numbers", ROW),
    "stretched": Specimen(sized("Expand", 2**20, 2**20), "1099511627776 numbers"),
    "tiled": Specimen(sized("Tile", 2**40), "1099511627776 numbers"),
    "padded": Specimen(sized("Pad", 2**40, 2**40), "numbers (2199023255553,)"),
    "a huge answer": Specimen(sized("Expand", 2**22), "16777216 bytes for one row, at most 2097152 are sent"),
    # Let through: what hurts is running it.
    "a slow kernel": run_to_its_end(many_products(1_000, 1_500, is_constant=False), "ComputeTimedOut"),
    "a hog": run_to_its_end(hog(16), "ComputeFailed ComputeTimedOut"),
    "an answer that is no number": run_to_its_end(
        model([node("Sub", ["x", "one"], ["z"]), node("Log", ["z"], ["y"])], [X], [Y],
              (tensor("one", FLOAT, (1,), bytes.fromhex("00000040")),)),
        "ComputeFailed",
    ),
    "an answer without end": run_to_its_end(
        model([node("Sub", ["x", "x"], ["z"]), node("Reciprocal", ["z"], ["y"])], [X], [Y]), "ComputeFailed"
    ),
    "a division that stops the process": run_to_its_end(
        crashing(), "WorkerCrashed", (Tensor("int32", (1,), b"\xff" * 4),)
    ),
    "an index far off": run_to_its_end(far_index(), "ComputeFailed"),
    "a tree that is a circle": run_to_its_end(tree((0, 0, 0)), "ModelRefused", ROW),
    "a tree with a branch to nowhere": run_to_its_end(tree((77, 0, 0)), "ModelRefused", ROW),
}  # fmt: skip
