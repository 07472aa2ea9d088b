"""``smp:NAME``: the encoders of segmentation_models_pytorch (https://smp.readthedocs.io), by their names there.

``smp:tu-NAME`` takes a model of timm through smp, as smp's own ``tu-`` names do.
"""

from __future__ import annotations

from featstore import Backbone, BackboneRequest, BackboneSpec, NotFoundError, hookimpl
from featstore.errors import did_you_mean

PREFIX = "smp:"


def _load(request: BackboneRequest) -> Backbone:
    from featstore_smp.backbone import load

    return load(request)


@hookimpl
def featstore_resolve_backbone(name: str) -> BackboneSpec | None:
    if not name.startswith(PREFIX):
        return None
    from featstore_smp.library import import_smp, import_timm  # takes seconds: only for a name that is smp's

    smp, encoder = import_smp(), name.removeprefix(PREFIX)
    timm_model = encoder.removeprefix("tu-")
    if encoder not in smp.encoders.encoders and (timm_model == encoder or not import_timm().is_model(timm_model)):
        known = [*smp.encoders.encoders, *(f"tu-{model}" for model in import_timm().list_models())]
        raise NotFoundError(
            f"segmentation_models_pytorch {smp.__version__} has no encoder {encoder!r}.{did_you_mean(encoder, known)}",
            hint=f"one of {', '.join(list(smp.encoders.encoders)[:5])}, …, or smp:tu-NAME for a model of timm",
        )
    return BackboneSpec(name, load=_load, description="an encoder of segmentation_models_pytorch")
