"""What the ledger remembers of models."""

from typing import Annotated

from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.limits import ROWS_MAX
from protocol.ledger.records import MaybeKey
from protocol.types import AtMost, Digest, Grains, Name, TimeMs, UpTo, Whole

Labels = Annotated[tuple[Name, ...], AtMost(1_000)]


@fast_dataclass(frozen=True)
class TensorSpec:
    """The type and shape of a model's input or output; 0 stands for the number of rows."""

    dtype: Name
    shape: Annotated[tuple[Whole, ...], AtMost(8)]


@fast_dataclass(frozen=True)
class Calibration:
    """How far apart honest machines were on a float model, and how near the cheapest cheat came to them.

    A distance is one row's: the largest difference, in parts per 10^12 (ppt) of the row's largest number.
    """

    bound_ppt: Whole  # outputs of two profiles agree up to here
    honest_ppt: Whole  # the farthest honest row
    fp16_ppt: Whole  # the nearest row of the same model with its weights rounded to half precision
    rows: Whole
    seed: Whole  # of rows that were drawn; 0 for rows from a file
    isa: Name
    versions: Annotated[tuple[Name, ...], AtMost(16)]  # of onnxruntime


TensorSpecs = Annotated[tuple[TensorSpec, ...], AtMost(8)]
MaybeCalibration = Annotated[tuple[Calibration, ...], AtMost(1)]


@fast_dataclass(frozen=True)
class ModelRecord:
    """One version of a model the network serves.

    `exact` is 1 when every machine computes the same bits; else it is a float model (fp32), with its calibration if
    there is one. Those of genesis have no owner. `retired_ms` is 0 while the model is served. `rows_max` is the most
    rows of one request, so that its worker can show what any operator took if it is disputed.
    """

    name: Name
    digest: Digest
    exact: Annotated[int, UpTo(1)]
    inputs: TensorSpecs
    outputs: TensorSpecs
    labels: Labels
    size_bytes: Whole = 0  # 0 where genesis does not say
    version: Whole = 1
    calibration: MaybeCalibration = ()
    owner: MaybeKey = b""
    deposit: Grains = 0
    retired_ms: TimeMs = 0
    rows_max: Whole = ROWS_MAX


@fast_dataclass(frozen=True)
class ModelName:
    """Whose a model's name is. The highest version there has been, and how many of its versions the ledger holds."""

    owner: MaybeKey
    version: Whole
    versions: Whole
