"""Identity is checked at the door, and a refused ingest leaves the store as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import featstore
from featstore.errors import ConflictError, UsageError
from featstore.ingest import IngestResult, samples
from featstore.runs import RunFolder

Take = Callable[..., IngestResult]
LAYOUTS = [
    "{site}/fold{fold}/grade{label:int}/{patient_id}/{modality}/*.png",
    "{site}/grade{label:int}/{patient_id}/{modality}/*.png",
]


def rows(store: featstore.Store, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in store.sql(query).to_pylist()]


class TestTree:
    def test_the_tree_of_two_sites(
        self, store: featstore.Store, make_tree: Callable[..., Path], tmp_path: Path
    ) -> None:
        root = make_tree(tmp_path / "Grade", patients=4, slices=3)
        (root / "JM" / "notes.txt").write_text("x")
        result = store.ingest(root, layouts=LAYOUTS)
        assert (result.dataset, result.added, result.patients_added) == ("Grade", 36, 6)
        assert result.modalities == {"A": 18, "P": 18}
        assert result.unmatched == ["JM/notes.txt"]
        assert rows(
            store,
            "SELECT patient_id, site, label, label_type, modalities, samples FROM patients WHERE patient_id = 'JM002'",
        ) == [("JM002", "JM", "1", "int", ["A", "P"], 6)]
        key = "Grade/JM/fold1/grade1/JM002/A/JM002_a_slice_0.png"
        found = rows(store, f"SELECT uri, attributes['fold'], content_hash FROM samples WHERE sample_key = '{key}'")
        assert found == [(f"{root}/JM/fold1/grade1/JM002/A/JM002_a_slice_0.png", "1", None)]
        assert rows(store, "SELECT count(*) FROM samples WHERE site = 'KD' AND attributes['fold'] IS NOT NULL") == [
            (0,)
        ]

    def test_again_is_no_run(
        self, store: featstore.Store, make_tree: Callable[..., Path], tmp_path: Path, unchanged: Callable[[], bool]
    ) -> None:
        root = make_tree(tmp_path / "Grade", patients=2, slices=1)
        assert store.ingest(root, layouts=LAYOUTS).run_id
        unchanged()
        again = store.ingest(root, layouts=LAYOUTS)
        assert (again.run_id, again.added, again.unchanged, again.patients_added) == (None, 0, 6, 0)
        assert unchanged()

    def test_the_run_holds_the_rows(
        self, store: featstore.Store, make_tree: Callable[..., Path], tmp_path: Path
    ) -> None:
        result = store.ingest(make_tree(tmp_path / "Grade", patients=2, slices=1), layouts=LAYOUTS)
        assert result.run_id
        run = RunFolder(store.path / "runs" / result.run_id)
        kept = run.load_rows("samples")
        assert kept.num_rows == 6
        assert set(kept.column("patient_id").to_pylist()) == {"JM001", "JM002", "KD001"}
        assert run.facts()["state"] == "done"
        assert rows(store, "SELECT kind, state, done FROM runs") == [("ingest", "done", 6)]

    @pytest.mark.parametrize(
        ("layout", "arguments", "message"),
        [
            ("**/{patient_id}/*/*.png", {}, "Nothing says which modality"),
            ("**/{modality}/*.png", {}, "Nothing says which patient"),
            ("**/{patient_id}/{modality}/*", {"dataset": "my data"}, "'my data' can't be the name of a data set"),
            ("{site}/**/{patient_id}/{modality}/*.txt", {}, "No file below"),
            (
                "**/{patient_id}/{modality}/*",
                {"patient_id": "{sight}-{patient_id}"},
                "asks for {sight}, which isn't there",
            ),
            (
                "**/{patient_id}/{modality}/*",
                {"patient_id": "{patient_id.__class__}"},
                "isn't there. Did you mean 'patient_id'",
            ),
            (
                "**/{patient_id}/{modality}/*",
                {"patient_id": "{patient_id[0]}"},
                "isn't there. Did you mean 'patient_id'",
            ),
        ],
    )
    def test_usage(
        self, store: featstore.Store, make_tree: Callable[..., Path], tmp_path: Path, unchanged: Callable[[], bool],
        layout: str, arguments: dict[str, Any], message: str,
    ) -> None:  # fmt: skip
        root = make_tree(tmp_path / "Grade", patients=2, slices=1)
        unchanged()
        with pytest.raises(UsageError) as caught:
            store.ingest(root, layouts=[layout], **arguments)
        assert message in str(caught.value)
        assert unchanged()

    def test_files_that_nobody_reads(
        self, store: featstore.Store, tmp_path: Path, unchanged: Callable[[], bool]
    ) -> None:
        (tmp_path / "7").mkdir()
        (tmp_path / "7" / "x.docx").write_text("x")
        unchanged()
        with pytest.raises(UsageError, match=r"1 of the files can't be read by any reader, such as '7/x\.docx'"):
            store.ingest(tmp_path, layouts=["{patient_id}/*.docx"], modality="A", dataset="d")
        assert unchanged()

    def test_names_that_people_have(self, store: featstore.Store, tmp_path: Path) -> None:
        names = ["007", "7", "Müller, Jörg", "case #3", "100%", 'it\'s "x"', "日本"]
        for name in names:
            (tmp_path / "d" / name).mkdir(parents=True)
            (tmp_path / "d" / name / "1.png").write_bytes(b"x")
        assert store.ingest(tmp_path / "d", layouts=["{patient_id}/*.png"], modality="A").added == len(names)
        assert {p for (p,) in rows(store, "SELECT patient_id FROM patients")} == set(names)
        for uri, key in rows(store, "SELECT uri, sample_key FROM samples"):
            assert Path(uri).read_bytes() == b"x"
            assert key == f"d/{Path(uri).relative_to(tmp_path / 'd')}"

    def test_spaces_around_an_id(self, store: featstore.Store, tmp_path: Path) -> None:
        (tmp_path / "7 ").mkdir()
        (tmp_path / "7 " / "1.png").write_bytes(b"x")
        with pytest.raises(ConflictError, match=r"patient_id '7 ' of '7 /1\.png' has spaces around it"):
            store.ingest(tmp_path, layouts=["{patient_id}/*.png"], modality="A", dataset="d")

    def test_a_folder_that_reads_like_a_part_of_a_file(self, store: featstore.Store, tmp_path: Path) -> None:
        (tmp_path / "C#").mkdir()
        (tmp_path / "C#" / "7.png").write_bytes(b"x")
        with pytest.raises(UsageError, match="because of its '#'"):
            store.ingest(tmp_path / "C#", layouts=["{patient_id}.png"], modality="A", dataset="d")

    def test_a_sample_of_its_own_patient(self, store: featstore.Store, tmp_path: Path) -> None:
        (tmp_path / "7.png").write_bytes(b"x")
        store.ingest(tmp_path, layouts=["*.png"], modality="A", dataset="d", patient_id="{sample_key}")
        assert rows(store, "SELECT patient_id FROM patients") == [("d/7.png",)]


class TestWhoMayBeWhom:
    """Noticed, not refused: more of the same patients from another folder is what people do."""

    def test_ids_that_look_alike(self, take: Take) -> None:
        result = take("path,patient_id,modality\na.png,007,A\nb.png,7,P\nc.png,8,A\nd.png,P1,A\n")
        assert result.lookalikes == [("007", "7")]
        assert take("path,patient_id,modality\ne.png,9,A\n", name="n").lookalikes == []
        assert take("path,patient_id,modality\nf.png,p-1,A\n", name="o").lookalikes == [("P1", "p-1")]

    def test_twenty_pairs_at_most(self, take: Take) -> None:
        lines = [f"{zeros}{n}.png,{zeros}{n},A" for n in range(10, 40) for zeros in ("", "0")]
        pairs = take("path,patient_id,modality\n" + "\n".join(lines)).lookalikes
        assert pairs == [(f"0{n}", f"{n}") for n in range(10, 30)]

    def test_patients_of_other_data_sets(self, take: Take, store: featstore.Store) -> None:
        first = take("path,patient_id,modality\na.png,000,A\nb.png,001,A\nc.png,002,A\n")
        assert (first.known_elsewhere, first.known_such_as) == (0, [])
        text = "path,patient_id,modality,site\nd.png,001,A,JM\ne.png,002,A,JM\nf.png,002,P,JM\ng.png,003,A,JM\n"
        second = take(text, name="n")
        assert (second.known_elsewhere, second.known_such_as) == (2, ["001", "002"])
        assert second.patients_added == 1
        assert take(text, name="n").known_elsewhere == 0  # said once


def test_more_rows_than_are_made_at_once(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "PART", 2)
    result = take("path,patient_id,modality,label\n" + "".join(f"{n}.png,{n},{'AP'[n % 2]},{n}\n" for n in range(5)))
    assert (result.added, result.modalities) == (5, {"A": 3, "P": 2})


def test_an_interrupt_after_the_commit_loses_no_rows(
    take: Take, store: featstore.Store, interrupted_after_commit: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_after_commit()
    with pytest.raises(KeyboardInterrupt):
        take("path,patient_id,modality\na.png,1,A\n")
    monkeypatch.undo()
    ((run,),) = rows(store, "SELECT run_id FROM runs")
    assert RunFolder(store.path / "runs" / run).load_rows("samples").num_rows == 1


class TestSites:
    TWO = "path,patient_id,modality,site\na.png,001,A,JM\nb.png,001,A,KD\nc.png,002,A,KD\n"

    def test_within_one_ingest(self, take: Take, unchanged: Callable[[], bool]) -> None:
        unchanged()
        with pytest.raises(
            ConflictError,
            match=r"(?s)1 patient id\(s\) occur under .*    001, JM and KD\n  next: .*--patient-id .*--same-pat",
        ):
            take(self.TWO)
        assert unchanged()

    def test_across_ingests(self, take: Take, unchanged: Callable[[], bool]) -> None:
        take("path,patient_id,modality,site\na.png,001,A,JM\n")
        unchanged()
        with pytest.raises(ConflictError, match="001, JM and KD"):
            take("path,patient_id,modality,site\nb.png,001,A,KD\n", name="n")
        assert unchanged()
        # The same again is no conflict, and a site that is named later is one.
        assert take("path,patient_id,modality,site\na.png,001,A,JM\n").unchanged == 1

    def test_a_site_that_is_filled_in_later(self, take: Take, unchanged: Callable[[], bool]) -> None:
        take("path,patient_id,modality,site\na.png,001,A,JM\nb.png,001,A,\n")
        unchanged()
        with pytest.raises(ConflictError, match="001, JM and KD"):
            take("path,patient_id,modality,site\nb.png,001,A,KD\n")
        assert unchanged()

    def test_made_distinct(self, take: Take, store: featstore.Store) -> None:
        take(self.TWO, patient_id="{site}-{patient_id}")
        assert rows(store, "SELECT patient_id, site FROM patients ORDER BY 1") == [
            ("JM-001", "JM"), ("KD-001", "KD"), ("KD-002", "KD"),
        ]  # fmt: skip

    def test_said_to_be_the_same(self, take: Take, store: featstore.Store) -> None:
        take(self.TWO, same_patients_across_sites=True)
        assert rows(store, "SELECT patient_id, site FROM patients ORDER BY 1") == [("001", "JM+KD"), ("002", "KD")]

    def test_only_the_first_of_many_are_listed(self, take: Take) -> None:
        lines = [f"{p}{s}.png,p{p},A,{s}" for p in range(8) for s in ("X", "Y")]
        with pytest.raises(ConflictError, match=r"(?s)8 patient id\(s\).*p4, X and Y\n    … and 3 more\n"):
            take("path,patient_id,modality,site\n" + "\n".join(lines))


#: What the ingest of this text is refused for; PPM stands for the columns that every manifest has.
REFUSED = {
    "two labels": (
        "PPM,label\na.png,1,A,0\nb.png,1,A,1\n",
        {},
        r"1 patient\(s\) have more than one label:\n    1, 0 and 1",
    ),
    "another label than before": ("PPM,label\nz.png,p,A,1\n", {}, "p, 0 and 1"),
    "two splits": ("PPM,split\na.png,1,A,train\nb.png,1,A,val\n", {}, "1, train and val"),
    "another split than before": ("PPM,split\nz.png,p,A,val\n", {}, "p, train and val"),
    "labels of another type": ("PPM,label\na.png,1,A,x\n", {}, "labels here are str, in the catalog int"),
    "a label of another type": ("PPM,label\na.png,p,A,0.5\n", {}, "labels here are float, in the catalog int"),
    "a sample twice": ("PPM\na.png,1,A\n./a.png,1,A\n", {}, "m/a.png, 2 times"),
    "a sample of another patient": ("PPM\nold.png,q,A\n", {}, "with another patient_id:\n    m/old.png, p → q"),
    "a sample of another modality": ("PPM\nold.png,p,P\n", {}, "another modality:\n    m/old.png, A → P"),
    "a sample of another site": ("PPM,site\nold.png,p,A,KD\n", {}, "another site"),
    "a sample of another visit": ("PPM,visit_id\nold.png,p,A,2\n", {}, "another visit_id:\n    m/old.png, 1 → 2"),
    "a sample of another time": ("PPM,acquired_at\nold.png,p,A,2026-02-01\n", {}, "another acquired_at"),
    "other attributes": ("PPM,scanner\nold.png,p,A,GE\n", {}, "other attributes"),
    "attributes that are gone": ("PPM,coil\nold.png,p,A,8\n", {}, "other attributes"),
    "a label that is no number": ("PPM,label\na.png,1,A,x\n", {"label_type": "int"}, "label 'x' of 'a.png' is no int"),
    "a label that isn't whole": ("PPM,label\na.png,1,A,1.5\n", {"label_type": "int"}, "is no int"),
    "an endless label": ("PPM,label\na.png,1,A,inf\n", {"label_type": "float"}, "is no float"),
    "a time that is none": ("PPM,acquired_at\na.png,1,A,31.1.2026\n", {}, "is no ISO 8601 time"),
    "a site with spaces": ('PPM,site\na.png,1,A,"JM "\n', {}, "site 'JM ' of 'a.png' has spaces"),
    "a data set of that name in other case": ("PPM\na.png,1,A\n", {"dataset": "M"}, "There is a data set 'm'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_unchanged(take: Take, unchanged: Callable[[], bool], case: str) -> None:
    take(
        "path,patient_id,modality,site,label,split,visit_id,acquired_at,scanner\nold.png,p,A,JM,0,train,1,2026-01-31,MR\n"
    )
    unchanged()
    text, arguments, message = REFUSED[case]
    text = text.replace("PPM", "path,patient_id,modality")
    with pytest.raises(ConflictError, match=message):
        take(text, **arguments)
    assert unchanged()


def test_attributes_that_are_told_later_are_added(take: Take, store: featstore.Store) -> None:
    take("path,patient_id,modality\na.png,1,A\n")
    result = take("path,patient_id,modality,scanner\na.png,1,A,GE\n")
    assert (result.added, result.changed, result.unchanged) == (0, 0, 1)
    assert store.sql("SELECT attributes['scanner'] AS s FROM samples").to_pylist() == [{"s": "GE"}]
    assert take("path,patient_id,modality,scanner\na.png,1,A,GE\n").run_id is None


def test_a_split_that_is_no_name(take: Take, unchanged: Callable[[], bool]) -> None:
    unchanged()
    with pytest.raises(UsageError, match="can't be the name of a split"):
        take("path,patient_id,modality,split\na.png,1,A,tr/ain\n")
    assert unchanged()


def test_a_data_set_lives_in_one_place(take: Take, store: featstore.Store, tmp_path: Path) -> None:
    take("path,patient_id,modality\na.png,1,A\n")
    (tmp_path / "b.csv").write_text("path,patient_id,modality\na.png,1,A\n")
    with pytest.raises(ConflictError, match=r"The data set 'm' is that of .*/data, not of .*\n  next: .*--dataset"):
        store.ingest_manifest(tmp_path / "b.csv", root=tmp_path, dataset="m", allow_missing=True)


class TestChanges:
    TEXT = "path,patient_id,modality\na.png,1,A\nb.png,2,A\n"

    def content(self, store: featstore.Store) -> dict[str, int]:
        return dict(rows(store, "SELECT sample_key, content FROM core.sample ORDER BY 1"))

    @pytest.mark.parametrize("change", ["size", "time"])
    def test_a_changed_file_has_another_content(
        self, take: Take, store: featstore.Store, tmp_path: Path, change: str
    ) -> None:
        take(self.TEXT)
        file = tmp_path / "data" / "a.png"
        if change == "size":
            file.write_text("longer than before")
        else:
            os.utime(file, ns=(1, 1))
        result = take(self.TEXT)
        assert (result.added, result.changed, result.unchanged) == (0, 1, 1)
        assert result.run_id
        assert self.content(store) == {"m/a.png": 2, "m/b.png": 1}
        assert take(self.TEXT).run_id is None

    def test_a_file_that_has_gone(self, take: Take, store: featstore.Store, tmp_path: Path) -> None:
        take(self.TEXT)
        (tmp_path / "data" / "a.png").unlink()
        manifest = tmp_path / "m.csv"
        result = store.ingest_manifest(manifest, root=tmp_path / "data", allow_missing=True)
        assert (result.changed, result.unchanged) == (1, 1)

    def test_added_and_no_longer_listed(self, take: Take) -> None:
        take(self.TEXT)
        result = take("path,patient_id,modality\nb.png,2,A\nc.png,3,A\n")
        assert (result.added, result.unchanged, result.missing, result.patients_added) == (1, 1, 1, 1)

    def test_what_was_not_said_may_be_said_later(self, take: Take, store: featstore.Store) -> None:
        take(self.TEXT)
        said = take(
            "path,patient_id,modality,site,label,split,acquired_at\na.png,1,A,JM,03,train,2026-01-31T09:30:00+02:00\n"
        )
        assert said.run_id
        assert (said.added, said.changed) == (0, 0)
        assert rows(store, "SELECT site, label, split, acquired_at FROM samples WHERE patient_id = '1'") == [
            ("JM", "03", "train", datetime(2026, 1, 31, 7, 30))
        ]
        assert self.content(store) == {"m/a.png": 1, "m/b.png": 1}
        assert take(self.TEXT).run_id is None  # silence takes nothing back
        assert rows(store, "SELECT DISTINCT label FROM samples WHERE patient_id = '1'") == [("03",)]

    def test_one_label_in_two_spellings(self, take: Take, store: featstore.Store) -> None:
        take("path,patient_id,modality,label\na.png,1,A,03\nb.png,1,A,3\nc.png,2,A,3.0\n", label_type="int")
        assert rows(store, "SELECT DISTINCT label, label_type FROM patients") == [("3", "int")]

    def test_paths_above_the_root(self, take: Take, store: featstore.Store, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "x.png").write_bytes(b"x")
        take("path,patient_id,modality\n../x.png,1,A\n")
        assert rows(store, "SELECT sample_key, uri FROM samples") == [("m/../x.png", f"{tmp_path}/x.png")]

    def test_parts_of_one_file(self, store: featstore.Store, tmp_path: Path) -> None:
        (tmp_path / "x.png").write_bytes(b"x")
        (tmp_path / "m.csv").write_text("path,patient_id,modality\nx.png#slice=1,1,A\nx.png#slice=2,1,A\n")
        assert store.ingest_manifest(tmp_path / "m.csv").added == 2
        assert rows(store, "SELECT uri FROM samples ORDER BY 1") == [(f"{tmp_path}/x.png#slice={n}",) for n in (1, 2)]

    def test_splits_that_come_with_the_rows(self, take: Take, store: featstore.Store) -> None:
        take("path,patient_id,modality,split\na.png,1,A,train\nb.png,2,A,fold0\nc.png,3,A,\n")
        assert rows(store, "SELECT * FROM splits ORDER BY 2") == [("default", "1", "train"), ("default", "2", "fold0")]


def test_a_file_cannot_be_two_samples(store: featstore.Store, make_tree: Any, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "data")
    layouts = ["{site}/fold{fold}/grade{label:int}/{patient_id}/{modality}/*.png"]
    store.ingest(root, layouts=layouts)
    before = store.status()
    with pytest.raises(ConflictError, match="in the catalog already, as other samples"):
        store.ingest(root, layouts=layouts, dataset="other", patient_id="{site}-{patient_id}")
    assert store.status() == before
