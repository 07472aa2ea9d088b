"""Groups and segments: as zarr would make them, whole or absent, and the same when made again."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from featstore.arrays import SegmentLayout, create_group, create_segment
from featstore.errors import ConflictError, CorruptError, NotFoundError, UsageError

ATTRIBUTES = {"featstore": {"encoding-version": 1, "fingerprint": "ab12", "settings": {"size": (224, 224)}}}
KEYS = [
    "ct/007.png",
    "ct/7.png",
    "ct/Müller/α β.nii.gz#axis=2&slice=17",
    "ct/日本.png",
    "",
    "a#/b\n",
    "x",
    "y",
]


@pytest.fixture
def layout(group: Path) -> SegmentLayout:
    create_group(group, ATTRIBUTES)
    return SegmentLayout(group / "s1", rows=8, chunk_rows=3, item_shape=(4,), dtype="float32")


class TestSegmentLayout:
    def test_counts(self) -> None:
        layout = SegmentLayout(Path("v1.zarr/s1"), rows=10, chunk_rows=4, item_shape=(3, 2), dtype="float16")
        assert layout.chunks == 3
        assert [layout.rows_in(index) for index in range(3)] == [4, 4, 2]
        assert layout.chunk_nbytes == 4 * 3 * 2 * 2
        assert layout.chunk_path(2) == Path("v1.zarr/s1/features/c/2/0/0")
        assert layout.valid_path(2) == Path("v1.zarr/s1/valid/c/2")
        assert layout.storage_dtype.str == "<f2"

    @pytest.mark.parametrize("index", [-1, 3])
    def test_no_such_chunk(self, index: int) -> None:
        layout = SegmentLayout(Path("v1.zarr/s1"), rows=10, chunk_rows=4, item_shape=(3,), dtype="float32")
        with pytest.raises(IndexError, match=f"chunk {index} of segment s1, which has 3"):
            layout.rows_in(index)

    @pytest.mark.parametrize(
        "change",
        [
            {"rows": 0},
            {"chunk_rows": 0},
            {"item_shape": ()},
            {"item_shape": (0,)},
            {"item_shape": (2, 2, 2)},
            {"dtype": "float64"},
        ],
        ids=str,
    )
    def test_impossible(self, change: dict[str, object]) -> None:
        with pytest.raises(UsageError):
            replace(SegmentLayout(Path("s1"), 10, 4, (3,), "float32"), **change)  # type: ignore[arg-type]


class TestCreateGroup:
    def test_is_a_zarr_group(self, group: Path) -> None:
        create_group(group, ATTRIBUTES)
        opened = zarr.open_group(group, mode="r", use_consolidated=False)
        assert opened.metadata.zarr_format == 3
        assert opened.attrs["featstore"]["fingerprint"] == "ab12"
        assert list(opened.members()) == []

    def test_again(self, group: Path) -> None:
        create_group(group, ATTRIBUTES)
        before = (group / "zarr.json").stat()
        create_group(group, ATTRIBUTES)
        assert (group / "zarr.json").stat().st_ino == before.st_ino

    def test_of_another_feature_set(self, group: Path) -> None:
        create_group(group, ATTRIBUTES)
        with pytest.raises(ConflictError, match="another feature set"):
            create_group(group, {"featstore": {"fingerprint": "cd34"}})

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"node_type": "array"}'])
    def test_damaged(self, group: Path, text: str) -> None:
        group.mkdir(parents=True)
        (group / "zarr.json").write_text(text)
        with pytest.raises(CorruptError, match="next: restore"):
            create_group(group, ATTRIBUTES)

    def test_folder_without_metadata(self, group: Path) -> None:
        group.mkdir(parents=True)
        with pytest.raises(CorruptError, match=r"zarr\.json"):
            create_group(group, ATTRIBUTES)


class TestCreateSegment:
    def test_zarr_reads_it(self, layout: SegmentLayout) -> None:
        create_segment(layout, KEYS)
        segment = zarr.open_group(layout.path.parent, mode="r")["s1"]
        assert dict(segment.members()).keys() == {"features", "valid", "sample_key"}
        assert segment["features"].shape == (8, 4)
        assert np.isnan(segment["features"][:]).all()
        assert not segment["valid"][:].any()
        assert segment["sample_key"][:].tolist() == KEYS

    @pytest.mark.parametrize(
        ("rows", "chunk_rows", "item_shape", "dtype"),
        [
            (8, 3, (4,), "float32"),
            (8, 100, (4,), "float16"),
            (1, 1, (1,), "float32"),
            (8, 4, (5, 2), "float16"),
            (70_000, 4_096, (2,), "float32"),  # two chunks of sample keys
        ],
    )
    def test_equals_what_zarr_makes(
        self, group: Path, rows: int, chunk_rows: int, item_shape: tuple[int, ...], dtype: str
    ) -> None:
        create_group(group, ATTRIBUTES)
        layout = SegmentLayout(group / "s1", rows, chunk_rows, item_shape, dtype)  # type: ignore[arg-type]
        keys = [f"ct/Müller/{row}.png" for row in range(rows)]
        create_segment(layout, keys)

        twin = zarr.create_group(group.with_name("twin.zarr")).create_group("s1")
        plain = {"compressors": [Crc32cCodec()], "filters": None}
        little = BytesCodec(endian="little")
        twin.create_array(
            "features", shape=layout.shape, chunks=layout.chunk_shape, dtype=dtype,
            fill_value=float("nan"), serializer=little, **plain,
        )  # fmt: skip
        twin.create_array(
            "valid", shape=(rows,), chunks=(chunk_rows,), dtype="bool",
            fill_value=False, serializer=little, **plain,
        )  # fmt: skip
        text = twin.create_array("sample_key", shape=(rows,), chunks=(min(rows, 65_536),), dtype="string", **plain)
        text[:] = np.array(keys, object)

        theirs = group.with_name("twin.zarr") / "s1"
        for name in ("", "features", "valid", "sample_key"):
            ours, expected = (json.loads((s / name / "zarr.json").read_text()) for s in (layout.path, theirs))
            assert ours == expected, name
        chunks = sorted(path.name for path in (theirs / "sample_key" / "c").iterdir())
        assert chunks == sorted(path.name for path in (layout.path / "sample_key" / "c").iterdir())
        for name in chunks:
            path = Path("sample_key", "c", name)
            assert (layout.path / path).read_bytes() == (theirs / path).read_bytes()

    def test_again(self, layout: SegmentLayout) -> None:
        create_segment(layout, KEYS)
        before = {path: path.stat().st_ino for path in layout.path.rglob("*")}
        create_segment(layout, KEYS)
        assert {path: path.stat().st_ino for path in layout.path.rglob("*")} == before

    def test_again_after_someone_added_attributes(self, layout: SegmentLayout) -> None:
        create_segment(layout, KEYS)
        zarr.open_array(layout.path / "features", mode="r+").attrs["note"] = "mine"
        create_segment(layout, KEYS)

    @pytest.mark.parametrize("change", [{"chunk_rows": 4}, {"item_shape": (5,)}, {"dtype": "float16"}], ids=str)
    def test_another_layout(self, layout: SegmentLayout, change: dict[str, object]) -> None:
        create_segment(layout, KEYS)
        with pytest.raises(ConflictError, match="is there already"):
            create_segment(replace(layout, **change), KEYS)  # type: ignore[arg-type]

    def test_other_samples(self, layout: SegmentLayout) -> None:
        create_segment(layout, KEYS)
        with pytest.raises(ConflictError, match="other samples"):
            create_segment(layout, KEYS[::-1])

    def test_damaged(self, layout: SegmentLayout) -> None:
        create_segment(layout, KEYS)
        (layout.path / "valid" / "zarr.json").unlink()
        with pytest.raises(CorruptError, match=r"valid/zarr\.json"):
            create_segment(layout, KEYS)

    def test_keys_must_match_rows(self, layout: SegmentLayout) -> None:
        with pytest.raises(UsageError, match="7 sample keys for the 8 rows"):
            create_segment(layout, KEYS[:7])

    def test_needs_its_group(self, layout: SegmentLayout) -> None:
        with pytest.raises(NotFoundError, match="create_group first"):
            create_segment(replace(layout, path=layout.path.parent.with_name("v2.zarr") / "s1"), KEYS)

    def test_workers_at_once(self, layout: SegmentLayout) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: create_segment(layout, KEYS), range(8)))
        assert zarr.open_array(layout.path / "sample_key", mode="r")[:].tolist() == KEYS
        assert {path.name for path in layout.path.parent.parent.iterdir()} == {"v1.zarr"}

    def test_a_failure_leaves_nothing(self, layout: SegmentLayout) -> None:
        with pytest.raises(UnicodeEncodeError):
            create_segment(layout, [*KEYS[:7], "not UTF-8: \udcff"])
        assert not layout.path.exists()
        assert {path.name for path in layout.path.parent.parent.iterdir()} == {"v1.zarr"}
