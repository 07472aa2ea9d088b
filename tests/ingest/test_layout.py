"""Path templates, and walks over trees that people really have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import NotFoundError, UsageError
from featstore.ingest import Layout, scan

PART = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8)


def files(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


class TestMatch:
    @pytest.mark.parametrize(
        ("layout", "path", "fields"),
        [
            ("{site}/fold{fold}/grade{label:int}/{patient_id}/{modality}/*.png", "JM/fold3/grade2/007/A/007_a_1.png",
             {"site": "JM", "fold": "3", "label": "2", "patient_id": "007", "modality": "A"}),
            ("{patient_id}.png", "007.png", {"patient_id": "007"}),
            ("{patient_id}.png", "case #3 (β).png", {"patient_id": "case #3 (β)"}),
            ("{patient_id}.png", "a/007.png", None),
            ("{patient_id}/*.png", "007/.png", {"patient_id": "007"}),
            ("{patient_id}/?.png", "007/1.png", {"patient_id": "007"}),
            ("{patient_id}/?.png", "007/12.png", None),
            ("{patient_id}/{modality}/{patient_id}_*.png", "7/A/7_1.png", {"patient_id": "7", "modality": "A"}),
            ("{patient_id}/{modality}/{patient_id}_*.png", "7/A/8_1.png", None),
            ("{patient_id}_{modality}.png", "p_1_A.png", {"patient_id": "p", "modality": "1_A"}),
            ("{patient_id}/**/*.png", "7/x.png", {"patient_id": "7"}),
            ("{patient_id}/**/*.png", "7/a/b/x.png", {"patient_id": "7"}),
            ("**/{patient_id}/*.png", "a/b/7/x.png", {"patient_id": "7"}),
            ("**", "a/b/c", {}),
            ("{patient_id}/**", "7/a/b", {"patient_id": "7"}),
            ("a.b+c(d)[e]^$/{patient_id}.png", "a.b+c(d)[e]^$/7.png", {"patient_id": "7"}),
            ("a.b/{patient_id}.png", "aXb/7.png", None),
            ("grade{label:float}/{patient_id}.png", "grade-1.5e3/7.png", {"label": "-1.5e3", "patient_id": "7"}),
            ("grade{label:float}/{patient_id}.png", "grade1.2.3/7.png", None),
            ("grade{label:int}/{patient_id}.png", "gradeX/7.png", None),
            ("/{patient_id}.png/", "7.png", {"patient_id": "7"}),
            ("{patient_id}.png", "a\nb.png", {"patient_id": "a\nb"}),
            ("{patient_id}.png", "7.png\n", None),
            ("{patient_id}.PNG", "7.png", None),
        ],
    )  # fmt: skip
    def test_cases(self, layout: str, path: str, fields: dict[str, str] | None) -> None:
        assert Layout.parse(layout).match(path) == fields

    @given(PART, PART, PART)
    def test_what_is_written_is_read(self, site: str, patient: str, name: str) -> None:
        layout = Layout.parse("{site}/x-{patient_id}/*.png")
        assert layout.match(f"{site}/x-{patient}/{name}.png") == {"site": site, "patient_id": patient}

    def test_fields_and_label_type(self) -> None:
        layout = Layout.parse("{site}/{label:float}/{patient_id}.png")
        assert layout.fields == ("site", "label", "patient_id")
        assert layout.label_type == "float"
        assert Layout.parse("{label}/{patient_id}.png").label_type == "str"
        assert Layout.parse("{patient_id}.png").label_type is None

    @pytest.mark.parametrize(
        ("layout", "message"),
        [
            ("{patient_id", "brace without its partner"),
            ("patient_id}", "brace without its partner"),
            ("{{patient_id}}", "brace without its partner"),
            ("{}", "bad field {}"),
            ("{Patient}", "bad field {Patient}"),
            ("{patient id}", "bad field"),
            ("{label:itn}", "type 'itn'. Did you mean 'int'"),
            ("{label:bool}", "one of: str, int, float"),
        ],
    )
    def test_bad(self, layout: str, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            Layout.parse(layout)
        assert message in str(caught.value)


class TestScan:
    def test_first_match_wins_and_the_unmatched_are_reported(self, tmp_path: Path) -> None:
        files(tmp_path, "JM/fold1/7/x.png", "KD/8/y.png", "notes.txt", "KD/8/deep/er/z.png")
        found = scan(
            tmp_path, [Layout.parse("{site}/fold{fold}/{patient_id}/*"), Layout.parse("{site}/{patient_id}/*")]
        )
        assert [(f.path, f.fields) for f in found.found] == [
            ("JM/fold1/7/x.png", {"site": "JM", "fold": "1", "patient_id": "7"}),
            ("KD/8/y.png", {"site": "KD", "patient_id": "8"}),
        ]
        assert sorted(found.unmatched) == ["KD/8/deep/er/z.png", "notes.txt"]
        both = [Layout.parse("{a}/{b}.png"), Layout.parse("{patient_id}/{b}.png")]
        assert list(scan(files(tmp_path / "two", "x/y.png"), both).found[0].fields) == ["a", "b"]

    def test_stat_is_that_of_the_file(self, tmp_path: Path) -> None:
        files(tmp_path, "7.png")
        (found,) = scan(tmp_path, [Layout.parse("{patient_id}.png")]).found
        stat = (tmp_path / "7.png").stat()
        assert (found.size, found.mtime_ns) == (stat.st_size, stat.st_mtime_ns)

    def test_names_that_people_have(self, tmp_path: Path) -> None:
        names = ["007", "7", "Müller, Jörg", "日本", "case #3", "100%", 'it\'s "x"', "a{b}", "-x", "a*b"]
        files(tmp_path, *(f"{name}/A/1.png" for name in names))
        found = scan(tmp_path, [Layout.parse("{patient_id}/{modality}/*.png")]).found
        assert sorted(f.fields["patient_id"] for f in found) == sorted(names)

    def test_hidden_files_and_folders_are_skipped(self, tmp_path: Path) -> None:
        files(tmp_path, "7/x.png", "7/.DS_Store", "7/._x.png", ".git/y.png")
        found = scan(tmp_path, [Layout.parse("{patient_id}/*")])
        assert [f.path for f in found.found] == ["7/x.png"]
        assert found.unmatched == []

    def test_links_are_followed_but_not_in_circles(self, tmp_path: Path) -> None:
        root = files(tmp_path / "data", "all/7/x.png")
        (root / "all/7/up").symlink_to(root, target_is_directory=True)
        (root / "all/self").symlink_to("self")
        (root / "train").mkdir()
        (root / "train/7").symlink_to(root / "all/7", target_is_directory=True)
        (root / "train/8").symlink_to(files(tmp_path / "elsewhere", "y.png"), target_is_directory=True)
        found = scan(root, [Layout.parse("train/{patient_id}/*.png")])
        assert [f.path for f in found.found] == ["train/7/x.png", "train/8/y.png"]
        assert "all/self" in found.unmatched

    def test_a_link_to_nowhere_is_a_file_that_isnt_there(self, tmp_path: Path) -> None:
        files(tmp_path, "7/x.png")
        (tmp_path / "7/y.png").symlink_to("nowhere.png")
        found = scan(tmp_path, [Layout.parse("{patient_id}/*.png")]).found
        assert [(f.path, f.size) for f in found] == [("7/x.png", 7), ("7/y.png", -1)]

    def test_pipes_and_sockets_are_no_files(self, tmp_path: Path) -> None:
        files(tmp_path, "7/x.png")
        os.mkfifo(tmp_path / "7/y.png")
        assert [f.path for f in scan(tmp_path, [Layout.parse("{patient_id}/*")]).found] == ["7/x.png"]

    def test_the_order_is_that_of_the_names(self, tmp_path: Path) -> None:
        files(tmp_path, *(f"{p}/{n}.png" for p in "cab" for n in "21"))
        found = scan(tmp_path, [Layout.parse("{patient_id}/*.png")]).found
        assert [f.path for f in found] == [f"{p}/{n}.png" for p in "abc" for n in "12"]

    @pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
    def test_a_name_that_isnt_utf8(self, tmp_path: Path) -> None:
        files(tmp_path, "7/x.png")
        with open(os.fsencode(tmp_path) + b"/7/\xff.png", "wb"):
            pass
        with pytest.raises(UsageError, match=r"'7/\\\\xff\.png' isn't UTF-8"):
            scan(tmp_path, [Layout.parse("{patient_id}/*.png")])
        assert scan(tmp_path, [Layout.parse("{patient_id}/x.png")]).unmatched == ["7/\\xff.png"]

    @pytest.mark.parametrize("name", ["x#slice=3.png", "C#/x.png"])
    def test_a_name_that_reads_like_a_part_of_a_file(self, tmp_path: Path, name: str) -> None:
        files(tmp_path, f"7/{name}")
        with pytest.raises(UsageError, match="can't be told from a part of a file"):
            scan(tmp_path, [Layout.parse("{patient_id}/**.png")])

    def test_nothing_matches(self, tmp_path: Path) -> None:
        files(tmp_path, "A/7.png")
        with pytest.raises(
            UsageError, match=r"No file below .* matches '\{patient_id\}\.png'\. The first file there is 'A/7\.png'"
        ):
            scan(tmp_path, [Layout.parse("{patient_id}.png")])
        (tmp_path / "empty").mkdir()
        with pytest.raises(UsageError, match="It holds no files"):
            scan(tmp_path / "empty", [Layout.parse("{patient_id}.png")])

    def test_usage(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="There is no folder"):
            scan(tmp_path / "nowhere", [Layout.parse("{patient_id}.png")])
        with pytest.raises(NotFoundError, match="There is no folder"):
            scan(files(tmp_path, "file") / "file", [Layout.parse("{patient_id}.png")])
        with pytest.raises(UsageError, match="at least one --layout"):
            scan(tmp_path, [])
        with pytest.raises(UsageError, match=r"different types: float, int"):
            scan(tmp_path, [Layout.parse("{label:int}/{patient_id}"), Layout.parse("{label:float}_{patient_id}")])
