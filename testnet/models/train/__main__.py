"""Train the models that ship with rolemesh and write them, their held-out rows and their manifest.

Run `python -m testnet.models.train` with the extra `train` installed, or with names to train only those; running the
models needs none of it. Everything is seeded, so one machine writes the same bytes each time. Another processor may
round the training differently: the committed files and their digests in `models.json` are the reference, not a second
training.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from testnet.models.learn.adam import Array
from testnet.models.train.cnn import train_cnn
from testnet.models.train.data import split_cancer, split_diabetes, split_digits
from testnet.models.train.digits import train_exact, train_fp32
from testnet.models.train.generate import train_generator
from testnet.models.train.graphs import Trained, describe
from testnet.models.train.scores import CANCER, DIABETES, DIGITS
from testnet.models.train.series import list_arrays, train_forecast, train_volatility
from testnet.models.train.sources import SOURCES
from testnet.models.train.tables import CANCER_LABELS, train_cancer, train_diabetes
from testnet.models.train.trees import train_trees

# In the manifest's order.
TRAINERS: Mapping[str, Callable[[], Trained]] = {
    "digits": train_exact,
    "digits-fp32": train_fp32,
    "digits-cnn": train_cnn,
    "digits-trees": train_trees,
    "cancer": train_cancer,
    "diabetes": train_diabetes,
    "pydoc": train_generator,
    "volatility": train_volatility,
    "forecast": train_forecast,
}


def write_models(folder: Path, names: list[str]) -> None:
    """Train the named models; write their files, all held-out rows, and the manifest with the new entries in it."""
    manifest = folder / "models.json"
    known = json.loads(manifest.read_text(encoding="utf-8"))["models"] if manifest.exists() else []
    entries = {entry["name"]: entry for entry in known}
    for name in names:
        trained = TRAINERS[name]()
        data = trained.model.SerializeToString(deterministic=True)
        (folder / f"{name}.onnx").write_bytes(data)
        entry = entries[name] = keep_calibration(describe(trained, data), entries.get(name, {}))
        score = entry["heldout"]
        print(f"{entry['file']}: {len(data)} bytes, held-out {score['metric']} {score['score']:.4f}, {entry['cid']}")
    document = {
        "models": [entries[name] for name in TRAINERS if name in entries],
        "samples": write_samples(folder),
        "sources": SOURCES,
    }
    manifest.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def keep_calibration(entry: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The entry, with the calibration of the one before when the file is the same: it holds for those bytes alone."""
    if "calibration" in before and before["sha256"] == entry["sha256"]:
        return entry | {"calibration": before["calibration"]}
    return entry


def write_samples(folder: Path) -> list[dict[str, Any]]:
    """Write the held-out rows of each dataset, and return what the manifest says of the files."""
    digits, cancer, diabetes = (split()[1] for split in (split_digits, split_cancer, split_diabetes))
    files: dict[str, dict[str, Array]] = {
        DIGITS: {"inputs": digits.inputs, "labels": digits.targets.astype(np.uint8)},
        CANCER: {"inputs": cancer.inputs, "labels": np.array(CANCER_LABELS)[cancer.targets]},
        DIABETES: {"inputs": diabetes.inputs, "values": diabetes.targets.astype(np.float32)},
        **list_arrays(),
    }
    described = []
    for file, arrays in files.items():
        np.savez(folder / file, **arrays)  # type: ignore[arg-type]
        shapes = {name: f"{array.dtype} {array.shape}" for name, array in arrays.items()}
        digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        described.append({"file": file, "sha256": digest, "arrays": shapes})
    return described


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m testnet.models.train",
        description="Train the models that ship with rolemesh.",
        epilog="for example: python -m testnet.models.train digits-cnn --out /tmp/models",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TRAINERS)}; all unless given")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1], help="folder to write into")
    arguments = parser.parse_args()
    for unknown in set(arguments.names) - set(TRAINERS):
        parser.error(f"no model {unknown!r}; there are {', '.join(TRAINERS)}")
    write_models(arguments.out, arguments.names or list(TRAINERS))
