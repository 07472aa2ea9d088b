"""Whole extractions: several poolers, workers, abandoned runs, and vectors against timm itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import PIL.Image
import pytest
import torch

import featstore
from featstore.store import Store

INPUTS = 22


# ------------------------------------------------------------------------------------------- several poolers
def test_several_poolers_share_a_forward_pass_and_equal_single_ones(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS)
    poolers = ("mean", "max", "meanstd", "gem(3)", "tokens")
    result = lab.extract(poolers=poolers)
    batches = lab.forwards()
    assert batches[0] == [0]  # the shapes are found on zeros
    assert [n for batch in batches[1:] for n in batch] == list(range(INPUTS))
    assert len(batches) == 1 + 6
    assert (result.done, len(result.runs)) == (INPUTS, 1)
    for pooler, name in zip(poolers, ("mean", "max", "meanstd", "gem3", "tokens"), strict=True):
        lab.extract(f"alone_{name}", poolers=(pooler,))
        assert lab.vectors(f"s.{name}") == lab.vectors(f"alone_{name}")
        assert lab.chunks(f"s.{name}") == lab.chunks(f"alone_{name}")
    assert lab.store.features("s.tokens").arrays()[0].shape == (INPUTS, 4, 16)
    assert lab.store.features("s.meanstd").arrays()[0].shape == (INPUTS, 32)


def test_a_pooler_added_later_is_made_alone(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS)
    lab.extract(poolers=("mean", "max"))
    before = lab.chunks("s.mean")
    result = lab.extract(poolers=("mean", "max", "meanstd"))
    assert (result.done, len(result.runs)) == (INPUTS, 1)
    (run,) = result.runs
    rows = lab.sql(f"SELECT DISTINCT feature_set FROM features WHERE run_id = '{run}'")
    assert rows == [{"feature_set": "s.meanstd"}]
    assert lab.chunks("s.mean") == before


def test_sets_that_lack_different_samples_are_made_in_two_runs(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(8)
    lab.extract(poolers=("mean", "max"))
    for number in (20, 21):
        lab.write(number)
    lab.ingest()
    lab.forwards()
    result = lab.extract(poolers=("mean", "max", "meanstd"))
    assert len(result.runs) == 2
    assert (result.pending, result.done) == (10, 10)
    batches = lab.forwards()[1:]
    assert sorted(n for batch in batches for n in batch) == [*range(8), 20, 21]
    assert [20, 21] in batches
    for name in ("mean", "max", "meanstd"):
        assert len(lab.vectors(f"s.{name}")) == 10
    assert lab.extract(poolers=("mean", "max", "meanstd")).pending == 0


# -------------------------------------------------------------------------------------------------- workers
def test_bytes_dont_depend_on_workers(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS)
    for workers in (0, 1, 2):
        lab.extract(f"w{workers}", num_workers=workers)
    assert lab.chunks("w0") == lab.chunks("w1") == lab.chunks("w2")
    assert lab.vectors("w0") == lab.vectors("w1") == lab.vectors("w2")


# ------------------------------------------------------------------------------------------- abandoned runs
@pytest.mark.parametrize("fields", [{"batch_size": 3}, {"chunk_rows": 4}, {"where": "true"}, {"modalities": ("A",)}])
def test_asked_for_in_another_way_the_old_run_is_abandoned(
    make_lab: Callable[..., Any], fields: dict[str, Any]
) -> None:
    lab = make_lab(INPUTS).begun(keep=1)
    lab.forwards()
    result = lab.extract(**fields)
    assert (result.resumed, result.done, len(result.runs)) == ([], INPUTS - 8, 1)
    assert sorted(n for batch in lab.forwards() for n in batch) == list(range(8, INPUTS))
    assert lab.run_states() == {"abandoned": 1, "done": 1}
    rows = lab.sql("SELECT run_id, count(*) n FROM features GROUP BY 1 ORDER BY 1")
    assert sorted(row["n"] for row in rows) == [8, INPUTS - 8]
    assert len(lab.vectors()) == INPUTS
    folders = sorted((lab.root / "store/runs").glob("*-extract-*"))
    states = [json.loads((folder / "run.json").read_text())["state"] for folder in folders]
    assert sorted(states) == ["abandoned", "done"]
    assert not [folder for folder in folders if (folder / "journal").exists()]
    assert lab.extract().pending == 0


def test_asked_for_alike_on_other_workers_it_goes_on(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS).begun(keep=1)
    result = lab.extract(num_workers=2, threads=1, device="auto")
    assert (len(result.resumed), result.done) == (1, INPUTS - 8)
    (folder,) = (lab.root / "store/runs").glob("*-extract-*")
    facts = json.loads((folder / "run.json").read_text())
    assert [sorted(note) for note in facts["resumed"]] == [["at", "capability", "device"]]


def test_a_killed_run_of_another_feature_set_can_still_be_resumed(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS).begun("s", keep=1)
    lab.extract("other", settings={"scale": "2"})
    assert lab.run_states() == {"running": 1, "done": 1}
    assert lab.store.status()["unfinished"][0] | {"run_id": ""} == {
        "run_id": "", "done": 8, "failed": 0, "alive": False, "rows": INPUTS, "chunks_written": 1,
        "state": "interrupted",
    }  # fmt: skip
    assert len(lab.extract("s").resumed) == 1
    assert len(lab.vectors("s")) == INPUTS


def test_a_killed_run_is_not_resumed_by_other_code(make_lab: Callable[..., Any]) -> None:
    """The name is the same, and what makes its vectors isn't: the old run stays as it is, for who goes back."""
    lab = make_lab(INPUTS).begun(keep=1)
    lab.environment["LAB_REVISION"] = "2"
    result = lab.extract()
    assert (result.feature_sets, result.resumed, result.done) == ({"s": 2}, [], INPUTS)
    lab.environment["LAB_REVISION"] = "1"
    result = lab.extract()
    assert (result.feature_sets, len(result.resumed), result.done) == ({"s": 1}, 1, INPUTS - 8)
    assert lab.vectors("s@v1") == lab.vectors("s@v2")


def test_a_killed_run_is_not_resumed_where_one_of_its_poolers_is_another_now(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS).begun(keep=1, poolers=("mean", "leading"))
    lab.environment["LAB_POOLER_REVISION"] = "2"
    result = lab.extract(poolers=("mean", "leading"))
    assert (result.feature_sets, result.resumed) == ({"s.mean": 1, "s.leading": 2}, [])
    assert lab.run_states() == {"abandoned": 1, "done": 2}
    new, old = (lab.store.features(f"s.leading@v{version}").arrays()[0] for version in (2, 1))
    assert (len(new), len(old), len(lab.vectors("s.mean"))) == (INPUTS, 8, INPUTS)
    np.testing.assert_array_equal(new[:8], -old)


@pytest.mark.parametrize("damage", ["gone", "no plan", "half a plan", "no facts"])
def test_a_killed_run_without_its_folder_is_ended_with_a_warning(
    make_lab: Callable[..., Any], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    lab = make_lab(INPUTS).begun(keep=1)
    (folder,) = (lab.root / "store/runs").glob("*-extract-*")
    if damage == "gone":
        shutil.rmtree(folder)
    elif damage == "half a plan":
        (folder / "plan.parquet").write_bytes((folder / "plan.parquet").read_bytes()[:-9])
    else:
        (folder / {"no plan": "plan.parquet", "no facts": "run.json"}[damage]).unlink()
    (said,) = lab.store.status()["unfinished"]
    assert (said["state"], said["alive"], said["rows"]) == ("damaged", False, 0)
    lab.write(800)
    lab.ingest()
    assert "is ended" in caplog.text
    assert lab.run_states() == {"abandoned": 1}
    assert lab.extract().done == INPUTS + 1


@pytest.mark.parametrize("name", ["../../victim", "{store}/victim", ".", "20260101T000000-extract-0000/../x"])
def test_a_run_that_a_strangers_catalog_names_leads_nowhere(make_lab: Callable[..., Any], name: str) -> None:
    lab = make_lab(3).begun(keep=1)
    (run,) = (lab.root / "store/runs").glob("*-extract-*")
    victim = lab.root / "victim"
    shutil.copytree(run, victim)
    before = {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()}
    connection = duckdb.connect(str(lab.root / "store/catalog.duckdb"))
    connection.execute(
        "INSERT INTO core.run SELECT * REPLACE (id + 1 AS id, ? AS run_id) FROM core.run WHERE state = 'running'",
        [name.format(store=lab.root)],
    )
    connection.close()
    assert {run["state"] for run in lab.store.status()["unfinished"]} == {"interrupted", "damaged"}
    lab.write(800)
    lab.ingest()
    assert lab.extract().done == 1
    assert {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()} == before
    assert lab.run_states() == {"abandoned": 1, "done": 2}


# -------------------------------------------------------------------------------------------- real networks
@pytest.fixture
def images(store: Store, tmp_path: Path) -> Store:
    rng = np.random.default_rng(0)
    (tmp_path / "images" / "p0" / "A").mkdir(parents=True)
    for n in range(5):
        pixels = rng.integers(0, 256, (160, 160, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / "images" / "p0" / "A" / f"{n}.png")
    store.ingest(tmp_path / "images", layouts=["{patient_id}/{modality}/*.png"])
    return store


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_vectors_are_what_plain_timm_gives(images: Store, tmp_path: Path, name: str) -> None:
    featstore.import_torchvision()
    import timm

    torch.manual_seed(7)
    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**config, is_training=False)
    files = sorted((tmp_path / "images").rglob("*.png"))
    with torch.inference_mode():
        batch = torch.stack([transform(PIL.Image.open(file)) for file in files])
        features = model.forward_features(batch)
    if name == "test_vit":
        prefix, positions = model.num_prefix_tokens, features
    else:
        prefix, positions = 0, features.flatten(2).transpose(1, 2)
    inner = positions[:, prefix:]
    expected = {
        "mean": inner.mean(1), "max": inner.amax(1), "tokens": positions,
        "meanstd": torch.cat([inner.mean(1), inner.std(1, correction=0)], 1),
    }  # fmt: skip
    if prefix:
        expected["cls"] = positions[:, 0]
    images.extract(
        name="v", backbone=f"timm:{name}", checkpoint=str(tmp_path / "w.pt"), poolers=tuple(expected), device="cpu",
        batch_size=2,
    )  # fmt: skip
    for pooler, values in expected.items():
        found, _, keys = images.features(f"v.{pooler}").arrays()
        assert [key.rsplit("/")[-1] for key in keys] == [file.name for file in files]
        np.testing.assert_allclose(found, values.numpy(), rtol=1e-4, atol=1e-5)


def test_a_real_network_resumed_gives_the_same_bits(images: Store, tmp_path: Path) -> None:
    """Batch sizes, chunks and memory formats are the plan's, so convolutions round alike."""
    store = tmp_path / "twin"
    shutil.copytree(images.path, store)
    twin = featstore.open(store)
    fields = {
        "name": "r", "backbone": "timm:test_resnet", "pretrained": False, "batch_size": 2, "chunk_rows": 2,
        "device": "cpu",
    }  # fmt: skip
    twin.extract(**fields)

    class Stop(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.done >= 3:
            raise Stop

    with pytest.raises(Stop):
        images.extract(**fields, on_progress=stop)
    result = images.extract(**fields, num_workers=1)
    assert len(result.resumed) == 1
    assert 0 < result.done < 5
    np.testing.assert_array_equal(images.features("r").arrays()[0], twin.features("r").arrays()[0])


def test_progress_counts_what_is_left(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS).begun(keep=1)
    seen: list[Any] = []
    lab.extract(on_progress=seen.append)
    assert [(p.total, p.done, p.failed, p.gpu_bytes) for p in seen] == [
        (INPUTS - 8, done, 0, None) for done in (4, 8, 12, 14)
    ]


def test_out_of_memory_halves_a_batch_and_says_so(make_lab: Callable[..., Any], caplog: Any) -> None:
    lab = make_lab(6)
    lab.extract()
    lab.extract("small", backbone="lab:cramped")
    assert lab.vectors("small") == lab.vectors("s")
    assert "halving this batch of 4" in caplog.text
    facts = [json.loads(p.read_text()) for p in (lab.root / "store/runs").glob("*-extract-*/run.json")]
    assert [f["batches_halved"] for f in facts if "batches_halved" in f] == [1]
    lab.environment["LAB_FITS"] = "0"
    with pytest.raises(featstore.SetupError, match="single input"):
        lab.extract("tiny", backbone="lab:cramped")
