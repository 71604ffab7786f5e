"""Which models a local network serves, and with what a load sends."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from testnet.cli.output import CommandError, ExitCode
from testnet.cli.run import Load, Pace

if TYPE_CHECKING:
    from protocol.ledger.model_records import ModelRecord
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


def choose_scheduled(
    files: tuple["ModelFile", ...], name: str | None, roles: Mapping[str, int], feed: str | None
) -> tuple[tuple["ModelFile", ...], "ModelRecord | None"]:
    """The models with the one that --workflow names among them, and its record. Raises CommandError."""
    from testnet.found import load_model_files

    if name is None:
        return files, None
    found = next(iter(load_model_files({name})), None)
    spec = found.record.inputs[0] if found is not None and len(found.record.inputs) == 1 else None
    if found is None or spec is None or spec.dtype != "int64" or len(spec.shape) != 2:
        hint = "use volatility or forecast"
        raise CommandError("unknown_model", f"no model {name!r} reads a series here", hint, ExitCode.USAGE)
    for role, least in (("oracle", 1), ("client", 1), ("inference", 1), ("verifier", 2), ("storage", 1)):
        if roles.get(role, 0) < least:
            message = f"--workflow needs {least} {role}, there are {roles.get(role, 0)}"
            raise CommandError("roles", message, f"add {role}={least}", ExitCode.USAGE)
    if feed is not None:
        raise CommandError("usage", "--workflow reads the recorded series", "leave --feed out", ExitCode.USAGE)
    known = any(file.record.digest == found.record.digest for file in files)
    return (files if known else (*files, found)), found.record


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
