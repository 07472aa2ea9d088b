"""How latents are made: the JSON file of options, and what it means for featstore."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """The keys of ``options.json``.

    Attributes:
        backbone: as of ``featstore extract``; a file that it names lies beside the JSON file.
        layer: ``last`` is the head's 128 numbers, ``encoder`` the 512 behind it.
        image_size: pixels a side, as the network takes them.
        range: °C that become 0 and 1.
        num_workers: processes that read tiles.
        clobber: make also what is there already.
        debug: the first few tiles of the first file, and nothing leaves this machine.
    """

    backbone: str
    layer: str = "last"
    image_size: int = 64
    range: tuple[float, float] = (-2.0, 34.0)
    batch_size: int = 64
    num_workers: int = 2
    clobber: bool = False
    debug: bool = False

    @classmethod
    def read(cls, file: Path) -> Options:
        """Read a JSON file. Raises SystemExit for a key that isn't one: a misspelt one would change nothing, unseen."""
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(found) - set(known)):
            raise SystemExit(f"{file} has {', '.join(unknown)}; the options are {', '.join(known)}.")
        if "backbone" not in found:
            raise SystemExit(f"{file} names no backbone.")
        provider, _, rest = found["backbone"].partition(":")
        module, mark, factory = rest.partition(".py:")
        if mark:
            found["backbone"] = f"{provider}:{file.parent / module}.py:{factory}"
        if "range" in found:
            found["range"] = tuple(map(float, found["range"]))
        return cls(**found)

    @property
    def settings(self) -> dict[str, str]:
        """What ``--set`` says: °C → 0…1 → -1…1."""
        low, high = self.range
        size = {"image_size": str(self.image_size), "crop_pct": "1"}
        return {**size, "range": f"{low:g},{high:g}", "mean": "0.5", "std": "0.5"}

    def digest(self, *more: str) -> str:
        """Of all that decides what the latents are: the settings, the network's code, and ``more``."""
        provider, _, rest = self.backbone.partition(":")
        module, mark, factory = rest.partition(".py:")
        code = f"{provider}:{sha256(Path(module + '.py'))}:{factory}" if mark else self.backbone
        return hashlib.sha256(json.dumps([code, self.layer, self.settings, *more]).encode()).hexdigest()


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
