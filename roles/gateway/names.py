"""What models call their tensors. The ledger has types and shapes alone; names are in the file."""

from collections.abc import Awaitable, Callable

import trio

from protocol.ledger.model_records import ModelRecord
from roles.client_errors import ClientError
from roles.engine.errors import ModelRefused
from roles.engine.onnx_file import read_tensor_names
from roles.gateway.oip import TensorNames, name_by_place

AGAIN_S = 300.0  # a file that could not be had is not asked for again before


class NameBook:
    """Names by model, read once. `get_model` gives a file's bytes by digest, checked; or raises ClientError.

    As many are kept as the ledger has models.
    """

    def __init__(self, get_model: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._get_model = get_model
        self._known: dict[bytes, TensorNames] = {}
        self._again_s: dict[bytes, float] = {}

    async def find(self, record: ModelRecord) -> TensorNames:
        """The names in the model's file; by place while it cannot be had, or if its names do not fit the ledger's."""
        if record.digest in self._known:
            return self._known[record.digest]
        if trio.current_time() < self._again_s.get(record.digest, 0.0):
            return name_by_place(record)
        try:
            data = await self._get_model(record.digest)
        except ClientError:
            self._again_s[record.digest] = trio.current_time() + AGAIN_S
            return name_by_place(record)
        names = self._known[record.digest] = read_names(record, data)
        return names


def read_names(record: ModelRecord, data: bytes) -> TensorNames:
    """The names in a file; by place unless each tensor of the ledger's has one of its own."""
    try:
        names = TensorNames(*read_tensor_names(data))
    except ModelRefused:
        return name_by_place(record)
    for found, specs in ((names.inputs, record.inputs), (names.outputs, record.outputs)):
        if len(found) != len(specs) or len(set(found)) != len(found) or not all(found):
            return name_by_place(record)
    return names
