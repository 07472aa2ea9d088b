"""A cohort in a store, and what a scheme of it says."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

import featstore

Take = Callable[..., featstore.Store]
#: path, patient_id, modality, site, label, and what else a manifest may say.
COLUMNS = ("path", "patient_id", "modality", "site", "label")


def _ingest(
    store: featstore.Store, folder: Path, rows: Sequence[Sequence[str]], name: str = "m", more: Sequence[str] = ()
) -> featstore.Store:
    """Take in rows ``(patient_id, modality, site, label, *more)`` as a manifest; files are ``<name><number>.png``."""
    folder.mkdir(exist_ok=True)
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *more])
        for number, row in enumerate(rows):
            (folder / f"{name}{number}.png").write_bytes(b"x")
            writer.writerow([f"{name}{number}.png", *row])
    store.ingest_manifest(folder / f"{name}.csv", same_patients_across_sites=True)
    return store


@pytest.fixture(scope="session")
def ingest() -> Take:
    """``ingest(store, folder, rows, name, more)``: the same, for stores that several tests share."""
    return _ingest


@pytest.fixture
def take(store: featstore.Store, tmp_path: Path) -> Take:
    """A function that ingests rows and gives the store."""

    def call(
        rows: Sequence[Sequence[str]],
        into: featstore.Store | None = None,
        name: str = "m",
        more: Sequence[str] = (),
    ) -> featstore.Store:
        return _ingest(into or store, tmp_path / "in", rows, name, more)

    return call


@pytest.fixture(scope="session")
def splits() -> Callable[..., Mapping[str, str]]:
    """``splits(store, scheme)``: patient → split; each patient once."""

    def call(store: featstore.Store, scheme: str = "default") -> dict[str, str]:
        rows = store.sql(f"SELECT patient_id, split FROM splits WHERE scheme = '{scheme}'").to_pylist()
        assert len({row["patient_id"] for row in rows}) == len(rows)
        return {row["patient_id"]: row["split"] for row in rows}

    return call
