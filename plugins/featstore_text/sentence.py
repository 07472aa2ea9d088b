"""How a model makes one vector of a text: what the files beside its weights say.

The layout is that of sentence-transformers (Reimers and Gurevych 2019, https://www.sbert.net): ``modules.json`` lists
an encoder, a pooling and perhaps a normalization. A folder without it is an encoder alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore import SetupError

#: Poolings that are understood.
POOLINGS = ("mean", "cls")

_OLD_KEY, _OLD_KEYS = "pooling_mode_", {"cls_token": "cls", "mean_tokens": "mean"}
# What decides about the tokens of a text. Files, not objects: another version of the library reads the same.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "*.model",
)  # fmt: skip


@dataclass(frozen=True)
class Sentence:
    """How a text becomes a vector.

    Attributes:
        folder: where the encoder's own files are.
        pooling: ``mean`` over the text's tokens, ``cls`` (the first), or a name that isn't understood.
        normalize: whether vectors are brought to length 1.
        max_length: how many tokens are read; None where nothing says it.
        lower: whether texts are put into lower case first.
        prompt: what is put before each text.
    """

    folder: Path
    pooling: str = "mean"
    normalize: bool = False
    max_length: int | None = None
    lower: bool = False
    prompt: str = ""

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the files that shape the vectors beside the weights, as hex."""
        return {"config": _digest(self.folder, ("config.json",)), "tokenizer": _digest(self.folder, _TOKENIZER_FILES)}


def read_sentence(folder: Path) -> Sentence:
    """Read what the files of a model's folder say.

    Raises:
        SetupError: no model is there, or it has steps that aren't understood.
    """
    modules = _json(folder / "modules.json", [])
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules] or ["Transformer"]
    places = [folder / str(module.get("path", "")) for module in modules] or [folder]
    if kinds not in (["Transformer"], ["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise SetupError(
            f"The model has the steps {', '.join(kinds)}; an encoder, a pooling and a normalization are understood.",
            hint="choose another model; most sentence encoders can be used",
        )
    encoder = places[0]
    if not (encoder / "config.json").is_file():
        raise SetupError(f"There is no text encoder in {folder}: it has no config.json.")
    own = _json(encoder / "sentence_bert_config.json", {})
    prompts = _json(folder / "config_sentence_transformers.json", {})
    pooling = _json(places[1] / "config.json", {}) if len(places) > 1 else {}
    prompt = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name") or "", "")
    if prompt and pooling.get("include_prompt") is False:
        raise SetupError("The model leaves its prompt out when it pools, which isn't built.")
    return Sentence(
        encoder,
        _pooling(pooling),
        kinds[-1] == "Normalize",
        own.get("max_seq_length"),
        bool(own.get("do_lower_case")),
        str(prompt),
    )


def _pooling(config: Mapping[str, Any]) -> str:
    """The pooling's name; several at once are put together into a name that isn't one of POOLINGS."""
    named = config.get("pooling_mode")
    if named is None:
        marked = [key.removeprefix(_OLD_KEY) for key, on in config.items() if key.startswith(_OLD_KEY) and on is True]
        named = [_OLD_KEYS.get(key, key) for key in marked] or ["mean"]
    return named if isinstance(named, str) else " and ".join(named)


def _json(path: Path, default: Any) -> Any:
    if not path.is_file():
        return default
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise SetupError(f"{path.name} in {path.parent} is no JSON: {error}") from error
    if not isinstance(found, type(default)):
        raise SetupError(f"{path.name} in {path.parent} isn't a JSON {type(default).__name__}.")
    return found


def _digest(folder: Path, patterns: tuple[str, ...]) -> str:
    whole = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        data = path.read_bytes()
        whole.update(f"{path.name}:{len(data)}:".encode() + data)
    return whole.hexdigest()
