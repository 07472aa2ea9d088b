"""Which file is which sample's mask, and that none is taken for a sample."""

from __future__ import annotations

from pathlib import Path

import pytest

from featstore.errors import NotFoundError, UsageError
from featstore.ingest import Layout, read_manifest, scan

LAYOUT = "images/{patient_id}/{slice:int}.png"


def found(root: Path, template: str, layout: str = LAYOUT, files: str = "") -> dict[str, str | None]:
    """Sample → its mask."""
    for number, name in enumerate(files.split()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(number + 1))
    result = scan(root, [Layout.parse(layout)], template)
    assert result.masks_told
    for item in result.found:
        if item.mask:
            stat = (root / item.mask.path.partition("#")[0]).stat()
            assert (item.mask.size, item.mask.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    return {item.path: item.mask and item.mask.path for item in result.found} | {
        f"unclaimed {path}": None for path in result.unclaimed
    }


@pytest.mark.parametrize(
    ("template", "mask"),
    [
        ("masks/{patient_id}/{slice}.png", "masks/007/3.png"),
        ("{folder}/{stem}_mask.png", "images/007/3_mask.png"),
        ("{folder}/../{patient_id}.png", "images/007.png"),
        ("{folder}/masks/{stem}.png#label=1,2", "images/007/masks/3.png#label=1,2"),
        ("seg/{stem}.nii.png", "seg/3.nii.png"),
    ],
)
def test_templates(tmp_path: Path, template: str, mask: str) -> None:
    files = f"images/007/3.png images/008/4.png {mask.partition('#')[0]}"
    assert found(tmp_path, template, files=files) == {"images/007/3.png": mask, "images/008/4.png": None}


@pytest.mark.parametrize(
    ("template", "orphan"),
    [
        ("{folder}/{stem}_mask.png", "images/009/1_mask.png"),
        ("{folder}/{stem}_mask.png", "1_mask.png"),
        ("masks/{patient_id}/{slice}.png", "masks/009/1.png"),
        ("{folder}/../{patient_id}_{stem}.png", "images/009_1.png"),
    ],
)
def test_a_mask_without_its_image_is_no_sample(tmp_path: Path, template: str, orphan: str) -> None:
    mask = template.replace("{folder}/../", "images/").replace("{folder}", "images/007")
    mask = mask.replace("{stem}", "3").replace("{slice}", "3").replace("{patient_id}", "007")
    samples = found(tmp_path, template, "**/{patient_id}/{slice}.png", f"images/007/3.png {mask} {orphan}")
    assert samples == {"images/007/3.png": mask, f"unclaimed {orphan}": None}


def test_odd_names(tmp_path: Path) -> None:
    """Of one part, with dots, without an ending, with spaces and beyond ASCII."""
    files = {"a.b.png": "a.b_m.png", "plain": "plain_m.png", "größe 1.png": "größe 1_m.png"}
    for name in [*files, *files.values()]:
        (tmp_path / name).write_bytes(b"x")
    result = scan(tmp_path, [Layout.parse("{patient_id}")], "{folder}/{stem}_m.png")
    assert {item.path: item.mask and item.mask.path for item in result.found} == files


def test_templates_that_find_nothing_or_ask_for_too_much(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"finds no mask: that of 'images/7/1\.png' would be 'images/7/1_seg\.png'"):
        found(tmp_path, "{folder}/{stem}_seg.png", files="images/7/1.png")
    with pytest.raises(UsageError, match=r"asks for \{visit\}, which isn't there"):
        found(tmp_path, "{visit}/{stem}.png")
    with pytest.raises(UsageError, match="its own mask"):
        found(tmp_path, "{folder}/{stem}.png")


def test_manifests(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "seg.png"):
        (tmp_path / name).write_bytes(name.encode())
    text = 'path,patient_id,modality,mask_uri\na.png,1,A,"seg.png#label=1,2"\nb.png,2,A,\n'
    (tmp_path / "m.csv").write_text(text)
    result = read_manifest(tmp_path / "m.csv")
    assert result.masks_told
    assert [item.mask and (item.mask.path, item.mask.size) for item in result.found] == [("seg.png#label=1,2", 7), None]
    assert all("mask_uri" not in item.fields for item in result.found)
    (tmp_path / "m.csv").write_text(text.replace("seg.png", "sag.png"))
    with pytest.raises(NotFoundError, match=r"1 of 2 files of m\.csv aren't there, such as 'sag\.png#label=1,2'"):
        read_manifest(tmp_path / "m.csv")
    (missing, _) = read_manifest(tmp_path / "m.csv", allow_missing=True).found
    assert missing.mask
    assert missing.mask.size == -1
    (tmp_path / "m.csv").write_text("path,patient_id,modality\na.png,1,A\n")
    assert not read_manifest(tmp_path / "m.csv").masks_told
