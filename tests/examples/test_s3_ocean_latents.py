"""The example's latents are those of plain torch, in the files' order, and no output is ever passed off as another."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.decomposition import PCA

import featstore
from featstore.testing import check_backbone

EXAMPLE = Path(__file__).parents[2] / "examples" / "s3_ocean_latents"
MODULES = ("dt", "inprocess", "latents", "make_tiles", "network", "one_image", "options", "run", "shared")
FILES, SIZES = ("tiles_2018", "tiles_2019"), {"train": 10, "valid": 4}
BUCKET = "example-s3"


@pytest.fixture(scope="module")
def example() -> Iterator[dict[str, ModuleType]]:
    """The example's modules by name; examples are no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE.parent)
        patch.syspath_prepend(EXAMPLE)
        for name in MODULES:
            patch.delitem(sys.modules, name, raising=False)  # another example's
        yield {name: importlib.import_module(name) for name in MODULES}
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def options_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's options, with another range, and read by the process itself: that starts faster."""
    options = json.loads((EXAMPLE / "options.json").read_text())
    options |= {"backbone": f"torch:{EXAMPLE / 'network.py'}:Encoder", "range": [-4, 36], "num_workers": 0}
    file = tmp_path_factory.mktemp("options") / "options.json"
    file.write_text(json.dumps(options))
    return file


@pytest.fixture(scope="module")
def demo(
    s3_server: str, example: dict[str, ModuleType], options_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """What the example leaves, made of small files, and what it says."""
    out = tmp_path_factory.mktemp("ocean") / "demo"
    sizes = ("--files", str(len(FILES)), "--train", str(SIZES["train"]), "--valid", str(SIZES["valid"]))
    with redirect_stdout(io.StringIO()) as said:
        example["run"].main(["--out", str(out), "--bucket", BUCKET, "--options", str(options_file), *sizes])
    return out, said.getvalue()


@pytest.fixture(scope="module")
def store(demo: tuple[Path, str]) -> featstore.Store:
    return featstore.open(demo[0] / "store")


def bucket() -> Any:
    import boto3

    return boto3.resource("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).Bucket(BUCKET)


def output(name: str) -> h5py.File:
    data = io.BytesIO()
    bucket().download_fileobj(f"latents/{name}_latents.h5", data)
    return h5py.File(data)


def tiles_of(out: Path, name: str, partition: str) -> npt.NDArray[np.float32]:
    with h5py.File(out / "data" / f"{name}.h5") as file:
        return file[partition][()]


def plain(checkpoint: Path, tiles: npt.NDArray[Any], network: ModuleType) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """(n, 512) and (n, 128), by torch alone."""
    saved = torch.load(checkpoint, weights_only=True)["model"]
    assert all(name.startswith("module.") for name in saved)
    model = network.Encoder().eval()
    model.load_state_dict({name.removeprefix("module."): value for name, value in saved.items()})
    inputs = torch.from_numpy(np.clip((tiles + 4) / 40, 0, 1) * 2 - 1).float()[:, None]
    with torch.inference_mode():
        inner = model.encoder(inputs)
        return inner.numpy(), model.head(inner).numpy()


def test_the_tiles_are_plausible_and_the_same_for_one_seed(example: dict[str, ModuleType], tmp_path: Path) -> None:
    make_tiles = example["make_tiles"]
    for folder in ("a", "b"):
        make_tiles.main([str(tmp_path / folder), "--files", "1", "--train", "6", "--valid", "2"])
    with h5py.File(tmp_path / "a/tiles_2018.h5") as a, h5py.File(tmp_path / "b/tiles_2018.h5") as b:
        assert sorted(a) == ["train", "train_metadata", "valid", "valid_metadata"]
        for name in a:
            np.testing.assert_array_equal(a[name][()], b[name][()])
        assert a["train"].shape == (6, 64, 64)
        assert a["train"].dtype == np.float32
        assert -1.9 < a["train"][()].min() < a["train"][()].max() < 34
        assert a["train_metadata"].dtype.kind == "S"
        assert list(a["train_metadata"].attrs["columns"])[:3] == [b"lat", b"lon", b"datetime"]


def test_latents_are_plain_torchs_in_the_order_of_the_source(
    demo: tuple[Path, str], example: dict[str, ModuleType]
) -> None:
    for name in FILES:
        with output(name) as made, h5py.File(demo[0] / "data" / f"{name}.h5") as source:
            assert sorted(made) == sorted(source)
            for partition, count in SIZES.items():
                _, expected = plain(demo[0] / "data/encoder.pth", source[partition][()], example["network"])
                assert made[partition].shape == (count, 128)
                np.testing.assert_allclose(made[partition][()], expected, rtol=1e-4, atol=1e-6)
                columns = list(made[f"{partition}_metadata"].attrs["columns"])
                rows = [dict(zip(columns, row, strict=True)) for row in made[f"{partition}_metadata"].asstr()[()]]
                keys = [f"tiles/{name}.h5#/{partition}/{row}" for row in range(count)]
                assert [row["sample_key"] for row in rows] == keys
                told = [[row[c].encode() for c in ("lat", "lon", "datetime")] for row in rows]
                assert told == source[f"{partition}_metadata"][:, :3].tolist()


def test_debugging_takes_a_few_rows_and_uploads_nothing(demo: tuple[Path, str]) -> None:
    with h5py.File(demo[0] / "tiles_2018_latents_debug.h5") as debugged, output("tiles_2018") as made:
        for partition, count in SIZES.items():
            assert len(debugged[partition]) == min(count, 8)
            np.testing.assert_allclose(debugged[partition][()], made[partition][:8], rtol=1e-4, atol=1e-6)
    before_all = demo[1].partition("── All files")[0]
    assert "stays here" in before_all
    assert "is there; the local copy is deleted" not in before_all


def test_what_is_there_is_skipped_and_local_copies_are_gone(demo: tuple[Path, str]) -> None:
    again = demo[1].partition("── All files")[2].partition("── A map")[0]
    for name in FILES:
        assert again.count(f"{name}: there already, skipped.") == 1
    assert sorted(path.name for path in demo[0].glob("*.h5")) == ["tiles_2018_latents_debug.h5"]
    assert {item.key for item in bucket().objects.filter(Prefix="latents/")} == {
        f"latents/{name}_latents.h5" for name in FILES
    }


def test_dt_joins_with_the_latents(demo: tuple[Path, str], store: featstore.Store) -> None:
    rows = store.sql(
        "select sample_key, l.split, d.vector[1] dt, len(l.vector) n from vectors.latents l join vectors.dt d "
        "using (sample_key)"
    ).to_pylist()
    assert len(rows) == len(FILES) * sum(SIZES.values())
    for row in rows:
        name, _, rest = row["sample_key"].removeprefix("tiles/").partition(".h5#/")
        partition, number = rest.split("/")
        centre = tiles_of(demo[0], name, partition)[int(number)][16:48, 16:48].astype(np.float64)
        assert row["dt"] == pytest.approx(np.quantile(centre, 0.9) - np.quantile(centre, 0.1), rel=1e-5)
        assert (row["split"], row["n"]) == (partition, 128)


def test_the_plugin_keeps_every_law() -> None:
    tiles = [np.linspace(a, b, 64 * 65).reshape(64, 65) for a, b in ((3, 5), (-1, 9))]
    check_backbone("ocean:dt", plugins=[str(EXAMPLE / "dt.py")], inputs=tiles)


@pytest.mark.parametrize("tile", [np.zeros((64, 64, 3)), np.zeros((31, 64)), np.full((64, 64), np.nan), "text"])
def test_the_plugin_refuses_what_is_no_tile(example: dict[str, ModuleType], tile: Any) -> None:
    with pytest.raises(featstore.InputError, match="map of temperatures"):
        example["dt"].spread(tile)


def test_one_tile_in_memory_has_the_latents_that_its_row_has(
    demo: tuple[Path, str], store: featstore.Store, example: dict[str, ModuleType], options_file: Path
) -> None:
    options, checkpoint = example["options"].Options.read(options_file), demo[0] / "data/encoder.pth"
    tile = tiles_of(demo[0], "tiles_2019", "valid")[2]
    found = example["one_image"].OneImage(store, options, checkpoint).latents(tile)
    X, _, keys = store.features("latents").arrays()
    stored = X[keys.tolist().index("tiles/tiles_2019.h5#/valid/2")]
    np.testing.assert_allclose(found, stored, rtol=1e-4, atol=1e-6)
    wide, _ = plain(checkpoint, tile[None], example["network"])
    inner = example["one_image"].OneImage(store, replace(options, layer="encoder"), checkpoint).latents(tile)
    assert inner.shape == (512,)
    np.testing.assert_allclose(inner, wide[0], rtol=1e-4, atol=1e-6)


def test_its_place_and_neighbours_are_numpys(
    store: featstore.Store, example: dict[str, ModuleType], demo: tuple[Path, str], options_file: Path
) -> None:
    one_image = example["one_image"]
    options = example["options"].Options.read(options_file)
    tile = np.load(demo[0] / "new_tile.npy")
    latents = one_image.OneImage(store, options, demo[0] / "data/encoder.pth").latents(tile)
    X, _, keys = store.features("latents").arrays()
    X = X.astype(np.float64)
    likeness = X @ latents / np.linalg.norm(X, axis=1) / np.linalg.norm(latents)
    found = one_image.nearest(store, latents, 5).to_pylist()
    np.testing.assert_allclose([row["likeness"] for row in found], np.sort(likeness)[::-1][:5], atol=1e-5)
    for row in found:
        assert row["likeness"] == pytest.approx(likeness[keys.tolist().index(row["tile"])], abs=1e-5)
    train = np.array(["#/train/" in key for key in keys])
    expected = PCA(2, svd_solver="full").fit(X[train]).transform(latents[None].astype(np.float64))[0]
    np.testing.assert_allclose(np.abs(one_image.place(store, latents)), np.abs(expected), rtol=1e-3, atol=1e-5)
    assert "on the map at (" in demo[1]


def test_options_that_are_none_are_refused(example: dict[str, ModuleType], tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text('{"backbone": "torch:network.py:Encoder", "clober": true}')
    with pytest.raises(SystemExit, match=r"has clober; the options are backbone, .*clobber"):
        example["options"].Options.read(tmp_path / "options.json")


def test_a_server_is_started_only_where_none_is_given(
    s3_server: str, example: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with example["run"].s3_server():
        assert os.environ["AWS_ENDPOINT_URL"] == s3_server
    assert capsys.readouterr().out == ""
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    with example["run"].s3_server():
        url = os.environ["AWS_ENDPOINT_URL"]
        assert "127.0.0.1" in url
        assert url != s3_server
        assert url in capsys.readouterr().out
        with urllib.request.urlopen(url) as answer:
            assert b"ListAllMyBucketsResult" in answer.read()


def test_it_is_a_script() -> None:
    done = subprocess.run([sys.executable, EXAMPLE / "run.py", "--help"], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert "raw files to nearest neighbours" in done.stdout


def test_an_output_of_something_else_is_named_and_clobber_makes_it_again(
    demo: tuple[Path, str],
    example: dict[str, ModuleType],
    options_file: Path,
    store: featstore.Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The last one: it changes what the others look at."""
    source, target = f"s3://{BUCKET}/tiles", f"s3://{BUCKET}/latents"
    options = example["options"].Options.read(options_file)
    first = demo[0] / "data/encoder.pth"

    def plan(checkpoint: Path, **changed: Any) -> Any:
        return example["latents"].Batch(replace(options, **changed), source, target, store.path, checkpoint).plan()

    assert plan(first) == ([], [])
    assert plan(first, batch_size=3) == ([], []), "that changes no latents"
    assert plan(first, range=(-2.0, 34.0)) == ([], list(FILES))
    assert plan(first, clobber=True) == (list(FILES), [])
    torch.manual_seed(5)
    other = tmp_path / "other.pth"
    torch.save({"model": torch.nn.DataParallel(example["network"].Encoder()).state_dict()}, other)
    assert plan(other) == ([], list(FILES))
    # One tile of the second file is broken now.
    changed = demo[0] / "data/tiles_2019.h5"
    with h5py.File(changed, "r+") as file:
        file["valid"][1, 30, 30] = np.nan
    bucket().upload_file(str(changed), "tiles/tiles_2019.h5")
    assert plan(first) == ([], ["tiles_2019"])

    words = (options_file, "--source", source, "--output", target, "--store", store.path, "--checkpoint", other)
    left = {item.key: item.e_tag for item in bucket().objects.filter(Prefix="latents/")}
    with pytest.raises(SystemExit, match="1"):
        example["latents"].main(list(map(str, words)))
    said = capsys.readouterr().out
    assert "left alone: tiles_2018, tiles_2019" in said
    assert {item.key: item.e_tag for item in bucket().objects.filter(Prefix="latents/")} == left

    with pytest.raises(SystemExit, match="1"):
        example["latents"].main([*map(str, words), "--clobber"])
    said = capsys.readouterr().out
    assert "latents@v2: 27 tiles extracted, 1 failed" in said
    assert "tiles_2019: 1 of 14 tiles have no latents" in said
    assert "Incomplete: tiles_2019." in said
    for name in FILES:
        with output(name) as made:
            for partition, count in SIZES.items():
                kept = [row for row in range(count) if (name, partition, row) != ("tiles_2019", "valid", 1)]
                _, expected = plain(other, tiles_of(demo[0], name, partition)[kept], example["network"])
                np.testing.assert_allclose(made[partition][()], expected, rtol=1e-4, atol=1e-6)
                columns = list(made[f"{partition}_metadata"].attrs["columns"])
                keys = made[f"{partition}_metadata"].asstr()[:, columns.index("sample_key")].tolist()
                assert keys == [f"tiles/{name}.h5#/{partition}/{row}" for row in kept]
