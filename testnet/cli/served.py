"""Which models a local network serves, and with what a load sends."""

from pathlib import Path
from typing import TYPE_CHECKING

from testnet.cli.output import CommandError, ExitCode
from testnet.cli.running import Load, Pace

if TYPE_CHECKING:
    from testnet.found import ModelFile


def choose_models(
    load: str | None,
    rows: int | None,
    pace: Pace,
    model: Path | None,
    samples: Path | None,
    exact: bool,
) -> tuple[tuple["ModelFile", ...], Load | None]:
    """All models the network serves, and what to load it with. Raises CommandError."""
    from testnet.found import find_samples, load_model_files
    from testnet.genesis import MODELS, list_shipped
    from testnet.load_plan import BadSamples, read_samples

    shipped = list_shipped()
    files = load_model_files({*MODELS, load or "", str(model)})
    own = _describe_own(model, exact) if model is not None and (model.exists() or str(model) not in shipped) else None
    if own is not None:
        # The user's word on a model stands over ours, by bytes and by name.
        others = (file for file in files if own.record.name != file.record.name)
        files = (*(file for file in others if own.record.digest != file.record.digest), own)
        load = own.record.name if load is None and samples is not None else load
    if load is None:
        return files, None
    chosen = next((file for file in files if file.record.name == load), None)
    if chosen is None:
        names = [*shipped, own.record.name] if own is not None and own.record.name not in shipped else shipped
        hint = f"models here are: {', '.join(names)}; add your own with --model"
        raise CommandError("unknown_model", f"no model {load!r}", hint, ExitCode.USAGE, models=names)
    if len(chosen.record.inputs) != 1:
        message = f"{load} takes several inputs; --load sends one"
        raise CommandError("many_inputs", message, "use the Python API", ExitCode.USAGE)
    samples = find_samples().get(load) if samples is None and chosen is not own else samples
    if samples is None:
        raise CommandError("no_samples", f"nothing to send to {load}", "add --samples rows.npz", ExitCode.USAGE)
    spec = chosen.record.inputs[0]
    try:
        inputs, labels = read_samples(samples, spec.dtype, spec.shape)
    except BadSamples as error:
        hint = "save it with numpy.savez(file, inputs=..., labels=...)"
        raise CommandError("bad_samples", str(error), hint, ExitCode.USAGE) from error
    kept = labels[:rows] if labels is not None else None
    return files, Load(chosen.record, inputs[:rows], kept, pace)


def _describe_own(model: Path, exact: bool) -> "ModelFile":
    """The user's model. Raises CommandError."""
    from roles.engine.errors import EngineError
    from testnet.found import describe_model

    try:
        return describe_model(model, exact)
    except OSError as error:
        hint = "name an .onnx file, or a model that ships"
        raise CommandError("no_model", f"cannot read {model}: {error.strerror}", hint, ExitCode.USAGE) from error
    except EngineError as error:
        hint = "the reason says what would have to change in the model"
        raise CommandError("model_refused", f"{model} is not run here: {error}", hint, ExitCode.USAGE) from error
