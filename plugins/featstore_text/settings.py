"""``--set key=value`` of the text backbones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from featstore import BackboneRequest, UsageError
from featstore.errors import did_you_mean


def read_settings(request: BackboneRequest, known: Iterable[str]) -> dict[str, str]:
    """The settings that the user gave, all of them known. Raises UsageError."""
    known = sorted(known)
    for key in request.settings:
        if key not in known:
            raise UsageError(
                f"{key!r} isn't a setting of {request.name}.{did_you_mean(key, known)} "
                f"The settings are {', '.join(known)}."
            )
    return dict(request.settings)


def read_number(settings: Mapping[str, str], key: str, default: int) -> int:
    """A whole number of at least 1. Raises UsageError."""
    text = settings.get(key, str(default))
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(f"{key}={text} isn't a whole number of at least 1.")
    return int(text)


def read_choice(settings: Mapping[str, str], key: str, choices: tuple[str, ...], default: str) -> str:
    """One of ``choices``. Raises UsageError."""
    text = settings.get(key, default)
    if text not in choices:
        raise UsageError(f"{key}={text} isn't one of {', '.join(choices)}.{did_you_mean(text, choices)}")
    return text
