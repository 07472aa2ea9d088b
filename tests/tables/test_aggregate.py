"""Slices → patient: the same bits however much memory there is, and the same as NumPy one patient at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featstore import PluginError
from featstore.arrays import FeatureReader, SegmentLayout, create_group, create_segment, write_chunk
from featstore.plugins import Plugins
from featstore.tables import aggregate, fuse
from featstore.tables.aggregate import PooledInput


@pytest.fixture(scope="module", params=[1, 3, 64], ids="dim{}".format)
def ragged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, pa.Table, int]:
    """Two segments of one feature set, and the pointers of 200 patients: none to 40 rows each, scattered over both."""
    dim, rng = request.param, np.random.default_rng(5)
    group = tmp_path_factory.mktemp("features") / "v1.zarr"
    create_group(group, {})
    segments, rows = {}, 2100
    for id in (4, 9):
        layout = SegmentLayout(group / f"s{id}", rows, 128, (dim,), "float32")
        create_segment(layout, [f"k{id}/{row}" for row in range(rows)])
        for index in range(layout.chunks):
            part = rng.normal(size=(min(128, rows - index * 128), dim)).astype(np.float32)
            write_chunk(layout, index, part, np.ones(len(part), np.bool_))
        segments[id] = layout.path
    lengths = rng.integers(0, 41, 200)
    total = int(lengths.sum())
    pointers = pa.table(
        {
            "position": np.repeat(np.arange(200), lengths),
            "segment": rng.choice([4, 9], total),
            "row": rng.integers(0, rows, total),
        }
    )
    return FeatureReader(segments), pointers, dim


@pytest.mark.parametrize("agg", ["mean", "max", "min", "std", "meanstd", "median", "first", "last", "gem(3)"])
def test_pooling_is_bitwise_independent_of_the_budget(
    ragged: tuple[Any, pa.Table, int], agg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, pointers, dim = ragged
    pool = Plugins.load().pooler(agg, "groups")
    made = PooledInput.of(reader, pointers, 200, dim, pool)
    whole = made.block(0, 200)
    for budget in (1, 999, 8 * 1024, 123_457):
        monkeypatch.setattr(aggregate, "BUDGET", budget)
        assert made.block(0, 200).tobytes() == whole.tobytes()
    assert np.concatenate([made.block(i, i + 1) for i in range(200)]).tobytes() == whole.tobytes()
    assert np.concatenate([made.block(0, 77), made.block(77, 200)]).tobytes() == whole.tobytes()


def test_pooling_equals_one_patient_at_a_time(ragged: tuple[Any, pa.Table, int]) -> None:
    reader, pointers, dim = ragged
    made = PooledInput.of(reader, pointers, 200, dim, Plugins.load().pooler("meanstd", "groups")).block(0, 200)
    positions, segments, rows = (pointers.column(c).to_numpy() for c in ("position", "segment", "row"))
    for patient in range(200):
        mine = positions == patient
        if not mine.any():
            assert np.isnan(made[patient]).all()
            continue
        values = reader.gather(segments[mine], rows[mine]).astype(np.float64)
        np.testing.assert_allclose(made[patient, :dim], values.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(made[patient, dim:], values.std(axis=0), atol=1e-12)


def test_a_pooler_that_gives_the_wrong_shape_is_named(ragged: tuple[Any, pa.Table, int]) -> None:
    reader, pointers, dim = ragged
    with pytest.raises(PluginError, match="shape"):
        PooledInput.of(reader, pointers, 200, dim, lambda values, *, prefix, grid: values)


def test_block_size_changes_nothing_that_matters(
    make_cohort: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 64 rows, the least, against one: the bytes of what isn't learned, and 1e-6 for what is."""
    ids = [f"N{n:03}" for n in range(150)]
    cohort = make_cohort(8, ids=ids, missing=0.3, slices=2, dim=3)
    options = {"inputs": ["a=v/A:mean", "p=v/P:max"], "scheme": "default", "join": "outer"}
    learned = options | {"impute": "mean", "standardize": True, "pca": 3}
    cohort.store.materialize(name="plain", **options)
    cohort.store.materialize(name="learned", **learned)
    before = np.stack(cohort.store.table("learned").to_pandas().fused)
    monkeypatch.setattr(fuse, "BLOCK_BYTES", 1)
    assert cohort.store.materialize(name="plain", **options).unchanged
    cohort.store.materialize(name="learned", **learned)
    np.testing.assert_allclose(np.stack(cohort.store.table("learned").to_pandas().fused), before, rtol=1e-5, atol=1e-6)


def test_feature_without_a_value_in_the_first_blocks_is_learned(
    make_cohort: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first 64-row block of train rows lacks a modality altogether: means and scales are of the others."""
    monkeypatch.setattr(fuse, "BLOCK_BYTES", 1)
    ids = [f"N{n:03}" for n in range(130)]
    cohort = make_cohort(9, ids=ids, slices=1, dim=2, extract=False)
    for patient in ids[:70]:
        del cohort.vectors[patient, "P", 0]
    cohort.ingest()
    cohort.extract()
    cohort.store.materialize(
        name="t", inputs=["a=v/A", "p=v/P"], scheme="default", join="left", impute="mean", standardize=True
    )
    fitted = cohort.store.table("t").fitted()
    train = np.stack([cohort.vectors[p, "P", 0] for p in ids[70:] if cohort.splits[p] == "train"]).astype(np.float64)
    np.testing.assert_allclose(fitted["missing"].statistics_[2:], train.mean(axis=0), rtol=1e-12)


def test_only_segments_that_hold_rows_are_opened(make_cohort: Callable[..., Any]) -> None:
    """A run that was killed before it made its arrays has reserved a segment that isn't there."""
    cohort = make_cohort(10, count=12, slices=1)
    with cohort.store.catalog.write() as connection:
        connection.execute(
            "INSERT INTO core.segment SELECT 99, feature_set, run, 'features/v/v1.zarr/never', 5, 5 FROM core.segment"
        )
    assert cohort.store.materialize(name="t", inputs=["a=v/A"]).rows == 12
    assert len(cohort.store.features("v").arrays()[0]) == 24
    assert cohort.store.sql("SELECT count(*) n FROM vectors.v").to_pylist() == [{"n": 24}]
    assert not Path(cohort.store.path / "features/v/v1.zarr/never").exists()
