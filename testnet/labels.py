"""From a model's outputs to the words it was trained with."""

from protocol.ledger.records import ModelRecord
from protocol.tensor import Tensor


def compute_labels(record: ModelRecord, outputs: tuple[Tensor, ...]) -> list[str]:
    """The label of each row: the largest number of the first output. Empty without labels, or for other shapes."""
    import numpy as np

    if not record.labels or not outputs:
        return []
    tensor = outputs[0]
    values = np.frombuffer(tensor.data, dtype=np.dtype(tensor.dtype).newbyteorder("<"))
    if len(tensor.shape) != 2 or tensor.shape[1] != len(record.labels):
        return []
    return [record.labels[int(index)] for index in values.reshape(tensor.shape).argmax(axis=1)]
