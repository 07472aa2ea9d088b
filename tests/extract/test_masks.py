"""Region pooling: a mask goes with its sample, and what is wrong with it costs that region's vector alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featstore import ConflictError, UsageError

BOTH = {"backbone": "lab:blocks", "poolers": ("mean", "inside")}


def write_mask(lab: Any, number: int, marked: Any, value: int = 255) -> Path:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[marked] = value
    path: Path = lab.path(number).with_name(f"{number:05}_mask.lab")
    path.write_bytes(pixels.tobytes())
    return path


def ingest(lab: Any) -> Any:
    return lab.store.ingest(
        lab.data, layouts=["{patient_id}/{modality}/*.lab"], mask_layout="{patient_id}/{modality}/{stem}_mask.lab"
    )


@pytest.fixture
def lab(make_lab: Callable[..., Any]) -> Any:
    """Four samples, of which 0 … 2 have masks."""
    made = make_lab(0)
    for number in range(4):
        made.write(number)
    for number in range(3):
        write_mask(made, number, np.s_[: 2 * (number + 1), 3:])
    result = ingest(made)
    assert (result.added, result.masked, result.unmatched) == (4, 3, [])
    return made


def tokens(lab: Any, number: int) -> np.ndarray:
    pixels = np.frombuffer(lab.path(number).read_bytes(), np.uint8).reshape(8, 8).astype(np.float64)
    values = pixels.reshape(4, 2, 4, 2).transpose(0, 2, 1, 3).reshape(16, 4)
    return values + values**2


def expected(lab: Any, number: int, marked: Any) -> np.ndarray:
    mask = np.zeros((8, 8))
    mask[marked] = 1
    weights = mask.reshape(4, 2, 4, 2).mean(axis=(1, 3)).reshape(16, 1)
    return (tokens(lab, number) * weights).sum(0) / weights.sum()


def vectors(lab: Any, name: str) -> dict[str, np.ndarray]:
    return {key: np.frombuffer(value, np.float32) for key, value in lab.vectors(name).items()}


@pytest.mark.parametrize("workers", [0, 1])
def test_pooled_inside_the_mask(lab: Any, workers: int) -> None:
    result = lab.extract(**BOTH, num_workers=workers)
    assert (result.done, result.failed) == (3, 1)
    whole, inside = vectors(lab, "s.mean"), vectors(lab, "s.inside")
    assert list(inside) == [lab.key(number) for number in range(3)]
    for number in range(3):
        reference = expected(lab, number, np.s_[: 2 * (number + 1), 3:])
        np.testing.assert_allclose(inside[lab.key(number)], reference, rtol=1e-5)
    assert lab.failures() == {lab.key(3): ("mask", "InputError", 1)}  # it has none, and a whole vector all the same
    np.testing.assert_allclose(whole[lab.key(3)], tokens(lab, 3).mean(0), rtol=1e-5)
    (row,) = lab.sql(f"SELECT mask_uri FROM samples WHERE sample_key = '{lab.key(1)}'")
    assert row["mask_uri"] == str(lab.path(1).with_name("00001_mask.lab"))


def test_an_empty_mask_is_a_failure(lab: Any) -> None:
    write_mask(lab, 0, np.s_[:0])
    lab.path(1).with_name("00001_mask.lab").write_bytes(b"no mask")
    lab.path(2).with_name("00002_mask.lab").unlink()
    result = lab.extract(**BOTH)
    assert (result.done, result.failed) == (0, 4)
    assert len(vectors(lab, "s.mean")) == 4
    assert not lab.vectors("s.inside")
    masks = [lab.path(number).with_name(f"{number:05}_mask.lab") for number in range(3)]
    messages = {row["sample_key"]: row["message"] for row in lab.store.errors().to_pylist()}
    assert [messages[lab.key(number)] for number in range(4)] == [
        f"{masks[0]}: nothing is marked", f"{masks[1]}: 7 bytes are no image of 64",
        f"{masks[2]}: the file isn't there", "the sample has no mask",
    ]  # fmt: skip


def test_a_mended_mask_is_tried_again_and_an_untouched_one_is_not(lab: Any) -> None:
    write_mask(lab, 0, np.s_[:0])
    lab.extract(**BOTH)
    assert lab.extract(**BOTH).failed_before == 2
    write_mask(lab, 0, np.s_[:3])
    again = lab.extract(**BOTH)
    assert (again.done, again.failed, again.failed_before) == (1, 0, 1)
    np.testing.assert_allclose(vectors(lab, "s.inside")[lab.key(0)], expected(lab, 0, np.s_[:3]), rtol=1e-5)
    write_mask(lab, 3, np.s_[:1])
    assert ingest(lab).masked == 4
    assert lab.extract(**BOTH).done == 1
    assert len(lab.vectors("s.inside")) == 4
    assert lab.failures() == {}


def test_another_mask_is_another_content(lab: Any) -> None:
    lab.extract(**BOTH)
    before = lab.vectors("s.inside")
    write_mask(lab, 1, np.s_[5:])
    changed = ingest(lab)
    assert (changed.added, changed.changed) == (0, 1)
    assert lab.key(1) not in lab.vectors("s.inside")  # never served again
    assert lab.extract(**BOTH).done == 1
    after = vectors(lab, "s.inside")
    np.testing.assert_allclose(after[lab.key(1)], expected(lab, 1, np.s_[5:]), rtol=1e-5)
    assert {key: value for key, value in lab.vectors("s.inside").items() if key != lab.key(1)} == {
        key: value for key, value in before.items() if key != lab.key(1)
    }


def test_masks_stay_when_they_are_not_named(lab: Any) -> None:
    again = lab.store.ingest(lab.data, layouts=["{patient_id}/{modality}/?????.lab"])
    assert (again.added, again.changed, again.masked) == (0, 0, 0)
    assert lab.extract(**BOTH).done == 3


def test_a_mask_that_is_gone_is_none(lab: Any) -> None:
    lab.extract(**BOTH)
    lab.path(1).with_name("00001_mask.lab").unlink()
    changed = ingest(lab)
    assert (changed.changed, changed.masked) == (1, 2)
    assert lab.key(1) not in lab.vectors("s.inside")
    assert lab.extract(**BOTH).failed == 1
    assert lab.failures()[lab.key(1)][0] == "mask"
    assert set(lab.vectors("s.mean")) == {lab.key(number) for number in range(4)}


def test_a_mask_edited_in_its_place_makes_older_regions_stale(lab: Any) -> None:
    """Nobody ingests anew: the next extraction that reads the mask notices, as it does with images."""
    lab.extract(**BOTH)
    write_mask(lab, 1, np.s_[5:])
    lab.extract("t", backbone="lab:blocks", poolers=("inside",), layers=("0",))
    assert lab.key(1) not in lab.vectors("s.inside")
    assert lab.extract(**BOTH).done == 1
    np.testing.assert_allclose(vectors(lab, "s.inside")[lab.key(1)], expected(lab, 1, np.s_[5:]), rtol=1e-5)
    assert len(lab.vectors("t")) == 3


def test_an_older_mask_put_back_is_the_mask(lab: Any) -> None:
    lab.extract(**BOTH)
    path = write_mask(lab, 1, np.s_[5:])
    os.utime(path, ns=(1, 1))
    lab.extract("t", backbone="lab:blocks", poolers=("inside",), layers=("0",))
    assert lab.key(1) in lab.vectors("t")
    assert lab.key(1) not in lab.vectors("s.inside")


@pytest.mark.parametrize("keep", [1, 2])
def test_killed_and_gone_on_with_it_is_as_if_nothing_had_been(make_lab: Callable[..., Any], keep: int) -> None:
    labs = [masked(make_lab, 20, name) for name in ("killed", "calm")]
    labs[0].begun("s", keep=keep, **BOTH)
    results = [lab.extract(**BOTH) for lab in labs]
    assert results[0].resumed
    assert labs[0].vectors("s.inside") == labs[1].vectors("s.inside")
    assert labs[0].chunks("s.inside") == labs[1].chunks("s.inside")
    assert len(labs[0].vectors("s.inside")) == 20


def test_masks_that_change_while_a_run_is_dead_are_not_served(make_lab: Callable[..., Any]) -> None:
    lab = masked(make_lab, 14, "lab").begun("s", keep=1, **BOTH)
    for number in range(14):
        write_mask(lab, number, np.s_[6:], 7)
    assert ingest(lab).changed == 14  # absorbs what the dead run had finished, which is of the older masks
    assert lab.vectors("s.inside") == {}
    while lab.extract(**BOTH).done:
        pass
    found = vectors(lab, "s.inside")
    assert len(found) == 14
    for number in range(14):
        np.testing.assert_allclose(found[lab.key(number)], expected(lab, number, np.s_[6:]), rtol=1e-5)


def test_other_mask_files_end_a_dead_run(make_lab: Callable[..., Any]) -> None:
    lab = masked(make_lab, 14, "lab").begun("s", keep=1, **BOTH)
    for number in range(14):
        old = lab.path(number).with_name(f"{number:05}_mask.lab")
        write_mask(lab, number, np.s_[6:]).rename(old.with_name(f"{number:05}_new.lab"))
    again = lab.store.ingest(
        lab.data, layouts=["{patient_id}/{modality}/?????.lab"], mask_layout="{folder}/{stem}_new.lab"
    )
    assert again.changed == 14
    assert lab.extract(**BOTH).resumed == []
    found = vectors(lab, "s.inside")
    assert len(found) == 14
    for number in range(14):
        np.testing.assert_allclose(found[lab.key(number)], expected(lab, number, np.s_[6:]), rtol=1e-5)


def test_a_mask_that_is_corrected_while_its_run_works_is_not_served(make_lab: Callable[..., Any]) -> None:
    lab = masked(make_lab, 8, "lab")

    def correct(progress: Any) -> None:
        if progress.done == 4:
            write_mask(lab, 0, np.s_[6:])
            assert ingest(lab).changed == 1

    lab.extract(**BOTH, on_progress=correct)
    assert lab.key(0) not in lab.vectors("s.inside")
    assert lab.key(0) in lab.vectors("s.mean")  # the image is what it was
    assert lab.extract(**BOTH).done == 1
    np.testing.assert_allclose(vectors(lab, "s.inside")[lab.key(0)], expected(lab, 0, np.s_[6:]), rtol=1e-5)


def test_masks_without_an_image_are_no_images(make_lab: Callable[..., Any]) -> None:
    lab = masked(make_lab, 3, "lab")
    lab.path(0).unlink()
    found = ingest(lab)
    assert found.unclaimed == ["p000/A/00000_mask.lab"]
    assert len(lab.sql("FROM samples")) == 3


def test_masks_that_were_taken_for_images_are_noticed(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(2)
    write_mask(lab, 0, np.s_[6:])
    lab.ingest()
    with pytest.raises(ConflictError, match=r"1 file\(s\) are in the catalog as samples, and would be masks"):
        ingest(lab)


def test_masks_are_not_taken_for_images_later(lab: Any) -> None:
    with pytest.raises(ConflictError, match=r"3 file\(s\) are masks in the catalog, and would be samples"):
        lab.ingest()


def masked(make_lab: Callable[..., Any], inputs: int, name: str) -> Any:
    lab = make_lab(0, name)
    for number in range(inputs):
        lab.write(number)
        write_mask(lab, number, np.s_[: 1 + number % 7])
    ingest(lab)
    return lab


def test_a_manifest_names_masks_and_labels(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(0)
    for number in range(3):
        lab.write(number)
    mask = write_mask(lab, 0, np.s_[:4], 1)
    labels = np.frombuffer(mask.read_bytes(), np.uint8).reshape(8, 8).copy()
    labels[4:] = 2
    mask.write_bytes(labels.tobytes())
    path = [lab.path(number).relative_to(lab.root) for number in range(3)]
    name = mask.relative_to(lab.root)
    (lab.root / "m.csv").write_text(
        "path,patient_id,modality,mask_uri\n"
        f"{path[0]},p,A,{name}#label=1\n{path[1]},p,A,{name}#label=1,2\n{path[2]},p,A,{name}#label=x\n"
    )
    csv = (lab.root / "m.csv").read_text().splitlines()
    (lab.root / "m.csv").write_text(
        "\n".join([*csv[:2], csv[2].replace(f"{name}#label=1,2", f'"{name}#label=1,2"'), csv[3]])
    )
    assert lab.store.ingest_manifest(lab.root / "m.csv").masked == 3
    result = lab.extract(backbone="lab:blocks", poolers=("inside",))
    assert (result.done, result.failed) == (2, 1)
    found = vectors(lab, "s")
    np.testing.assert_allclose(found[f"m/{path[0].as_posix()}"], expected(lab, 0, np.s_[:4]), rtol=1e-5)
    np.testing.assert_allclose(found[f"m/{path[1].as_posix()}"], tokens(lab, 1).mean(0), rtol=1e-5)
    (failure,) = lab.store.errors().to_pylist()
    assert "names no label" in failure["message"]


def test_what_has_no_geometry_or_grid_is_refused_before_any_work(lab: Any) -> None:
    with pytest.raises(ConflictError, match="can't pool inside masks"):
        lab.extract(backbone="lab:stats", poolers=("inside",))
    assert lab.forwards() == []


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{patient_id}/{modality}/{stem}.lab", "its own mask"),
        ("masks/{stem}.lab", "finds no mask: that of 'p000/A/00000.lab' would be 'masks/00000.lab'"),
        ("{folder}/{stam}_mask.lab", "Did you mean 'stem'"),
    ],
)
def test_templates_that_cannot_be_right(lab: Any, template: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        lab.store.ingest(lab.data, layouts=["{patient_id}/{modality}/*.lab"], mask_layout=template)
