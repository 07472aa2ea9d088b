"""``open_clip:ARCH`` or ``open_clip:ARCH/TAG``: the models of open_clip, by their names there.

``TAG`` names published weights, and what goes with them: how their images are normalized, and their activation. With
``--set input=text`` the same name is the model's text tower. See https://github.com/mlfoundations/open_clip.
"""

from __future__ import annotations

from featstore import Backbone, BackboneRequest, BackboneSpec, NotFoundError, hookimpl
from featstore.errors import did_you_mean

PREFIX = "open_clip:"


def _load(request: BackboneRequest) -> Backbone:
    from featstore_openclip.backbone import load

    return load(request)


@hookimpl
def featstore_resolve_backbone(name: str) -> BackboneSpec | None:
    if not name.startswith(PREFIX):
        return None
    from featstore_openclip.library import import_open_clip  # takes seconds: only for a name that is open_clip's

    open_clip = import_open_clip()
    architecture, slash, tag = name.removeprefix(PREFIX).partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        spelled = did_you_mean(f"{architecture}-{tag}", known) if slash else ""  # CLIP's authors write ViT-B/32
        raise NotFoundError(
            f"open_clip {open_clip.__version__} has no architecture {architecture!r}."
            f"{spelled or did_you_mean(architecture, known)}",
            hint="python -c 'import featstore; featstore.import_torchvision(); import open_clip; "
            "print(open_clip.list_models())' lists them",
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if slash and tag not in tags:
        raise NotFoundError(
            f"open_clip {open_clip.__version__} knows no weights {tag!r} of {architecture}; it knows "
            f"{', '.join(tags) or 'none'}.{did_you_mean(tag, tags)}"
        )
    return BackboneSpec(name, load=_load, description="a model of open_clip")
