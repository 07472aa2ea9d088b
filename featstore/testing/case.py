"""One backbone on trial: loaded, placed and fed as extracting does it."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from featstore.errors import InputError
from featstore.plugins import Plugins
from featstore.seeding import seeded
from featstore.spec import Backbone, BackboneRequest, BackboneSpec, Tokens
from featstore.testing import inputs as samples
from featstore.testing import pickled
from featstore.testing.laws import Broken, require, said

#: How many inputs are enough where a law needs some, not all.
FEW = 3


@dataclass(slots=True)
class BackboneCase:
    """A backbone with its inputs.

    Attributes:
        given: decoded inputs to test with; None for featstore's own.
        origin: the module of the installed plugin that has it, or None; ``registered`` is false where no plugin has.
        inputs, arrays: the inputs that the transform takes, and what it makes of them.
        reference: float32 (N, L, D), the default layer's values of all inputs in one batch.
    """

    spec: BackboneSpec
    request: BackboneRequest
    plugins: Plugins
    given: Sequence[Any] | None
    tolerance: float
    origin: str | None = None
    registered: bool = True
    inputs: list[Any] = field(default_factory=list)
    arrays: list[np.ndarray[Any, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    backbone: Backbone = field(init=False)
    reference: np.ndarray[Any, Any] = field(init=False)
    _child: dict[str, Any] | None = None

    # ----------------------------------------------------------------------------------------- loading
    def load(self) -> Backbone:
        """Load it as extracting does: an option that it never looks at is refused."""
        from featstore.extract.encoder import load_backbone

        return load_backbone(self.spec, self.request)

    def take(self, backbone: Backbone) -> None:
        """Make it the case's own."""
        place(backbone)
        self.backbone = backbone

    def load_under_another_random_state(self) -> Backbone:
        """Load it once more; what draws from the process's own random numbers gets others."""
        with seeded(76543):
            backbone = self.load()
        place(backbone)
        return backbone

    @property
    def default(self) -> str:
        """The default layer."""
        return self.backbone.layers[-1]

    @staticmethod
    def facts(backbone: Backbone) -> dict[str, Any]:
        """What must be the same each time it is loaded, as JSON would give it back."""
        return json.loads(  # type: ignore[no-any-return]
            json.dumps(
                {
                    "preprocessing": dict(backbone.preprocessing),
                    "layers": list(backbone.layers),
                    "facets": list(backbone.facets),
                    "input_shape": list(backbone.input_shape),
                },
                default=repr,
            )
        )

    # ------------------------------------------------------------------------------------------ inputs
    def transform_all(self) -> None:
        """Transform every input, and keep what is taken.

        Raises:
            Broken: one gives another shape, type or error, or too few are taken.
        """
        values = self._choose() if self.given is None else list(self.given)
        for value in values:
            what = samples.describe(value)
            try:
                made = self.backbone.transform(copy.deepcopy(value))  # it might write into it
            except InputError as error:
                self.refused.append(f"{what}: {error.message}")
                continue
            except Exception as error:
                raise Broken(f"{what} gives {said(error)}; raise InputError for what it can't take") from error
            array = np.asarray(made)
            shape = tuple(array.shape)
            require(shape == self.backbone.input_shape, f"{what} gives {shape}, not {self.backbone.input_shape}")
            require(array.dtype == np.float32, f"{what} gives {array.dtype}, not float32")
            require(bool(np.isfinite(array).all()), f"{what} gives values that aren't finite")
            self.inputs.append(value)
            self.arrays.append(array.copy())
        require(
            len(self.inputs) >= 2,
            f"{len(self.inputs)} of {len(values)} test inputs are taken ({'; '.join(self.refused[:2])}); give inputs "
            "that it takes: inputs=… in Python, --input FILE on the command line",
        )

    def _choose(self) -> list[Any]:
        """Images or texts, by what the transform takes more of."""
        shape = self.backbone.input_shape
        kinds = [list(make(shape[0] if len(shape) == 3 else None)) for make in samples.KINDS.values()]
        return max(kinds, key=lambda values: sum(map(self._takes, values)) / len(values))

    def _takes(self, value: Any) -> bool:
        try:
            self.backbone.transform(copy.deepcopy(value))
        except Exception:
            return False
        return True

    @property
    def batch(self) -> np.ndarray[Any, Any]:
        """All inputs: float32 (N, *input_shape)."""
        return np.stack(self.arrays)

    def transform_in_workers(self) -> np.ndarray[Any, Any]:
        """The batch as two spawned loader workers make it, on the way that extracting goes."""
        import pyarrow as pa

        from featstore.extract.inputs import Inputs

        with TemporaryDirectory(prefix="featstore-check-") as folder:
            uris = pa.chunked_array([pickled.write(Path(folder), self.inputs)])
            plugins = Plugins.load([*self.plugins.paths, pickled.__name__])
            loader = Inputs(uris, self.backbone.transform, self.backbone.input_shape, plugins)
            rows = [list(range(len(uris)))[start : start + 2] for start in range(0, len(uris), 2)]
            found = []
            for batch in loader.batches(rows, num_workers=2, pin=False, context="spawn"):
                if batch.fault is not None:
                    raise Broken(f"a worker stopped: {said(batch.fault)}")
                for read in batch.read:
                    if read.failure:
                        raise Broken(f"a worker failed: {read.failure.error}: {read.failure.message}")
                found.append(batch.values.numpy().copy())
        return np.concatenate(found)

    # ----------------------------------------------------------------------------------------- running
    def forward(self, batch: np.ndarray[Any, Any], layers: list[str], backbone: Any = None) -> Mapping[str, Tokens]:
        """One forward pass, in the memory format that extracting uses on a CPU."""
        return run(backbone or self.backbone, batch, layers)

    def values(self, batch: np.ndarray[Any, Any], backbone: Any = None) -> np.ndarray[Any, Any]:
        """The default layer's values, float32 (N, L, D)."""
        tokens = self.forward(batch, [self.default], backbone)[self.default]
        return tokens.values.float().numpy().copy()  # type: ignore[no-any-return]

    def child(self) -> dict[str, Any] | None:
        """What another process has of the same backbone, asked once; None where no plugin registers it.

        Keys: ``imported`` (heavy libraries that importing the plugin brought, None where it isn't an installed one),
        ``seconds``, ``weights``, ``facts``, ``values``; or ``error``.
        """
        if not self.registered:
            return None
        if self._child is None:
            job = {
                "paths": self.plugins.paths, "origin": self.origin, "request": self.request, "batch": self.batch[:FEW],
            }  # fmt: skip
            with TemporaryDirectory(prefix="featstore-check-") as folder:
                (Path(folder) / "job").write_bytes(pickle.dumps(job))
                seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
                environment = {
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    "PYTHONHASHSEED": seed,
                }
                command = [sys.executable, "-m", "featstore.testing.child", folder]
                done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
                answer = Path(folder) / "answer"
                if done.returncode == 0 and answer.is_file():
                    self._child = pickle.loads(answer.read_bytes())  # noqa: S301 - our own child's
                else:
                    said_there = " ".join(done.stderr.split()[-40:]) or f"exit code {done.returncode}"
                    self._child = {"error": f"it doesn't load in another process: {said_there}"}
        return self._child


def run(backbone: Backbone, batch: np.ndarray[Any, Any], layers: list[str]) -> Mapping[str, Tokens]:
    """One forward pass on the CPU."""
    import torch

    tensor = torch.from_numpy(np.array(batch, np.float32))
    if tensor.ndim == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return backbone.forward(tensor, layers)


def place(backbone: Backbone) -> None:
    """Put it on the CPU as extracting does: in evaluation mode, images with their channels last."""
    from featstore.extract.network import Network

    Network.place(backbone, "cpu", "off", None, channels_last=True)
