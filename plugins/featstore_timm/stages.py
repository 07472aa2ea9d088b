"""The blocks or stages of a timm model: which of its modules they are."""

from __future__ import annotations

from typing import Any

# The families' names for what they run in sequence, and for the stages that they number themselves, from 1.
_CONTAINERS = ("blocks", "stages", "layers", "levels", "features")
_NUMBERED = ("layer", "stage", "s")


def find_stages(model: Any) -> dict[str, str]:
    """Number → module: ``{"0": "blocks.0", …}``. Empty where the model doesn't say which its stages are.

    Whether each of them runs once, and what it gives, is to be found out.
    """
    children = dict(model.named_children())
    for container in _CONTAINERS:
        names = [name for name, _ in children[container].named_children()] if container in children else []
        if len(names) > 1 and names == [str(i) for i in range(len(names))]:
            return {name: f"{container}.{name}" for name in names}
    told = {entry.get("module") for entry in model.feature_info}
    for word in _NUMBERED:
        modules: list[str] = []
        while (module := f"{word}{len(modules) + 1}") in children:
            modules.append(module)
        # HRNet has a single layer1, before what it calls stages.
        if len(modules) > 1 and told.issuperset(modules):
            return {str(i): module for i, module in enumerate(modules)}
    return {}
