"""Each format that people have: what comes in is what was there, to the bit, whatever the order of rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featstore
from featstore.errors import ConflictError, InputError, NotFoundError, UsageError

from .conftest import IDS, read, rows, same

Save = Callable[..., Path]


class TestNpy:
    def test_rows_by_number(
        self, store: featstore.Store, vectors: np.ndarray, meta: pd.DataFrame, array: Save, saved: Save,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        shuffled = meta.assign(row=range(6)).iloc[rng.permutation(6)]
        result = store.import_features(array(vectors), name="f", index=saved(shuffled))
        assert (result.added, result.samples_added, result.patients_added, result.version) == (6, 6, 6, 1)
        assert (result.key, result.in_order) == ("key", False)
        keys = [f"f/{key}" for key in meta["key"]]
        assert same(read(store), keys, vectors)
        found = {row["sample_key"]: row for row in rows(store, "SELECT * FROM samples")}
        for key, (_, expected) in zip(keys, meta.iterrows(), strict=True):
            row = found[key]
            assert (row["patient_id"], row["modality"], row["site"]) == (expected["patient_id"], "A", "JM")
            assert row["label"] == str(expected["label"])
            assert row["uri"] == f"imported:{key}"
            assert dict(row["attributes"]) == {"fold": expected["fold"]}

    @pytest.mark.parametrize("name", ["meta.csv", "meta.parquet"])
    def test_in_order(
        self, store: featstore.Store, vectors: np.ndarray, meta: pd.DataFrame, array: Save, saved: Save, name: str
    ) -> None:
        result = store.import_features(array(vectors), name="f", index=saved(meta, name), in_order=True)
        assert result.in_order
        assert same(read(store), [f"f/{key}" for key in meta["key"]], vectors)

    def test_nothing_is_matched_in_silence(
        self, store: featstore.Store, vectors: np.ndarray, meta: pd.DataFrame, array: Save, saved: Save
    ) -> None:
        file = array(vectors)
        with pytest.raises(UsageError, match="Nothing matches the 6 rows"):
            store.import_features(file, name="f", index=saved(meta))
        with pytest.raises(UsageError, match="Nothing says which sample"):
            store.import_features(file, name="f")
        with pytest.raises(ConflictError, match="6 rows, and the index 5"):
            store.import_features(file, name="f", index=saved(meta[:5]), in_order=True)
        with pytest.raises(UsageError, match="in its column row"):
            store.import_features(file, name="f", index=saved(meta.assign(row=range(6))), in_order=True)
        assert not rows(store, "SELECT * FROM samples")

    @pytest.mark.parametrize(
        ("numbers", "words"),
        [([0, 1, 2, 3, 4, 4], "twice: '4'"), ([0, 1, 2, 3, 4, 9], "not in it: '9'.*not in the index: 'x.npy#row=5'"),
         ([0, 1, 2, 3, 4, -1], "'-1'")],
    )  # fmt: skip
    def test_bad_row_numbers(
        self, store: featstore.Store, vectors: np.ndarray, meta: pd.DataFrame, array: Save, saved: Save,
        numbers: list[int], words: str,
    ) -> None:  # fmt: skip
        with pytest.raises(ConflictError, match=words):
            store.import_features(array(vectors), name="f", index=saved(meta.assign(row=numbers)))

    def test_without_an_index_rows_are_called_by_their_place(
        self, store: featstore.Store, vectors: np.ndarray, array: Save
    ) -> None:
        store.import_features(array(vectors), name="f", in_order=True, patient_id="{sample_key}", modality="A")
        assert same(read(store), [f"f/x.npy#row={n}" for n in range(6)], vectors)

    def test_tokens_of_float16(
        self, store: featstore.Store, meta: pd.DataFrame, array: Save, saved: Save, rng: np.random.Generator
    ) -> None:
        tokens = rng.normal(size=(6, 5, 7)).astype(np.float16)
        result = store.import_features(array(tokens), name="f", index=saved(meta), in_order=True)
        assert (result.shape, result.dtype) == ((5, 7), "float16")
        assert same(read(store), [f"f/{key}" for key in meta["key"]], tokens)

    def test_other_orders_and_widths(
        self, store: featstore.Store, meta: pd.DataFrame, array: Save, saved: Save, rng: np.random.Generator
    ) -> None:
        wide = np.asfortranarray(rng.normal(size=(6, 5)).astype(">f8"))
        result = store.import_features(array(wide), name="f", index=saved(meta), in_order=True)
        assert (result.dtype, result.source_dtype) == ("float32", "float64")
        assert same(read(store), [f"f/{key}" for key in meta["key"]], wide.astype(np.float32))

    def test_what_is_no_vectors(self, store: featstore.Store, tmp_path: Path, array: Save) -> None:
        options = {"name": "f", "in_order": True, "patient_id": "{sample_key}", "modality": "A"}
        header = b"\x93NUMPY\x01\x00"
        huge = "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 512), }"
        files = {
            "objects.npy": None, "empty.npy": b"", "text.npy": b"a,b\n1,2\n", "cut.npy": header,
            "huge.npy": header + (len(huge) + 1).to_bytes(2, "little") + huge.encode() + b"\n",
            "long.npy": b"\x93NUMPY\x02\x00" + (1 << 30).to_bytes(4, "little") + b" " * 20_000,
        }  # fmt: skip
        for name, data in files.items():
            path = tmp_path / name
            if data is None:
                np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
            else:
                path.write_bytes(data)
            with pytest.raises(InputError, match=name):
                store.import_features(path, **options)
        for values in (np.zeros((2, 3), np.int64), np.zeros((0, 3), np.float32), np.zeros((2, 0), np.float32),
                       np.zeros((2, 3, 4, 5), np.float32), np.zeros((2, 3), np.complex64)):  # fmt: skip
            with pytest.raises(InputError):
                store.import_features(array(values), **options)
        with pytest.raises(NotFoundError):
            store.import_features(tmp_path / "none.npy", **options)
        with pytest.raises(UsageError, match="ends with none of"):
            store.import_features(array(np.zeros((1, 2), np.float32)).rename(tmp_path / "x.pt"), **options)


class TestTables:
    def frame(self, meta: pd.DataFrame, vectors: np.ndarray, prefix: str) -> pd.DataFrame:
        """With wide columns in the order of their names as text, not of their numbers."""
        wide = pd.DataFrame({f"{prefix}{i}": vectors[:, i] for i in sorted(range(vectors.shape[1]), key=str)})
        return pd.concat([meta, wide], axis=1)

    @pytest.mark.parametrize(
        ("prefix", "name"), [("features_", "x.csv"), ("", "x.csv"), ("f", "x.parquet"), ("latent.", "x.parquet")]
    )
    def test_numbered_columns(
        self, store: featstore.Store, meta: pd.DataFrame, saved: Save, prefix: str, name: str,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        vectors = rng.normal(size=(6, 12)).astype(np.float32)
        store.import_features(saved(self.frame(meta, vectors, prefix), name), name="f")
        assert same(read(store), [f"f/{key}" for key in meta["key"]], vectors)
        assert {row["patient_id"] for row in rows(store, "SELECT * FROM samples")} == set(IDS)

    def test_file_and_index_in_different_orders(
        self, store: featstore.Store, meta: pd.DataFrame, vectors: np.ndarray, saved: Save, rng: np.random.Generator
    ) -> None:
        one, other = rng.permutation(6), rng.permutation(6)
        keyed = pd.concat([meta[["key"]], pd.DataFrame(vectors, columns=[f"f{i}" for i in range(5)])], axis=1)
        store.import_features(saved(keyed.iloc[one], "x.csv"), name="f", index=saved(meta.iloc[other]))
        assert same(read(store), [f"f/{key}" for key in meta["key"]], vectors)
        found = {row["sample_key"]: row["patient_id"] for row in rows(store, "SELECT * FROM samples")}
        assert found == dict(zip([f"f/{key}" for key in meta["key"]], meta["patient_id"], strict=True))

    def test_keys_that_differ_are_told(
        self, store: featstore.Store, meta: pd.DataFrame, vectors: np.ndarray, saved: Save
    ) -> None:
        keyed = self.frame(meta[["key"]], vectors, "f")
        for index, words in (
            (meta[:-1], "not in the index: 'p2/x 5.png'"),
            (pd.concat([meta, meta[:1].assign(key="z/new.png")]), "not in it: 'z/new.png'"),
            (pd.concat([meta, meta[:1]]), "index, 1 key stands more than once: '007/x 0.png'"),
        ):
            with pytest.raises(ConflictError, match=words):
                store.import_features(saved(keyed, "x.csv"), name="f", index=saved(index))
        twice = saved(pd.concat([keyed, keyed]), "x.csv")
        with pytest.raises(ConflictError, match=r"In x.csv, 6 keys stand more than once: '007/x 0.png', .*and 1 more"):
            store.import_features(twice, name="f", index=saved(meta))
        saved(keyed, "x.csv")
        with pytest.raises(UsageError, match="names its rows by 'key'"):
            store.import_features(saved(keyed, "x.csv"), name="f", index=saved(meta.rename(columns={"key": "k"})))
        assert not rows(store, "SELECT * FROM samples")

    def test_columns_that_disagree(
        self, store: featstore.Store, meta: pd.DataFrame, vectors: np.ndarray, saved: Save
    ) -> None:
        file = saved(self.frame(meta, vectors, "f"), "x.csv")
        with pytest.raises(ConflictError, match="label is '0' by the source and '5' by the index"):
            store.import_features(file, name="f", index=saved(meta.assign(label=5)))

    @pytest.mark.parametrize("kind", ["fixed", "list", "large", "float16", "float64"])
    def test_list_columns(
        self, store: featstore.Store, meta: pd.DataFrame, vectors: np.ndarray, tmp_path: Path, kind: str
    ) -> None:
        value = {"float16": pa.float16(), "float64": pa.float64()}.get(kind, pa.float32())
        vectors = vectors.astype(value.to_pandas_dtype())
        type_ = {"list": pa.list_(value), "large": pa.large_list(value)}.get(kind, pa.list_(value, 5))
        table = pa.Table.from_pandas(meta, preserve_index=False)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 5)
        table = table.append_column("embedding", pa.chunked_array([flat]).cast(type_))
        pq.write_table(table, tmp_path / "x.parquet")
        result = store.import_features(tmp_path / "x.parquet", name="f")
        expected = vectors.astype(np.float32) if kind == "float64" else vectors
        assert result.dtype == str(expected.dtype)
        assert same(read(store), [f"f/{key}" for key in meta["key"]], expected)

    def test_the_shape_that_a_column_says(
        self, store: featstore.Store, meta: pd.DataFrame, tmp_path: Path, rng: np.random.Generator
    ) -> None:
        tokens = rng.normal(size=(6, 3, 4)).astype(np.float16)
        column = pa.FixedSizeListArray.from_arrays(pa.array(tokens.ravel()), 12)
        field = pa.field("features", column.type, metadata={b"shape": json.dumps([3, 4]).encode()})
        table = pa.Table.from_pandas(meta, preserve_index=False).append_column(field, column)
        pq.write_table(table, tmp_path / "x.parquet")
        store.import_features(tmp_path / "x.parquet", name="f")
        assert same(read(store), [f"f/{key}" for key in meta["key"]], tokens)

    def test_a_row_without_a_vector_fails(
        self, store: featstore.Store, meta: pd.DataFrame, vectors: np.ndarray, tmp_path: Path
    ) -> None:
        lists = [None, *vectors[1:].tolist()]
        for name, type_ in (("fixed", pa.list_(pa.float32(), 5)), ("list", pa.list_(pa.float32()))):
            table = pa.Table.from_pandas(meta, preserve_index=False).append_column("v", pa.array(lists, type_))
            pq.write_table(table, tmp_path / f"{name}.parquet")
            result = store.import_features(tmp_path / f"{name}.parquet", name=name, new_samples=True)
            assert (result.added, result.failed) == (5, 1)

    def test_lists_of_different_lengths(self, store: featstore.Store, tmp_path: Path) -> None:
        table = pa.table({"key": ["a", "b"], "v": pa.array([[1.0, 2.0], [1.0]], pa.list_(pa.float32()))})
        pq.write_table(table, tmp_path / "x.parquet")
        with pytest.raises(InputError, match="different lengths: 2 and 1"):
            store.import_features(tmp_path / "x.parquet", name="f", patient_id="{sample_key}", modality="A")

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            (["f0", "f1", "f3"], "lack the numbers 2"),
            (["f1", "f2"], "lack the numbers 0"),
            (["f0", "f999999999"], "lack the numbers 1, 2, 3"),
            (["pc0", "pc1", "u0", "u1"], "Several series"),
            (["features_0", "features_1", "f0", "f1"], "Several series"),
            (["f0", "f00", "f1"], "have one number"),
            (["age", "height"], "no columns of vectors"),
        ],
    )
    def test_columns_that_could_be_anything(
        self, store: featstore.Store, saved: Save, columns: list[str], words: str
    ) -> None:
        frame = pd.DataFrame({"key": ["a", "b"], **dict.fromkeys(columns, 0.5)})
        for name in ("x.csv", "x.parquet"):
            with pytest.raises(UsageError, match=words):
                store.import_features(saved(frame, name), name="f", patient_id="{sample_key}", modality="A")

    def test_columns_that_are_said(self, store: featstore.Store, saved: Save) -> None:
        frame = pd.DataFrame({"key": ["a", "b"], "pc0": [1.5, 2.5], "pc1": [0.0, 1.0], "u0": [9.0, 8.0], "u1": 7.0})
        path = saved(frame, "x.csv")
        store.import_features(path, name="f", vectors="u", patient_id="{sample_key}", modality="A")
        assert same(read(store), ["f/a", "f/b"], np.array([[9, 7], [8, 7]], np.float32))
        assert dict(rows(store, "SELECT * FROM samples ORDER BY 1")[0]["attributes"]) == {"pc0": "1.5", "pc1": "0.0"}

    def test_text_among_numbers(self, store: featstore.Store, tmp_path: Path) -> None:
        (tmp_path / "x.csv").write_text("key,f0,f1\na,1.0,2.0\nb,one,3.0\n")
        with pytest.raises(InputError, match="one"):
            store.import_features(tmp_path / "x.csv", name="f", patient_id="{sample_key}", modality="A")

    def test_damaged_tables(self, store: featstore.Store, meta: pd.DataFrame, vectors: np.ndarray, saved: Save) -> None:
        path = saved(self.frame(meta, vectors, "f"), "x.parquet")
        whole = path.read_bytes()
        middle = bytearray(whole)
        middle[4:200] = bytes(196)
        for data in (whole[:-40], bytes(middle), b"", b"PAR1"):
            path.write_bytes(data)
            with pytest.raises(InputError, match=r"x\.parquet"):
                store.import_features(path, name="f")
        assert not rows(store, "SELECT * FROM samples")
        assert not list((store.path / "features").iterdir())

    def test_every_float32_survives_its_text(
        self, store: featstore.Store, saved: Save, rng: np.random.Generator
    ) -> None:
        bits = rng.integers(0, 2**32, 40_000, dtype=np.uint32).view(np.float32)
        values = bits[np.isfinite(bits)][:30_000].reshape(-1, 3)
        frame = pd.DataFrame({f"f{i}": values[:, i] for i in range(3)})
        frame.insert(0, "key", [f"k{n}" for n in range(len(values))])
        store.import_features(saved(frame, "x.csv"), name="f", patient_id="one", modality="A")
        assert same(read(store), [f"f/k{n}" for n in range(len(values))], values)


class TestHdf5:
    def test_features_and_labels(
        self, store: featstore.Store, vectors: np.ndarray, tmp_path: Path, rng: np.random.Generator
    ) -> None:
        keys = [f"ds/{patient}.png" for patient in IDS]
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.create_dataset("features", data=vectors, chunks=(2, 5), compression="gzip")
            file["labels"] = np.arange(6)
            file["sample_key"] = np.array(keys, dtype=h5py.string_dtype())
            file["patient_id"] = np.array(IDS, dtype=h5py.string_dtype())
            file["DT"] = np.linspace(0, 1, 6)
        store.import_features(tmp_path / "x.h5", name="f", modality="A")
        assert same(read(store), keys, vectors)
        found = {row["sample_key"]: row for row in rows(store, "SELECT * FROM samples")}
        assert [found[key]["label"] for key in keys] == list("012345")
        assert [found[key]["patient_id"] for key in keys] == IDS
        assert [dict(found[key]["attributes"]) for key in keys] == [
            {"DT": repr(x)} for x in np.linspace(0, 1, 6).tolist()
        ]

    def test_partitions_become_splits(self, store: featstore.Store, tmp_path: Path, rng: np.random.Generator) -> None:
        train, valid = rng.normal(size=(11, 4)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
        with h5py.File(tmp_path / "x_latents.h5", "w") as file:
            file["train"], file["valid"] = train, valid
        options = {"name": "f", "modality": "SST"}
        with pytest.raises(UsageError, match="Nothing says which sample"):
            store.import_features(tmp_path / "x_latents.h5", **options)
        result = store.import_features(tmp_path / "x_latents.h5", in_order=True, **options)
        assert result.in_order
        keys = [f"f/x_latents.h5#/train/{n}" for n in range(11)]
        others = [f"f/x_latents.h5#/valid/{n}" for n in range(3)]
        assert same(read(store), keys + others, np.concatenate([train, valid]))
        found = {row["sample_key"]: row for row in rows(store, "SELECT * FROM samples")}
        assert {found[key]["split"] for key in keys} == {"train"}
        assert {found[key]["split"] for key in others} == {"valid"}
        assert all(row["patient_id"] == key for key, row in found.items())

    def test_partitions_by_row_numbers(
        self, store: featstore.Store, tmp_path: Path, saved: Save, rng: np.random.Generator
    ) -> None:
        train, valid = rng.normal(size=(2, 4)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["train"], file["valid"] = train, valid
        index = pd.DataFrame(
            {"id": list("abcde"), "row": [1, 0, 2, 0, 1], "partition": ["valid", "train", "valid", "valid", "train"]}
        )
        store.import_features(tmp_path / "x.h5", name="f", modality="A", index=saved(index))
        assert same(read(store), ["f/a", "f/b", "f/c", "f/d", "f/e"],
                    np.stack([valid[1], train[0], valid[2], valid[0], train[1]]))  # fmt: skip
        with pytest.raises(UsageError, match="doesn't say which one"):
            store.import_features(
                tmp_path / "x.h5", name="g", modality="A", index=saved(index.drop(columns="partition"))
            )
        beyond = index.assign(row=[1, 2, 2, 0, 1])
        with pytest.raises(ConflictError, match="not in it: '2'"):
            store.import_features(tmp_path / "x.h5", name="g", modality="A", index=saved(beyond))

    def test_partitions_with_keys_and_metadata(
        self, store: featstore.Store, tmp_path: Path, rng: np.random.Generator
    ) -> None:
        arrays = {
            "train": rng.normal(size=(2, 4)).astype(np.float16),
            "valid": rng.normal(size=(1, 4)).astype(np.float16),
        }
        text = {"train": [["d/1", "007", "A", "1"], ["d/2", "8", "A", ""]], "valid": [["d/0", "9", "P", "2"]]}
        with h5py.File(tmp_path / "x.h5", "w") as file:
            for name, values in arrays.items():
                file[name] = values
                meta = file.create_dataset(
                    f"{name}_metadata", data=np.array(text[name], object), dtype=h5py.string_dtype()
                )
                meta.attrs["columns"] = ["sample_key", "patient_id", "modality", "label"]
        store.import_features(tmp_path / "x.h5", name="f")
        assert same(read(store), ["d/1", "d/2", "d/0"], np.concatenate(list(arrays.values())))
        found = {row["sample_key"]: row for row in rows(store, "SELECT * FROM samples")}
        assert [(found[k]["patient_id"], found[k]["split"], found[k]["label"]) for k in ("d/1", "d/2", "d/0")] == [
            ("007", "train", "1"), ("8", "train", None), ("9", "valid", "2"),
        ]  # fmt: skip
        with h5py.File(tmp_path / "y.h5", "w") as file:
            file["train"] = arrays["train"]
            file["train_sample_key"] = np.array(["e/1", "e/2"], dtype=h5py.string_dtype())
        store.import_features(tmp_path / "y.h5", name="g", modality="A")
        assert same(read(store, "g"), ["e/1", "e/2"], arrays["train"])

    def test_links_to_other_files_are_refused(
        self, store: featstore.Store, tmp_path: Path, vectors: np.ndarray
    ) -> None:
        with h5py.File(tmp_path / "secret.h5", "w") as file:
            file["features"] = vectors
        with h5py.File(tmp_path / "link.h5", "w") as file:
            file["features"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "features")
        with h5py.File(tmp_path / "virtual.h5", "w") as file:
            layout = h5py.VirtualLayout((6, 5), np.float32)
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "features", (6, 5))
            file.create_virtual_dataset("features", layout)
        (tmp_path / "raw").write_bytes(vectors.tobytes())
        with h5py.File(tmp_path / "external.h5", "w") as file:
            file.create_dataset("features", (6, 5), np.float32, external=[(str(tmp_path / "raw"), 0, 120)])
        for name, words in (("link", "is a link"), ("virtual", "or files"), ("external", "or files")):
            with pytest.raises(InputError, match=words):
                store.import_features(tmp_path / f"{name}.h5", name="f", in_order=True)

    def test_absurd_claims(self, store: featstore.Store, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "unwritten.h5", "w") as file:
            file.create_dataset("features", (10**9, 512), np.float32, chunks=(64, 512))
        with h5py.File(tmp_path / "bomb.h5", "w") as file:
            big = file.create_dataset("features", (10**9, 512), np.float32, chunks=(64, 512), compression="gzip")
            big[:64] = 1
        (tmp_path / "cut.h5").write_bytes((tmp_path / "bomb.h5").read_bytes()[:700])
        (tmp_path / "text.h5").write_text("no HDF5 at all")
        for name in ("unwritten", "bomb", "cut", "text"):
            with pytest.raises(InputError, match=f"{name}.h5"):
                store.import_features(tmp_path / f"{name}.h5", name="f", in_order=True)


class TestPatches:
    @pytest.mark.parametrize("style", ["clam", "trident", "stamp"])
    def test_slides(self, store: featstore.Store, tmp_path: Path, rng: np.random.Generator, style: str) -> None:
        folder, expected = tmp_path / "slides", {}
        folder.mkdir()
        for slide, count in (("S 007", 4), ("S8", 3)):
            features = rng.normal(size=(count, 6)).astype(np.float16)
            coords = np.array([[512 * n, 1024] for n in range(count)])
            with h5py.File(folder / f"{slide}.h5", "w") as file:
                if style == "clam":
                    file["features"], file["coords"] = features, coords
                    file["coords"].attrs["patch_size"] = 256
                elif style == "trident":
                    file["features"], file["coords"] = features[None], coords[None]
                    file["coords"].attrs.update({"patch_size_level0": 512, "name": slide})
                else:
                    file["feats"], file["coords"] = features, coords.astype(np.float64) + 0.5
                    file.attrs.update({"extractor": "ctranspath", "tile_size_um": 256.0})
            shift = ".5" if style == "stamp" else ""
            expected |= {f"f/{slide}.h5#x={512 * n}{shift}&y=1024{shift}": features[n] for n in range(count)}
        store.import_features(folder, name="f", layout="{patient_id}.h5", modality="HE")
        assert same(read(store), list(expected), np.stack(list(expected.values())))
        found = rows(store, "SELECT patient_id, attributes FROM samples ORDER BY sample_key")
        assert {row["patient_id"] for row in found} == {"S 007", "S8"}
        attributes = dict(found[0]["attributes"])
        assert attributes == {
            "clam": {"patch_size": "256"}, "trident": {"patch_size_level0": "512", "name": "S 007"},
            "stamp": {"extractor": "ctranspath", "tile_size_um": "256.0"},
        }[style]  # fmt: skip

    def test_one_slide_and_an_index_of_slides(
        self, store: featstore.Store, tmp_path: Path, saved: Save, rng: np.random.Generator
    ) -> None:
        (tmp_path / "s").mkdir()
        for slide in ("one", "two"):
            with h5py.File(tmp_path / "s" / f"{slide}.h5", "w") as file:
                file["features"], file["coords"] = rng.normal(size=(2, 3)).astype(np.float32), [[0, 0], [0, 9]]
        index = pd.DataFrame({"file": ["two", "one"], "patient_id": ["p2", "p1"], "label": ["b", "a"]})
        store.import_features(tmp_path / "s", name="f", index=saved(index), modality="HE")
        found = {row["sample_key"]: row for row in rows(store, "SELECT * FROM samples")}
        assert found["f/one.h5#x=0&y=9"]["patient_id"] == "p1"
        assert found["f/two.h5#x=0&y=0"]["label"] == "b"
        store.import_features(tmp_path / "s/one.h5", name="g", layout="{patient_id}.h5", modality="HE")
        assert sorted(read(store, "g")) == ["g/one.h5#x=0&y=0", "g/one.h5#x=0&y=9"]
        with pytest.raises(ConflictError, match=r"lacks 1 of the folder's 2: 'one.h5'"):
            store.import_features(tmp_path / "s", name="h", index=saved(index[:1]), modality="HE")

    def test_coordinates_that_stand_twice(self, store: featstore.Store, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["features"], file["coords"] = np.zeros((3, 2), np.float32), [[0, 0], [1, 1], [0, 0]]
        with pytest.raises(InputError, match="stand more than once, such as x=0&y=0"):
            store.import_features(tmp_path / "x.h5", name="f", layout="{patient_id}.h5", modality="HE")


class TestTrees:
    @pytest.fixture
    def tree(self, tmp_path: Path, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """S4's: an array (slices, dim) a patient, and a CSV a modality."""
        arrays = {}
        for modality in ("A", "P"):
            lines = []
            for patient, split, label, slices in (("007", "train", 1, 3), ("7", "val", 2, 12), ("p 1", "test", 1, 1)):
                path = f"{split}/{modality}/grade{label}/{patient}.npy"
                arrays[path] = rng.normal(size=(slices, 4)).astype(np.float32)
                (tmp_path / "features" / path).parent.mkdir(parents=True, exist_ok=True)
                np.save(tmp_path / "features" / path, arrays[path])
                lines.append(f"{patient},/old/disk/features/{path},{label},{slices}\n")
            (tmp_path / f"features_{modality}.csv").write_text(
                "patient_id,feature_path,label,num_slices\n" + "".join(lines)
            )
        return arrays

    def test_by_layout(self, store: featstore.Store, tmp_path: Path, tree: dict[str, np.ndarray]) -> None:
        layout = "{split}/{modality}/grade{label:int}/{patient_id}.npy"
        result = store.import_features(tmp_path / "features", name="f", layout=layout)
        assert (result.added, result.patients_added) == (32, 3)
        keys = [f"f/{path}#row={row}" for path, values in tree.items() for row in range(len(values))]
        assert same(read(store), keys, np.concatenate(list(tree.values())))
        found = rows(
            store, "SELECT patient_id, split, label, modality, count(*) AS n FROM samples GROUP BY ALL ORDER BY ALL"
        )
        assert [tuple(row.values()) for row in found if row["modality"] == "A"] == [
            ("007", "train", "1", "A", 3), ("7", "val", "2", "A", 12), ("p 1", "test", "1", "A", 1),
        ]  # fmt: skip
        # Rows are in natural order in the segment itself.
        where = rows(store, "SELECT sample_key FROM features ORDER BY row")
        slices = [row["sample_key"].rpartition("=")[2] for row in where if "val/A" in row["sample_key"]]
        assert slices == [str(n) for n in range(12)]

    def test_with_its_csv(self, store: featstore.Store, tmp_path: Path, tree: dict[str, np.ndarray]) -> None:
        csv = pd.concat([pd.read_csv(tmp_path / f"features_{m}.csv", dtype=str) for m in ("A", "P")])
        csv.to_csv(tmp_path / "both.csv", index=False)
        layout = "{split}/{modality}/*/*.npy"
        store.import_features(tmp_path / "features", name="f", layout=layout, index=tmp_path / "both.csv")
        assert {row["patient_id"] for row in rows(store, "SELECT * FROM samples")} == {"007", "7", "p 1"}
        csv["num_slices"] = csv["num_slices"].replace("12", "11")
        csv.to_csv(tmp_path / "both.csv", index=False)
        with pytest.raises(ConflictError, match="has 12 rows, and num_slices 11"):
            store.import_features(tmp_path / "features", name="g", layout=layout, index=tmp_path / "both.csv")
        with pytest.raises(ConflictError, match="lacks 3 of the folder's 6"):
            store.import_features(tmp_path / "features", name="g", layout=layout, index=tmp_path / "features_A.csv")

    def test_layout_and_csv_that_disagree(
        self, store: featstore.Store, tmp_path: Path, tree: dict[str, np.ndarray]
    ) -> None:
        csv = pd.concat([pd.read_csv(tmp_path / f"features_{m}.csv", dtype=str) for m in ("A", "P")])
        csv["patient_id"] = csv["patient_id"].str.replace("007", "7")
        csv.to_csv(tmp_path / "both.csv", index=False)
        with pytest.raises(ConflictError, match="patient_id is '007' by the source and '7' by the index"):
            store.import_features(
                tmp_path / "features", name="f", layout="{split}/{modality}/*/{patient_id}.npy",
                index=tmp_path / "both.csv",
            )  # fmt: skip

    def test_rows_by_an_index_of_rows(self, store: featstore.Store, tmp_path: Path, array: Save) -> None:
        one = array(np.arange(6, dtype=np.float32).reshape(3, 2), "t/sub1/train.npy")
        array(np.arange(4, dtype=np.float32).reshape(2, 2) + 10, "t/sub2/train.npy")
        index = pd.DataFrame(
            {"file": ["sub2/train.npy", "sub1/train.npy", "sub1/train.npy", "sub1/train.npy", "sub2/train.npy"],
             "row": [1, 2, 0, 1, 0], "sample_key": ["d/e", "d/c", "d/a", "d/b", "=d"], "patient_id": list("21112"),
             "modality": "A"}
        )  # fmt: skip
        index.replace({"=d": "'=d"}).to_csv(tmp_path / "t/index.csv", index=False)
        store.import_features(tmp_path / "t", name="f")
        expected = np.concatenate([np.load(one), np.load(tmp_path / "t/sub2/train.npy")])
        assert same(read(store), ["d/a", "d/b", "d/c", "=d", "d/e"], expected)

    def test_files_of_other_shapes(self, store: featstore.Store, tmp_path: Path, array: Save) -> None:
        array(np.zeros((2, 3), np.float32), "t/a.npy")
        array(np.zeros((2, 4), np.float32), "t/b.npy")
        with pytest.raises(InputError, match=r"b.npy are float32 \(4,\), those of a.npy"):
            store.import_features(tmp_path / "t", name="f", layout="{patient_id}.npy", modality="A")

    def test_one_vector_a_file(self, store: featstore.Store, tmp_path: Path, array: Save) -> None:
        for name in ("a", "b"):
            array(np.full(3, ord(name), np.float32), f"t/{name}.npy")
        array(np.zeros(3, np.float32), "t/deeper/c.npy")
        result = store.import_features(tmp_path / "t", name="f", layout="{patient_id}.npy", modality="A")
        assert result.unmatched == ["deeper/c.npy"]
        assert same(read(store), ["f/a.npy", "f/b.npy"], np.array([[97] * 3, [98] * 3], np.float32))


class TestClipRetrieval:
    @pytest.fixture
    def parts(self, tmp_path: Path, rng: np.random.Generator) -> np.ndarray:
        vectors = rng.normal(size=(25, 4)).astype(np.float16)
        for folder in ("img_emb", "metadata"):
            (tmp_path / "out" / folder).mkdir(parents=True)
        start = 0
        for part, count in ((0, 2), (1, 3), (2, 9), (10, 11)):
            np.save(tmp_path / f"out/img_emb/img_emb_{part}.npy", vectors[start : start + count])
            paths = [f"/data/img/{n}.jpg" for n in range(start, start + count)]
            frame = pd.DataFrame(
                {"image_path": paths, "caption": [f"é {n}" for n in range(count)], "key": ["k"] * count}
            )
            frame.to_parquet(tmp_path / f"out/metadata/metadata_{part}.parquet")
            start += count
        return vectors

    def test_parts_by_number(self, store: featstore.Store, tmp_path: Path, parts: np.ndarray) -> None:
        result = store.import_features(tmp_path / "out", name="clip", modality="photo")
        assert (result.added, result.key, result.dtype) == (25, "image_path", "float16")
        assert same(read(store, "clip"), [f"clip/data/img/{n}.jpg" for n in range(25)], parts)
        row = rows(store, "SELECT * FROM samples WHERE sample_key = 'clip/data/img/4.jpg'")[0]
        assert row["patient_id"] == "clip/data/img/4.jpg"
        assert dict(row["attributes"]) == {"caption": "é 2", "key": "k"}

    def test_parts_that_differ(self, store: featstore.Store, tmp_path: Path, parts: np.ndarray) -> None:
        np.save(tmp_path / "out/img_emb/img_emb_1.npy", parts[:2])
        with pytest.raises(ConflictError, match=r"img_emb_1.npy has 2 rows, and metadata_1.parquet 3"):
            store.import_features(tmp_path / "out", name="clip", modality="photo")
        (tmp_path / "out/metadata/metadata_1.parquet").unlink()
        with pytest.raises(ConflictError, match=r"img_emb_1\.npy"):
            store.import_features(tmp_path / "out", name="clip", modality="photo")
