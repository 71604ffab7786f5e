"""From a model's outputs to the words it was trained with."""

from protocol.ledger.model_records import ModelRecord
from protocol.tensor import Tensor


def compute_labels(record: ModelRecord, outputs: tuple[Tensor, ...]) -> list[str]:
    """The label of each row: the largest number of the first output; its place when the model names no labels.

    Empty for outputs that are no scores of classes.
    """
    import numpy as np

    if not outputs:
        return []
    tensor = outputs[0]
    values = np.frombuffer(tensor.data, dtype=np.dtype(tensor.dtype).newbyteorder("<"))
    if len(tensor.shape) != 2 or tensor.shape[1] < 2 or (record.labels and tensor.shape[1] != len(record.labels)):
        return []
    places = [int(place) for place in values.reshape(tensor.shape).argmax(axis=1)]
    return [record.labels[place] for place in places] if record.labels else [str(place) for place in places]
