"""``hf_text:NAME``: a text encoder of transformers, with the sentence pooling that comes with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from featstore import Backbone, BackboneRequest, SetupError, Tokens, UsageError, seeded, unavailable
from featstore.spec import Json
from featstore_text.library import import_transformers, quiet
from featstore_text.sentence import POOLINGS, Sentence, read_sentence
from featstore_text.settings import read_choice, read_number, read_settings
from featstore_text.tokens import TRUNCATE, TextTokens

# Where a tokenizer knows no limit it says a number of this size.
_NO_LIMIT = 10**9


class TextEncoder(Backbone):
    """One vector a text, (N, 1, D), pooled and, where the model says so, normalized to length 1.

    Layer ``last`` is the model's own sentence vector. ``0``, ``1``, … are the hidden states after each block, pooled in
    the same way.
    """

    transform: TextTokens

    def __init__(self, module: Any, transform: TextTokens, sentence: Sentence, recorded: Mapping[str, Json]) -> None:
        self.module = module
        self.transform = transform
        self.input_shape = (2, transform.max_length)
        self.preprocessing = recorded
        self._sentence = sentence
        blocks = self._blocks()
        self.layers = (*map(str, range(blocks)), "last")

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        """Float32 (N, 2, max_length), ids and mask → (N, 1, D) a layer, in one pass. Raises UsageError."""
        unknown = set(layers) - set(self.layers)
        if unknown:
            raise UsageError(f"No layer {', '.join(sorted(unknown))}; there are {', '.join(self.layers)}.")
        ids, mask = batch.long().unbind(1)
        out = self._run(ids, mask, blocks=any(layer != "last" for layer in layers))
        states = {
            layer: out.last_hidden_state if layer == "last" else out.hidden_states[int(layer) + 1] for layer in layers
        }
        return {layer: Tokens.of(self._pool(state, mask), "NC") for layer, state in states.items()}

    def _blocks(self) -> int:
        """How many blocks there are, by one text of the greatest length: what can't be run is refused before any work.

        Raises:
            UsageError: the model reads fewer tokens. SetupError: it gives no hidden states.
        """
        ids = torch.full((1, self.input_shape[1]), 0 if self.transform.pad_id else 1)
        try:
            with torch.inference_mode():
                states = self._run(ids, torch.ones_like(ids), blocks=True).hidden_states
        except (IndexError, RuntimeError) as error:
            raise UsageError(f"The model can't read max_length={self.input_shape[1]} tokens: {error}") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SetupError(f"The model is no encoder that is understood: {error}") from error
        return len(states) - 1

    def _run(self, ids: torch.Tensor, mask: torch.Tensor, *, blocks: bool) -> Any:
        module: Any = self.module
        return module(input_ids=ids, attention_mask=mask, output_hidden_states=blocks)

    def _pool(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = states.float()
        if self._sentence.pooling == "cls":
            vectors = states[:, 0]
        else:
            weights = mask.to(states.dtype)[:, :, None]
            vectors = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(vectors, dim=-1) if self._sentence.normalize else vectors


def load(request: BackboneRequest) -> TextEncoder:
    """Load an encoder from ``--checkpoint FOLDER``, from the folder that it is named by, or from the hub's cache.

    Settings: ``pooling`` (the model's own, or mean), ``max_length`` (the model's own), ``truncate`` (refuse). No code
    that comes with a model is run.

    Raises:
        SetupError: transformers or the model can't be had, or the model isn't understood.
        UsageError: a setting that there isn't, or out of its domain.
    """
    settings = read_settings(request, ["pooling", "max_length", "truncate"])
    truncate = read_choice(settings, "truncate", TRUNCATE, "refuse")
    transformers = import_transformers()
    sentence = read_sentence(_folder(request))
    if "pooling" in settings:
        sentence = replace(sentence, pooling=read_choice(settings, "pooling", POOLINGS, "mean"))
    if sentence.pooling not in POOLINGS:
        raise SetupError(
            f"{request.name} pools by {sentence.pooling}; {' and '.join(POOLINGS)} are understood.",
            hint="--set pooling=mean, if that is what you want",
        )
    tokenizer, config = _parts(transformers, request.name, sentence.folder)
    limit = _limit(tokenizer, config, sentence)
    if limit is None and "max_length" not in settings:
        raise UsageError(f"Nothing says how many tokens {request.name} reads.", hint="--set max_length=512")
    max_length = read_number(settings, "max_length", limit or 0)
    transform = TextTokens(tokenizer, max_length, truncate, sentence.lower, sentence.prompt)
    recorded: dict[str, Json] = {
        "input": "text",
        "max_length": max_length,
        "truncate": truncate,
        "pooling": sentence.pooling,
        "normalize": sentence.normalize,
        "lower": sentence.lower,
        "prompt": sentence.prompt,
        **sentence.digests,
    }
    return TextEncoder(_encoder(transformers, request, sentence.folder), transform, sentence, recorded)


def _folder(request: BackboneRequest) -> Path:
    """Where the model's files are."""
    if request.checkpoint is not None:
        if not request.checkpoint.is_dir():
            raise SetupError(
                f"There is no folder {request.checkpoint}.",
                hint="--checkpoint takes the model's whole folder, with config.json, the tokenizer and the weights",
            )
        return request.checkpoint
    local = Path(request.rest).expanduser()
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.txt", "*.model", "model*.safetensors", "0_*/model*.safetensors"]
    if request.trust_checkpoint:
        wanted.append("pytorch_model*.bin")
    try:
        return Path(snapshot_download(request.rest, allow_patterns=wanted))
    except MemoryError:
        raise
    except Exception as error:  # the hub's client has no base class for what it raises
        raise unavailable(request.name, error, instead="--checkpoint FOLDER takes a local copy") from error


def _parts(transformers: Any, name: str, folder: Path) -> tuple[Any, Any]:
    """Tokenizer and configuration."""
    try:
        with quiet(transformers):
            options = {"local_files_only": True, "trust_remote_code": False}
            config = transformers.AutoConfig.from_pretrained(folder, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    except (ImportError, KeyError, OSError, TypeError, ValueError) as error:
        raise SetupError(f"{name}: its files can't be used: {str(error).splitlines()[0]}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise SetupError(f"{name} is a {config.model_type}, which writes texts; encoders alone are understood.")
    return tokenizer, config


def _limit(tokenizer: Any, config: Any, sentence: Sentence) -> int | None:
    """How many tokens the model was made for."""
    if sentence.max_length:
        return sentence.max_length
    said = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or _NO_LIMIT]
    return min(said) if min(said) < _NO_LIMIT else None


def _encoder(transformers: Any, request: BackboneRequest, folder: Path) -> Any:
    """The network with all of its weights, in float32."""
    safe = any(folder.glob("model*.safetensors"))
    if not safe and not request.trust_checkpoint:
        raise SetupError(
            f"{request.name} has no .safetensors, only files that may hold code.",
            hint="where you trust whoever made them, --trust-checkpoint",
        )
    try:
        # Weights that a file lacks are drawn at random: they are refused below, but the caller's state is kept.
        with quiet(transformers), seeded(0):
            model, found = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_safetensors=safe, output_loading_info=True
            )
    except MemoryError:
        raise
    except Exception as error:  # readers of weights have no base class in common
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SetupError(f"{request.name} can't be loaded: {reason}") from error
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise SetupError(
            f"{request.name} lacks {len(missing)} of its weights ({', '.join(missing[:3])}…): they would be random."
        )
    if hasattr(model, "pooler"):
        model.pooler = None  # it isn't used, and where a file lacks it, it is random, and would be in the digest
    return model.float().eval()
