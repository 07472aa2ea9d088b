"""torchvision's import, in processes of their own: an import can't be taken back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={"PATH": "", "HF_HUB_OFFLINE": "1", **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torchvision_and_timm_work_and_a_second_call_gives_the_same_module() -> None:
    out = run(
        """
import sys
from featstore.vision import import_torchvision
assert "torch" not in sys.modules
first = import_torchvision()
assert import_torchvision() is first is sys.modules["torchvision"]
import timm
from torchvision import transforms
from PIL import Image
print(transforms.ToTensor()(transforms.Resize(8)(Image.new("RGB", (16, 32)))).shape)
"""
    )
    assert out == "torch.Size([3, 16, 8])\n"


def test_a_torchvision_that_was_half_imported_before_is_imported_anew() -> None:
    run(
        """
try:
    import torchvision
except RuntimeError:
    pass
from featstore.vision import import_torchvision
assert import_torchvision().transforms.Resize
"""
    )


def test_a_plain_import_that_works_is_left_alone() -> None:
    # Torchvision's own library defines the schemas where it loads: nothing is to be repaired then.
    run(
        """
from torch.library import Library
library = Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from featstore import vision
assert vision.import_torchvision().transforms
assert vision._fragments == []
"""
    )


def test_another_failure_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('CUDA driver not found')")
    run(
        """
from featstore.vision import import_torchvision
try:
    import_torchvision()
except RuntimeError as error:
    assert str(error) == "CUDA driver not found"
else:
    raise SystemExit("not raised")
""",
        PYTHONPATH=str(tmp_path),
    )
