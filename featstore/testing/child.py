"""A backbone in a process of its own: ``python -m featstore.testing.child FOLDER`` reads ``job``, writes ``answer``."""

from __future__ import annotations

import importlib
import pickle
import sys
import time
from pathlib import Path
from typing import Any

#: What no plugin may import when it is only listed: libraries that take a second or more.
HEAVY = (
    "duckdb", "jax", "keras", "matplotlib", "monai", "nibabel", "open_clip", "pandas", "scipy",
    "segmentation_models_pytorch", "sentence_transformers", "skimage", "sklearn", "tensorflow", "timm", "torch",
    "torchvision", "transformers", "zarr",
)  # fmt: skip


def main(folder: Path) -> None:
    """Do the job that lies in the folder."""
    job: dict[str, Any] = pickle.loads((folder / "job").read_bytes())  # noqa: S301 - our parent wrote it
    answer: dict[str, Any] = {"imported": None}
    if job["origin"]:
        before, start = set(sys.modules), time.perf_counter()
        importlib.import_module(job["origin"])
        answer["seconds"] = time.perf_counter() - start
        answer["imported"] = sorted(set(HEAVY) & (set(sys.modules) - before))
    answer |= _loaded(job)
    (folder / "answer").write_bytes(pickle.dumps(answer))


def _loaded(job: dict[str, Any]) -> dict[str, Any]:
    # Here, so that what they import isn't counted as the plugin's.
    from featstore.extract.encoder import load_backbone
    from featstore.extract.network import weights_digest
    from featstore.plugins import Plugins
    from featstore.testing.case import BackboneCase, place, run

    request = job["request"]
    backbone = load_backbone(Plugins.load(job["paths"]).backbone(request.name), request)
    place(backbone)
    values = run(backbone, job["batch"], [backbone.layers[-1]])[backbone.layers[-1]].values
    return {
        "weights": weights_digest(backbone.module),
        "facts": BackboneCase.facts(backbone),
        "values": values.float().numpy(),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
