"""`featstore lineage` and `featstore diff`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import featstore
from featstore.cli import cli

PLUGIN = str(Path(__file__).parents[1] / "tables" / "vectors_plugin.py")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> featstore.Store:
    """Two versions of a table of six patients."""
    folder = tmp_path_factory.mktemp("lineage")
    rng = np.random.default_rng(0)
    rows = ["path,patient_id,modality,label,split"]
    for patient in range(6):
        for number in range(2):
            name = f"p{patient}_{number}.f4"
            (folder / name).write_bytes(rng.normal(size=3).astype("<f4").tobytes())
            rows.append(f"{name},{patient:03},[A],{patient % 2},{'test' if patient > 3 else 'train'}")
    (folder / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    featstore.init(folder / "store")
    made = featstore.open(folder / "store", plugins=[PLUGIN])
    made.ingest_manifest(folder / "manifest.csv", dataset="data", label_type="int")
    made.extract(name="v", backbone="numbers:3", device="cpu")
    for aggregation in ("mean", "max"):
        made.materialize(name="t", inputs=[f"a=v:{aggregation}"], scheme="default")
    return made


def run(store: featstore.Store, *words: str) -> Any:
    """The command's output; ``main`` exits with the code that the command returns."""
    done = CliRunner().invoke(cli, [words[0], "--store", str(store.path), *words[1:]], standalone_mode=False)
    assert done.exception is None, done.exception
    return done


def test_lineage_is_a_tree(store: featstore.Store) -> None:
    text = run(store, "lineage", "t").stdout
    assert text.startswith("t@v2: 6 rows × 3 features, by patient, tables/t/v2\n")
    assert "a = v@v1, modality [A], max" in text  # no markup is made of a name
    assert "12 samples of 6 patients: data, modality [A]" in text
    assert "numbers:3, layer last, pooler mean, 3 float32" in text
    assert "scheme default@v1: test 2, train 4 patients" in text
    assert "data/p0_0.f4" not in text
    assert "data/p0_0.f4" in run(store, "lineage", "t", "--samples").stdout
    assert "used by t@v1" in run(store, "lineage", "v").stdout


def test_lineage_as_json_has_the_samples(store: featstore.Store) -> None:
    found = json.loads(run(store, "lineage", "t@v1", "--json").stdout)
    assert found["version"] == 1
    assert len(found["inputs"][0]["sample_keys"]) == 12


def test_diff_of_one_name_is_with_the_version_before(store: featstore.Store) -> None:
    done = run(store, "diff", "t", "--exit-code")
    assert done.return_value == 1
    assert "v:mean" in done.stdout
    assert "v:max" in done.stdout
    assert "fused" in done.stdout
    assert "6 rows in both." in done.stderr
    assert run(store, "diff", "t@v1", "t@v2").stdout == done.stdout
    assert run(store, "diff", "t").return_value == 0


def test_diff_says_plainly_that_nothing_differs(store: featstore.Store) -> None:
    done = run(store, "diff", "t", "t@v2", "--exit-code")
    assert done.return_value == 0
    assert done.stderr.strip() == ("t@v2 and t@v2 are the same: recipe, inputs, 6 rows, the very same bytes.")
    assert json.loads(run(store, "diff", "t", "t", "--json").stdout)["same"] is True
