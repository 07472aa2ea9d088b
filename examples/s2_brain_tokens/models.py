"""The two backbones at the original's size, and small ones of the same families."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backbones:
    """``image_size`` is DINOv2's: 434 pixels are 31 × 31 patches of 14. CLIP has its own 224."""

    dino: str
    image_size: int
    clip: str
    clip_tag: str


TRUE = Backbones("vit_base_patch14_dinov2", 434, "ViT-L-14", "openai")
SMALL = Backbones("vit_small_patch14_dinov2", 98, "ViT-S-32", "")
