"""``timm:NAME``: the models of timm (https://huggingface.co/docs/timm), by their names there."""

from __future__ import annotations

from featstore import Backbone, BackboneRequest, BackboneSpec, NotFoundError, hookimpl
from featstore.errors import did_you_mean

PREFIX = "timm:"


def _load(request: BackboneRequest) -> Backbone:
    from featstore_timm.backbone import load

    return load(request)


@hookimpl
def featstore_resolve_backbone(name: str) -> BackboneSpec | None:
    if not name.startswith(PREFIX):
        return None
    from featstore_timm.library import import_timm  # takes seconds: only for a name that is timm's

    timm = import_timm()
    model = name.removeprefix(PREFIX)
    if not timm.is_model(model):
        raise NotFoundError(
            f"timm {timm.__version__} has no model {model!r}.{did_you_mean(model, timm.list_models())}",
            hint="python -c 'import featstore; featstore.import_torchvision(); import timm; "
            'print(timm.list_models("*vit*"))\' lists them',
        )
    architecture, dot, _ = model.partition(".")
    tags = timm.list_pretrained(f"{architecture}.*") if dot else []
    if dot and model not in tags:
        raise NotFoundError(f"timm {timm.__version__} has no weights {model!r}.{did_you_mean(model, tags)}")
    return BackboneSpec(name, load=_load, description="a model of timm")
