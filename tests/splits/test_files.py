"""Schemes come in from CSVs and go out as CSVs: whose row it is, what is refused, and that nothing is lost between."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import featstore
from featstore.errors import ConflictError, FeatstoreError, InputError, LeakageError, NotFoundError, UsageError
from featstore.splits.export import write_scheme
from featstore.splits.files import guard, read_sources, unguard
from featstore.splits.matching import Paths

#: Ids that a spreadsheet, a CSV or a careless program would change.
ODD = ["007", "7", "-1", "=1+1", "'=1", "@x", "é ü", "患者", "a,b", 'q"q', "1e3", "None", "P-1", "p 1", "l\nf"]
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)


def write(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


class TestCells:
    @given(TEXT)
    def test_a_guarded_cell_gives_the_text_back_and_is_no_formula(self, text: str) -> None:
        assert unguard(guard(text)) == text
        assert guard(text)[0] not in "=+-@\t\r"

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
    @given(st.dictionaries(TEXT, st.sampled_from(["train", "val"]), min_size=1, max_size=8))
    def test_what_is_written_is_read(self, tmp_path: Path, splits: dict[str, str]) -> None:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        rows = [["patient_id", "split"], *([guard(patient), split] for patient, split in splits.items())]
        assert write_scheme(folder, {"patients.csv": rows}) == {"patients.csv": len(splits)}
        (file,) = read_sources([folder / "patients.csv"])
        assert [(e.who, e.split) for e in file.entries] == list(splits.items())


class TestReading:
    @pytest.mark.parametrize(
        ("content", "error", "message"),
        [
            (b"", UsageError, "has no rows"),
            (b"patient_id,split\n", UsageError, "has no rows"),
            (b"patient,split\na,train\n", NotFoundError, "Did you mean 'patient_id'"),
            (b"patient_id;split\na;train\n", NotFoundError, "neither a column"),
            (b"patient_id,label\na,1\n", UsageError, "Nothing says which split"),
            (b"patient_id,patient_id,split\na,b,train\n", UsageError, "two columns 'patient_id'"),
            (b"patient_id,split\n\n\na,train\nb\n", InputError, "Line 5 of s.csv has 1 cells"),
            (b"patient_id,split\na,train\nb,\n", UsageError, "Line 3 of s.csv has no split"),
            (b'patient_id,split\n"a\nb",train\n,val\n', UsageError, "Line 4 of s.csv has no patient_id"),
            (b"patient_id,split\n\xff,train\n", InputError, "can't be read as CSV"),
            (b'patient_id,split\n"a"b,train\n', InputError, "can't be read as CSV"),
        ],
    )
    def test_refused(self, tmp_path: Path, content: bytes, error: type[FeatstoreError], message: str) -> None:
        (tmp_path / "s.csv").write_bytes(content)
        with pytest.raises(error, match=message):
            read_sources([tmp_path / "s.csv"])

    def test_which_split(self, tmp_path: Path) -> None:
        named = write(tmp_path / "a.csv", [["image_path", "label"], ["x/1.png", "0"]])
        (file,) = read_sources([f"train={named}"])
        assert (file.split, file.by_path, file.entries[0].split, file.entries[0].line) == ("train", True, "train", 2)
        both = write(tmp_path / "k=v.csv", [["patient_id", "split"], ["p", "val"]])
        (file,) = read_sources([both])
        assert file.entries[0].split == "val"
        with pytest.raises(UsageError, match="says another thing"):
            read_sources([f"train={both}"])
        with pytest.raises(NotFoundError, match="no file"):
            read_sources(["train=nowhere.csv"])
        with pytest.raises(UsageError, match="can't be the name of a split"):
            read_sources([f"tr ain={named}"])

    def test_a_byte_order_mark_and_spaces_in_the_header(self, tmp_path: Path) -> None:
        (tmp_path / "s.csv").write_bytes("\ufeffpatient_id , split\n007,train\n".encode())
        assert read_sources([tmp_path / "s.csv"])[0].entries[0].who == "007"


class TestPaths:
    SAMPLES = [
        {"sample_key": f"jm/{path}", "uri": f"/data/jm/{path}", "root": "/data/jm"}
        for path in ("p1/A/s_0.png", "p1/A/s_1.png", "p1/P/s_0.png", "p2/A/s_0.png")
    ] + [{"sample_key": "tiles/f.h5#/valid/2", "uri": "s3://b/tiles/f.h5#/valid/2", "root": "s3://b/tiles"}]

    @pytest.mark.parametrize(
        ("path", "found"),
        [
            ("/data/jm/p1/A/s_1.png", [1]),
            ("jm/p1/P/s_0.png", [2]),
            ("p2/A/s_0.png", [3]),
            ("./p2/A/s_0.png", [3]),
            ("P/s_0.png", [2]),
            ("A/s_0.png", [0, 3]),
            ("s_0.png", [0, 2, 3]),
            ("_1.png", []),
            ("/home/alice/else/p1/A/s_1.png", [1]),  # the folder lies elsewhere now
            ("/home/alice/p3/A/s_1.png", []),  # another patient's, though its end occurs here
            ("C:/p1/A/s_9.png", []),
            ("s3://b/tiles/f.h5#/valid/2", [4]),
            ("f.h5#/valid/2", [4]),
            ("", []),
        ],
    )
    def test_found(self, path: str, found: list[int]) -> None:
        assert Paths(self.SAMPLES).find(path) == found

    @given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join), min_size=1, unique=True))
    def test_each_finds_itself(self, paths: list[str]) -> None:
        samples = [{"sample_key": f"d/{p}", "uri": f"/in/{p}", "root": "/in"} for p in paths]
        known = Paths(samples)
        for i, sample in enumerate(samples):
            assert known.find(str(sample["uri"])) == [i]
            assert i in known.find(str(sample["sample_key"]))
            assert i in known.find(paths[i])


@pytest.fixture(scope="module")
def odd(ingest: Any, tmp_path_factory: pytest.TempPathFactory) -> featstore.Store:
    """Patients of odd ids, each with A, and most with P."""
    folder = tmp_path_factory.mktemp("odd")
    rows = [(p, m, "JM", str(i % 2)) for i, p in enumerate(ODD) for m in ("AP" if i % 5 else "A")]
    store: featstore.Store = ingest(featstore.init(folder / "store"), folder / "in", rows)
    return store


class TestThereAndBack:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=5)
    @given(st.lists(st.sampled_from(["fold0", "fold1", "test", None]), min_size=len(ODD), max_size=len(ODD)))
    def test_patients(self, odd: featstore.Store, tmp_path: Path, splits: Any, drawn: list[str | None]) -> None:
        number = len(list(tmp_path.iterdir()))
        given_ = dict(zip(ODD, drawn, strict=True)) | {"007": "fold0", "7": "fold1"}
        asked = {patient: split for patient, split in given_.items() if split is not None}
        rows = [["patient_id", "split"], *([guard(p), s] for p, s in asked.items())]
        file = write(tmp_path / f"{number}.csv", rows)
        made = odd.split(scheme="one", sources=[file], export=tmp_path / f"out{number}", replace=True)
        assert splits(odd, "one") == asked
        assert made.folds == 2
        odd.split(scheme="two", sources=[tmp_path / f"out{number}" / "patients.csv"], replace=True)
        assert splits(odd, "two") == asked
        with open(file, encoding="utf-8") as text:  # what a spreadsheet would open
            assert not any(line[0] in "=+-@" for line in text)

    @pytest.mark.parametrize("relative", [False, True])
    def test_images(self, odd: featstore.Store, tmp_path: Path, splits: Any, relative: bool) -> None:
        odd.split(scheme="ratio", ratios={"train": 0.6, "val": 0.2, "test": 0.2}, stratify="label")
        out = tmp_path / "out"
        made = odd.split(scheme="ratio", export=out, relative=relative)
        assert (made.unchanged, made.version) == (True, 1)
        files = sorted(file.name for file in out.iterdir())
        assert files == sorted([f"{s}_{m}.csv" for s in ("train", "val", "test") for m in "AP"] + ["patients.csv"])
        facts = odd.sql("SELECT uri, label, modality, patient_id FROM samples").to_pylist()
        found = splits(odd, "ratio")
        for name in files[1:]:
            if name == "patients.csv":
                continue
            split, modality = name.removesuffix(".csv").split("_")
            with open(out / name, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            assert made.exported[name] == len(rows)
            ours = [f for f in facts if f["modality"] == modality and found[f["patient_id"]] == split]
            shown = {(f["uri"].rpartition("/")[2] if relative else f["uri"], f["label"]) for f in ours}
            assert {(row["image_path"], row["label"]) for row in rows} == shown
        sources = [f"{name.partition('_')[0]}={out / name}" for name in files if name != "patients.csv"]
        odd.split(scheme=f"back{relative}", sources=sources)
        assert splits(odd, f"back{relative}") == found
        assert odd.split(scheme="ratio", export=out, relative=relative).exported == made.exported

    def test_names_that_begin_as_formulas(self, store: featstore.Store, tmp_path: Path) -> None:
        (tmp_path / "-in").mkdir()
        rows = [["path", "patient_id", "modality", "label"], ["-0.png", "p", "A", "=x"], ["-1.png", "q", "A", "-y"]]
        for row in rows[1:]:
            (tmp_path / "-in" / row[0]).write_bytes(b"x")
        store.ingest_manifest(write(tmp_path / "-in" / "n.csv", rows))
        store.split(ratios={"train": 1.0}, export=tmp_path / "out", relative=True)
        text = (tmp_path / "out" / "train_A.csv").read_text()
        assert text == "image_path,label\n./-0.png,'=x\n./-1.png,'-y\n"
        back = store.split(scheme="back", sources=[f"train={tmp_path}/out/train_A.csv"])
        assert back.counts == {"train": {"": 2}}

    def test_a_folder_with_something_else(self, odd: featstore.Store, tmp_path: Path) -> None:
        out = tmp_path / "out"
        odd.split(scheme="other", ratios={"a": 1.0}, export=out)
        (out / "notes.txt").write_text("mine")
        odd.split(scheme="other", export=out)
        (out / "b_A.csv").write_text("image_path,label\n")
        with pytest.raises(ConflictError, match=r"b_A\.csv isn't of this scheme"):
            odd.split(scheme="other", export=out)
        (out / "b_A.csv").unlink()
        (out / "a_A.csv").write_text("image_path,label\n")
        with pytest.raises(ConflictError, match=r"a_A\.csv differs"):
            odd.split(scheme="other", export=out)
        with pytest.raises(ConflictError, match="is a file"):
            odd.split(scheme="other", export=out / "notes.txt")
        with pytest.raises(NotFoundError, match="Did you mean 'other'"):
            odd.split(scheme="othr", export=out)

    def test_paths_that_do_not_tell_two_data_sets_apart(self, ingest, store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        ingest(store, tmp_path / "one", [("p", "A", "", "1")])
        rows = [["path", "patient_id", "modality"], ["m0.png", "q", "A"]]
        (tmp_path / "two").mkdir()
        (tmp_path / "two" / "m0.png").write_bytes(b"y")
        store.ingest_manifest(write(tmp_path / "two" / "n.csv", rows))
        with pytest.raises(UsageError, match=r"'m0\.png' alone doesn't tell"):
            store.split(ratios={"train": 1.0}, export=tmp_path / "out", relative=True)
        assert store.split(export=tmp_path / "out").exported == {"patients.csv": 2, "train_A.csv": 2}

    def test_repeats_go_to_folders_of_their_own(self, odd: featstore.Store, tmp_path: Path) -> None:
        odd.split(scheme="cv", k_folds=2, repeats=2, export=tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cv-r1", "cv-r2"]
        assert len(list((tmp_path / "cv-r2").iterdir())) == 5
        kept = odd.split(scheme="cv-r2@v1", export=tmp_path / "cv-r2")
        assert (kept.scheme, kept.version, kept.folds) == ("cv-r2", 1, 2)


class TestRefused:
    def test_a_patient_in_two_splits(self, odd: featstore.Store, tmp_path: Path) -> None:
        uri = {(r["patient_id"], r["modality"]): r["uri"] for r in odd.sql("FROM samples").to_pylist()}
        train = write(tmp_path / "train_A.csv", [["image_path", "label"], [uri["7", "A"], "1"], [uri["007", "A"], "0"]])
        val = write(tmp_path / "val_P.csv", [["image_path", "label"], [uri["7", "P"], "1"]])
        message = (
            r"1 patient.*two|1 patient\(s\) are in more than one split:\n    7: train \(train_A.csv, line 2\); val"
        )
        with pytest.raises(LeakageError, match=message):
            odd.split(scheme="no", sources=[f"train={train}", f"val={val}"])
        both = write(tmp_path / "s.csv", [["patient_id", "split"], ["7", "train"], ["7", "val"]])
        with pytest.raises(LeakageError, match=r"7: train \(s.csv, line 2\); val \(s.csv, line 3\)"):
            odd.split(scheme="no", sources=[both])
        assert "no" not in odd.sql("SELECT DISTINCT scheme FROM splits").column(0).to_pylist()

    def test_what_matches_nothing_or_several(self, odd: featstore.Store, tmp_path: Path, splits: Any) -> None:
        paths = write(tmp_path / "a.csv", [["image_path", "label"], ["m0.png", ""], ["gone.png", "1"]])
        with pytest.raises(NotFoundError, match=r"1 path\(s\) match no sample.*\n    gone.png \(a.csv, line 3\)"):
            odd.split(scheme="some", sources=[f"train={paths}"])
        ids = write(tmp_path / "b.csv", [["patient_id", "split"], [" 007", "val"], ["P1", "val"], ["7", "val"]])
        with pytest.raises(NotFoundError, match=r"2 row\(s\) name patients(.|\n)*looks like the patient"):
            odd.split(scheme="some", sources=[ids])
        result = odd.split(scheme="some", sources=[f"train={paths}", ids], allow_missing=True)
        assert splits(odd, "some") == {"007": "train", "7": "val"}
        assert result.unmatched == {"no such patient": 2, "no such sample": 1}
        nobody = write(tmp_path / "c.csv", [["patient_id", "split"], ["nobody", "val"]])
        with pytest.raises(UsageError, match="None of the rows"):
            odd.split(scheme="none", sources=[nobody], allow_missing=True)

    def test_several(self, ingest, store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        for name in ("one", "two"):
            rows = [["path", "patient_id", "modality"], ["s_0.png", name, "A"]]
            (tmp_path / name).mkdir()
            (tmp_path / name / "s_0.png").write_bytes(b"y")
            store.ingest_manifest(write(tmp_path / name / f"{name}.csv", rows))
        paths = write(tmp_path / "a.csv", [["image_path", "label"], ["s_0.png", ""]])
        with pytest.raises(ConflictError, match=r"1 path\(s\) may be those of several samples:\n    s_0.png"):
            store.split(sources=[f"train={paths}"])
        paths = write(tmp_path / "a.csv", [["image_path", "label"], ["two/s_0.png", ""]])
        assert store.split(sources=[f"train={paths}"]).counts == {"train": {"": 1}}

    def test_folders_that_cannot_all_have_been_the_data_set(self, ingest, store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        ingest(store, tmp_path / "in", [("p", "A", "", "1"), ("q", "A", "", "1")])
        names = ["/old/in/m0.png", "/old/in/m1.png"]
        paths = write(tmp_path / "a.csv", [["image_path"], *([name] for name in names)])
        assert store.split(sources=[f"train={paths}"]).counts == {"train": {"": 2}}
        paths = write(tmp_path / "a.csv", [["image_path"], ["/old/r/A/m0.png"], ["/old/q/A/m1.png"]])  # r isn't here
        with pytest.raises(
            ConflictError, match=r"in 2 folders before:\n    /old/r/A/ \(/old/r/A/m0.png; a.csv, line 2\)"
        ):
            store.split(sources=[f"train={paths}"], replace=True)

    def test_labels(self, odd: featstore.Store, tmp_path: Path) -> None:
        good = [["patient_id", "split", "label"], ["007", "a", "0"], ["7", "a", "1.0"], [guard("-1"), "a", ""]]
        assert odd.split(scheme="labels", sources=[write(tmp_path / "s.csv", good)]).counts == {"a": {"": 3}}
        bad = [*good, [guard("=1+1"), "a", "0"], ["P-1", "a", "x"]]
        with pytest.raises(
            ConflictError, match=r"2 row\(s\) have another label.*\n    =1\+1: 0 \(s.csv, line 5\), in the"
        ):
            odd.split(scheme="labels", sources=[write(tmp_path / "s.csv", bad)], replace=True)

    def test_splits_of_one_name_and_folds_with_a_gap(self, odd: featstore.Store, tmp_path: Path) -> None:
        for names, message in ((("train", "Train"), "by case alone"), (("fold1", "fold2"), "without a gap")):
            rows = [["patient_id", "split"], ["7", names[0]], ["007", names[1]]]
            with pytest.raises(UsageError, match=message):
                odd.split(scheme="no", sources=[write(tmp_path / "s.csv", rows)])

    def test_the_same_files_again_are_no_version(self, odd: featstore.Store, tmp_path: Path) -> None:
        file = write(tmp_path / "s.csv", [["patient_id", "split"], ["7", "b"], ["7", "b"]])
        one = odd.split(scheme="again", sources=[file])
        again = odd.split(scheme="again", sources=[file])
        assert Counter([one.unchanged, again.unchanged]) == {False: 1, True: 1}
        assert again.run_id == one.run_id
