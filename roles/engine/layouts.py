"""Rules of `shapes` for operators that move numbers and compute none: they decide how much memory a model takes."""

import math

from roles.engine.shapes import Call, Kind, Shape, Unfit, broadcast, find_axis


def shape_of(call: Call) -> list[Kind]:
    return [((len(get_shape_part(call)),), "int64")]


def get_shape_part(call: Call) -> Shape:
    """The dimensions that Shape gives."""
    shape = call.get(0).shape
    return shape[call.get_int("start") : call.get_int("end", len(shape))]


def reshaped(call: Call) -> list[Kind]:
    value = call.get(0)
    wanted = call.get_numbers(1)
    if not call.get_int("allowzero"):
        if any(size == 0 and axis >= len(value.shape) for axis, size in enumerate(wanted)):
            raise Unfit(f"{value.shape} cannot be made {tuple(wanted)}")
        wanted = [size if size else value.shape[axis] for axis, size in enumerate(wanted)]
    rest = math.prod(size for size in wanted if size != -1)
    if wanted.count(-1) == 1 and rest > 0 and value.size % rest == 0:
        wanted = [value.size // rest if size == -1 else size for size in wanted]
    if min(wanted, default=0) < 0 or math.prod(wanted) != value.size:
        raise Unfit(f"{value.shape} cannot be made {tuple(wanted)}")
    return [(tuple(wanted), value.dtype)]


def flattened(call: Call) -> list[Kind]:
    value = call.get(0)
    axis = call.get_int("axis", 1)
    if axis != len(value.shape):
        axis = find_axis(axis, len(value.shape))
    return [((math.prod(value.shape[:axis]), math.prod(value.shape[axis:])), value.dtype)]


def transposed(call: Call) -> list[Kind]:
    value = call.get(0)
    order = call.get_ints("perm") or tuple(reversed(range(len(value.shape))))
    if sorted(order) != list(range(len(value.shape))):
        raise Unfit(f"{order} is no order of {len(value.shape)} dimensions")
    return [(tuple(value.shape[axis] for axis in order), value.dtype)]


def unsqueezed(call: Call) -> list[Kind]:
    value = call.get(0)
    given = call.get_numbers(1)
    rank = len(value.shape) + len(given)
    axes = {find_axis(axis, rank) for axis in given}
    if len(axes) != len(given):
        raise Unfit(f"axes {given} name one twice")
    old = iter(value.shape)
    return [(tuple(1 if axis in axes else next(old) for axis in range(rank)), value.dtype)]


def squeezed(call: Call) -> list[Kind]:
    value = call.get(0)
    rank = len(value.shape)
    if call.has(1):
        axes = {find_axis(axis, rank) for axis in call.get_numbers(1)}
    else:
        axes = {axis for axis in range(rank) if value.shape[axis] == 1}
    if any(value.shape[axis] != 1 for axis in axes):
        raise Unfit(f"axes {sorted(axes)} of {value.shape} are not all 1")
    return [(tuple(size for axis, size in enumerate(value.shape) if axis not in axes), value.dtype)]


def joined(call: Call) -> list[Kind]:
    shapes = [value.shape for value in call.inputs if value]
    first = call.get(0)
    axis = call.get_axis(len(first.shape))
    rest = {(len(shape), shape[:axis], shape[axis + 1 :]) for shape in shapes}
    if len(rest) != 1:
        raise Unfit(f"shapes {', '.join(map(str, shapes[:8]))} cannot be joined along axis {axis}")
    return [((*first.shape[:axis], sum(shape[axis] for shape in shapes), *first.shape[axis + 1 :]), first.dtype)]


def split(call: Call) -> list[Kind]:
    value = call.get(0)
    axis = call.get_axis(len(value.shape))
    count, size = len(call.node.outputs), value.shape[axis]
    if call.has(1):
        sizes = call.get_numbers(1)
    else:
        each = -(-size // count)
        sizes = [max(0, min(each, size - each * index)) for index in range(count)]
    if len(sizes) != count or sum(sizes) != size or min(sizes) < 0:
        raise Unfit(f"{size} cannot be split into {sizes} for {count} outputs")
    return [((*value.shape[:axis], part, *value.shape[axis + 1 :]), value.dtype) for part in sizes]


def get_slices(call: Call) -> tuple[slice, ...]:
    """What Slice takes of each dimension."""
    shape = call.get(0).shape
    starts, ends = call.get_numbers(1), call.get_numbers(2)
    axes = call.get_numbers(3) if call.has(3) else list(range(len(starts)))
    steps = call.get_numbers(4) if call.has(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise Unfit("its starts, ends, axes and steps do not fit each other")
    slices = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        slices[find_axis(axis, len(shape))] = slice(start, end, step)
    return tuple(slices)


def sliced(call: Call) -> list[Kind]:
    value = call.get(0)
    sizes = zip(get_slices(call), value.shape, strict=True)
    return [(tuple(len(range(*part.indices(size))) for part, size in sizes), value.dtype)]


def gathered(call: Call) -> list[Kind]:
    value, indices = call.get(0), call.get(1)
    axis = call.get_axis(len(value.shape))
    return [(value.shape[:axis] + indices.shape + value.shape[axis + 1 :], value.dtype)]


def gathered_elements(call: Call) -> list[Kind]:
    return [(call.get(1).shape, call.get(0).dtype)]


def gathered_nd(call: Call) -> list[Kind]:
    value, indices = call.get(0), call.get(1)
    if not indices.shape:
        raise Unfit("its indices are a single number")
    depth = call.get_int("batch_dims") + indices.shape[-1]
    return [(indices.shape[:-1] + value.shape[depth:], value.dtype)]


def expanded(call: Call) -> list[Kind]:
    value = call.get(0)
    return [(broadcast(value.shape, _get_sizes(call, 1)), value.dtype)]


def tiled(call: Call) -> list[Kind]:
    value, times = call.get(0), _get_sizes(call, 1)
    if len(times) != len(value.shape):
        raise Unfit(f"{value.shape} cannot be repeated {times} times")
    return [(tuple(size * count for size, count in zip(value.shape, times, strict=True)), value.dtype)]


def padded(call: Call) -> list[Kind]:
    value, pads = call.get(0), call.get_numbers(1)
    axes = call.get_numbers(3) if call.has(3) else list(range(len(value.shape)))
    if len(pads) != 2 * len(axes):
        raise Unfit(f"pads {pads} do not fit {len(axes)} dimensions")
    sizes = list(value.shape)
    for place, axis in enumerate(axes):
        sizes[find_axis(axis, len(sizes))] += pads[place] + pads[place + len(axes)]
    if min(sizes, default=0) < 0:
        raise Unfit(f"pads {pads} leave less than nothing of {value.shape}")
    return [(tuple(sizes), value.dtype)]


def counted(call: Call) -> list[Kind]:
    """Range."""
    ends = [call.get(index).numbers for index in range(3)]
    if any(end is None or end.size != 1 for end in ends):
        raise Unfit("its size hangs on numbers that nobody can tell before it runs")
    start, limit, step = (float(end.reshape(-1)[0]) for end in ends if end is not None)
    if step == 0 or not all(map(math.isfinite, (start, limit, step))):
        raise Unfit(f"it counts from {start} to {limit} in steps of {step}")
    return [((max(0, math.ceil((limit - start) / step)),), call.get(0).dtype)]


def filled(call: Call) -> list[Kind]:
    """ConstantOfShape."""
    value = call.node.attributes.get("value")
    return [(_get_sizes(call, 0), "float32" if value is None or value.tensor is None else value.tensor.dtype)]


def constant(call: Call) -> list[Kind]:
    """Constant, in each of the ways it can be written."""
    if len(call.node.attributes) != 1:
        raise Unfit(f"it has {len(call.node.attributes)} attributes, where one says its value")
    ((name, value),) = call.node.attributes.items()
    if value.tensor is not None:
        return [(value.tensor.shape, value.tensor.dtype)]
    dtypes = {"value_int": "int64", "value_ints": "int64", "value_float": "float32", "value_floats": "float32"}
    if name not in dtypes:
        raise Unfit(f"it holds {name}: only plain numbers are taken")
    return [((value.count,) if name.endswith("s") else (), dtypes[name])]


def _get_sizes(call: Call, index: int) -> Shape:
    sizes = tuple(call.get_numbers(index))
    if min(sizes, default=0) < 0:
        raise Unfit(f"a shape of {sizes} makes no sense")
    return sizes
