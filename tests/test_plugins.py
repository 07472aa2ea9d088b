"""Plugins: found, listed, refused by name; one broken plugin stops nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import featstore
from featstore.errors import NotFoundError, PluginError, UsageError
from featstore.plugins import Plugins

POOLER = "@featstore.hookimpl\ndef featstore_poolers():\n    yield featstore.PoolerSpec({name!r}, load=lambda: len)\n"
BACKBONE = (
    "@featstore.hookimpl\ndef featstore_backbones():\n    yield featstore.BackboneSpec({name!r}, load=lambda r: 0)\n"
)
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A function that installs a package by hand: a module, and a dist-info folder with its entry point."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def put(module: str, code: str, *, entry: str = "", version: str = "1.2", group: str = "featstore") -> None:
        (site / f"{module}.py").write_text("import featstore\n" + code)
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry or module} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return put


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str], str]:
    """A function that writes a plugin file: ``file("mine.py", code)``."""

    def write(name: str, code: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import featstore\n" + code)
        return str(path)

    return write


def listed(plugins: Plugins, name: str) -> dict[str, Any]:
    (row,) = (row for row in plugins.describe() if row["plugin"] == name)
    return row


class TestOurs:
    def test_all_load(self) -> None:
        plugins = Plugins.load(strict=True)
        found = {row["plugin"]: row for row in plugins.describe()}
        assert {"timm", "poolers", "fusers", "steps", "readers", "exporters"} <= set(found)
        assert found["poolers"]["version"] == featstore.__version__
        assert found["timm"]["provides"] == "backbone timm:…"
        assert found["poolers"]["provides"].startswith("pooler cls, first, flatten, gem, grid, last, max, mean,")
        assert not any(row["error"] for row in found.values())

    def test_one_of_each(self) -> None:
        plugins = Plugins.load()
        assert plugins.backbone("timm:resnet18").name == "timm:resnet18"
        assert callable(plugins.pooler("gem(3)", "tokens"))
        assert plugins.spec("fuser", "concat").name == "concat"
        assert isinstance(plugins.fuser("kronecker(8)"), featstore.Fuser)
        assert isinstance(plugins.step("impute(median)"), featstore.Step)
        assert isinstance(plugins.step("onehot", "categories"), featstore.Step)
        assert plugins.reader("A/B.PNG").suffixes
        assert plugins.exporter(Path("x.Parquet")).suffix == ".parquet"
        assert plugins.reads("x.jpg")
        assert not plugins.reads("x.docx")

    def test_the_manager_is_no_global(self, file: Callable[[str, str], str]) -> None:
        assert "mine" in [
            item.name for item in Plugins.load([file("p.py", POOLER.format(name="mine"))]).registered("pooler")
        ]
        assert "mine" not in [item.name for item in Plugins.load().registered("pooler")]


class TestInstalled:
    def test_good(self, install: Install) -> None:
        install("lab_good", POOLER.format(name="medoid"))
        plugins = Plugins.load()
        row = listed(plugins, "lab_good")
        assert 0 <= row.pop("seconds") < 2
        assert row == {
            "plugin": "lab_good", "version": "1.2", "origin": "lab_good", "provides": "pooler medoid", "error": "",
        }  # fmt: skip
        assert plugins.pooler("medoid", "groups") is len
        assert dict(plugins.versions())["lab_good"] == "1.2"

    @pytest.mark.parametrize(
        ("code", "error"),
        [
            ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
            ("raise SystemExit(3)", "SystemExit: 3"),
            ("def f(:", "SyntaxError"),
            ("def featstore_poolers(): return []", "it implements no hook: are its functions marked"),
            (
                "@featstore.hookimpl\ndef featstore_poolerz(): return []",
                "unknown hook 'featstore_poolerz'. Did you mean 'featstore_poolers'",
            ),
            (
                "@featstore.hookimpl\ndef featstore_poolers(what): return []",
                "Argument(s) {'what'} are declared in the hookimpl",
            ),
            ("@featstore.hookimpl\ndef featstore_poolers(): return [1]", "featstore_poolers gave int, not PoolerSpec"),
            ("@featstore.hookimpl\ndef featstore_poolers(): return None", "TypeError"),
            ("@featstore.hookimpl\ndef featstore_poolers(): raise ValueError('two\\nlines')", "ValueError: two lines"),
            (
                "@featstore.hookimpl\ndef featstore_poolers(): yield featstore.FuserSpec('a', load=list)",
                "gave FuserSpec, not PoolerSpec",
            ),
        ],
    )
    def test_broken(self, install: Install, code: str, error: str) -> None:
        install("lab_broken", code)
        plugins = Plugins.load()
        row = listed(plugins, "lab_broken")
        assert error in row["error"]
        assert "\n" not in row["error"]
        assert row["provides"] == ""
        assert callable(plugins.pooler("mean", "tokens"))
        assert "lab_broken" not in dict(plugins.versions())
        with pytest.raises(PluginError, match=r"The plugin lab_broken \(lab_broken\) can't be used"):
            Plugins.load(strict=True)
        with pytest.raises(
            NotFoundError,
            match=r"no pooler 'maen'\. Did you mean 'mean' or 'median'\? Plugins that could not be loaded: lab_broken",
        ):
            plugins.pooler("maen", "tokens")

    def test_a_misspelt_hook_disables_all_of_the_plugin(self, install: Install) -> None:
        install("lab_half", POOLER.format(name="half") + "@featstore.hookimpl\ndef featstore_reader(): return []")
        plugins = Plugins.load()
        assert "Did you mean 'featstore_readers'" in listed(plugins, "lab_half")["error"]
        with pytest.raises(NotFoundError):
            plugins.pooler("half", "groups")

    def test_two_of_one_name_are_both_named(self, install: Install) -> None:
        install("lab_one", POOLER.format(name="medoid"))
        install("lab_two", POOLER.format(name="medoid"))
        plugins = Plugins.load()
        with pytest.raises(
            PluginError, match=r"The pooler 'medoid' is registered by two plugins: lab_one and lab_two\."
        ):
            plugins.pooler("medoid", "groups")
        assert "lab_one and lab_two" in listed(plugins, "lab_two")["error"]
        assert callable(plugins.pooler("mean", "groups"))
        with pytest.raises(PluginError, match="lab_one and lab_two"):
            Plugins.load(strict=True)

    def test_ours_cant_be_replaced(self, install: Install) -> None:
        install("a_lab", POOLER.format(name="mean"))
        with pytest.raises(PluginError, match="a_lab and poolers"):
            Plugins.load().pooler("mean", "tokens")

    def test_two_plugins_of_one_name(self, install: Install) -> None:
        install("lab_one", POOLER.format(name="one"), entry="lab")
        install("lab_two", POOLER.format(name="two"), entry="lab")
        rows = [row for row in Plugins.load().describe() if row["plugin"] == "lab"]
        good, bad = sorted(rows, key=lambda row: row["error"])
        assert good["provides"] in {"pooler one", "pooler two"}
        assert bad["provides"] == ""
        assert bad["error"] == f"another plugin has this name: {good['origin']}. One of the two must be renamed."

    def test_two_readers_of_one_ending(self, install: Install) -> None:
        install(
            "lab_png",
            "@featstore.hookimpl\ndef featstore_readers():\n"
            "    yield featstore.ReaderSpec('own', ('.png', '.x.png'), read=len)",
        )
        plugins = Plugins.load()
        with pytest.raises(PluginError, match=r"Several readers claim files that end like '\.png': .*'own' of lab_png"):
            plugins.reader("a.png")
        assert plugins.reader("a.x.png").name == "own"  # the longest ending wins
        assert plugins.reader("a.jpg").name != "own"

    def test_two_exporters_of_one_ending(self, install: Install) -> None:
        install(
            "lab_csv",
            "@featstore.hookimpl\ndef featstore_exporters():\n"
            "    yield featstore.ExporterSpec('own', '.csv', write=len)",
        )
        with pytest.raises(PluginError, match="Several exporters claim"):
            Plugins.load().exporter(Path("a.csv"))


class TestFamilies:
    RESOLVE = "@featstore.hookimpl\ndef featstore_resolve_backbone({arguments}):\n    {body}\n"
    SPEC = "return featstore.BackboneSpec(name, load=len) if name.startswith('lab:') else None"

    def test_resolved(self, install: Install) -> None:
        install("lab", self.RESOLVE.format(arguments="name", body=self.SPEC))
        plugins = Plugins.load()
        assert plugins.backbone("lab:x").name == "lab:x"
        assert listed(plugins, "lab")["provides"] == "backbone lab:…"

    def test_listed_ones_come_first(self, install: Install) -> None:
        listing = (
            "@featstore.hookimpl\ndef featstore_backbones():\n"
            "    yield featstore.BackboneSpec('lab:x', load=len, revision='7')\n"
        )
        install("lab", listing + self.RESOLVE.format(arguments="name", body=self.SPEC))
        assert Plugins.load().backbone("lab:x").revision == "7"

    def test_offered_by_two(self, install: Install) -> None:
        for name in ("lab_one", "lab_two"):
            install(name, self.RESOLVE.format(arguments="name", body=self.SPEC))
        with pytest.raises(PluginError, match=r"'lab:x' is offered by several plugins: .*lab_"):
            Plugins.load().backbone("lab:x")

    @pytest.mark.parametrize("body", ["raise RuntimeError('oh')", "return 'resnet18'"])
    def test_a_broken_one_is_listed_and_passed_over(self, install: Install, body: str) -> None:
        install("lab", self.RESOLVE.format(arguments="name", body=body))
        plugins = Plugins.load()
        assert plugins.backbone("timm:resnet18").name == "timm:resnet18"
        assert listed(plugins, "lab")["error"]

    def test_may_leave_out_its_argument(self, install: Install) -> None:
        install("lab", self.RESOLVE.format(arguments="", body="return None"))
        plugins = Plugins.load()
        assert plugins.backbone("timm:resnet18")
        assert listed(plugins, "lab")["error"] == ""

    def test_unknown_names_suggest(self) -> None:
        with pytest.raises(
            NotFoundError, match=r"no backbone 'tim:resnet18'\. Did you mean 'timm:'\?\n.*known: .*timm:…"
        ):
            Plugins.load().backbone("tim:resnet18")
        with pytest.raises(NotFoundError, match=r"Did you mean .*'resnet18'"):
            Plugins.load().backbone("timm:resnt18")


class TestByHand:
    def test_a_file(self, file: Callable[[str, str], str]) -> None:
        path = file("my pooler.py", POOLER.format(name="mine"))
        plugins = Plugins.load([path])
        assert plugins.pooler("mine", "tokens") is len
        assert listed(plugins, "my pooler")["origin"] == path
        assert plugins.paths == (path,)

    def test_twice_is_once(self, file: Callable[[str, str], str]) -> None:
        path = file("mine.py", POOLER.format(name="mine"))
        assert len([p for p in Plugins.load([path, path]).providers if p.name == "mine"]) == 1

    def test_from_the_environment(self, file: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch) -> None:
        one, two = file("one.py", POOLER.format(name="one")), file("two.py", POOLER.format(name="two"))
        monkeypatch.setenv("FEATSTORE_PLUGINS", os.pathsep.join([one, "", two]))
        plugins = Plugins.load([two])
        assert plugins.paths == (one, two)
        assert {"one", "two"} <= {item.name for item in plugins.registered("pooler")}

    def test_a_module(self, install: Install) -> None:
        install("lab_good", POOLER.format(name="medoid"))
        with pytest.raises(PluginError, match="it is loaded already, as the plugin 'lab_good'"):
            Plugins.load(["lab_good"])
        install("lab_plain", POOLER.format(name="plain"), group="other")
        assert Plugins.load(["lab_plain"]).pooler("plain", "groups") is len

    @pytest.mark.parametrize(
        ("path", "error"),
        [("nowhere.py", "there is no file"), ("no_such_module", "ModuleNotFoundError"), ("a/b", "ModuleNotFoundError")],
    )
    def test_what_isnt_there_is_an_error_even_without_strict(self, path: str, error: str) -> None:
        with pytest.raises(PluginError, match=error):
            Plugins.load([path])

    def test_a_broken_file_is_an_error_and_can_be_mended(self, file: Callable[[str, str], str]) -> None:
        path = file("mine.py", "1 / 0")
        with pytest.raises(PluginError, match=r"mine \(.*mine\.py\) can't be used: ZeroDivisionError"):
            Plugins.load([path])
        assert Plugins.load([file("mine.py", POOLER.format(name="mended"))]).pooler("mended", "groups")

    def test_two_files_of_one_name(self, file: Callable[[str, str], str]) -> None:
        paths = [file("a/mine.py", POOLER.format(name="a")), file("b/mine.py", POOLER.format(name="b"))]
        with pytest.raises(PluginError, match=r"another plugin has this name: .*a/mine\.py"):
            Plugins.load(paths)

    def test_its_functions_can_be_pickled_to_a_process_that_loads_it_again(
        self, file: Callable[[str, str], str]
    ) -> None:
        path = file("mine.py", "def load(): return len\n" + POOLER.format(name="mine").replace("lambda: len", "load"))
        code = (
            "import pickle, sys; from featstore.plugins import Plugins\n"
            "plugins = Plugins.load([sys.argv[1]]); data = plugins._get('pooler', 'mine').load\n"
            "sys.stdout.buffer.write(pickle.dumps(data))"
        )
        data = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True).stdout
        receive = (
            "import pickle, sys; from featstore.plugins import Plugins\n"
            "Plugins.load([sys.argv[1]])\nassert pickle.load(sys.stdin.buffer)() is len"
        )
        subprocess.run([sys.executable, "-c", receive, path], input=data, check=True)


class TestLookups:
    def test_a_pooler_that_cant(self) -> None:
        with pytest.raises(NotFoundError, match=r"'cls' works on tokens, not on groups.\n  next: one of: .*mean"):
            Plugins.load().pooler("cls", "groups")

    def test_an_unknown_ending(self) -> None:
        with pytest.raises(
            NotFoundError, match=r"No reader knows files that end like '\.docx'\.\n  next: known endings: .*\.png"
        ):
            Plugins.load().reader("a/b.docx")
        for name in ("a/README", "IM0001", "1.2.840.113619.2"):  # scanners' names: told by their bytes
            assert Plugins.load().reader(name).name == "dicom"
            assert Plugins.load().reads(name)
        assert not Plugins.load().reads("a/b.docx")
        with pytest.raises(NotFoundError, match=r"'x\.parqet'\. Did you mean '\.parquet'\?"):
            Plugins.load().exporter(Path("x.parqet"))

    def test_an_unknown_fuser_or_step(self) -> None:
        with pytest.raises(NotFoundError, match="Did you mean 'concat'"):
            Plugins.load().fuser("concta")
        with pytest.raises(NotFoundError, match="Did you mean 'standardize'"):
            Plugins.load().step("standardise")

    def test_each_is_a_new_one(self) -> None:
        plugins = Plugins.load()
        assert plugins.fuser("pca(2)") is not plugins.fuser("pca(2)")
        assert plugins.step("standardize") is not plugins.step("standardize")

    def test_steps_for_something_else(self) -> None:
        plugins = Plugins.load()
        with pytest.raises(
            NotFoundError, match=r"'onehot' works on categories, not on numbers.\n  next: one of: .*pca"
        ):
            plugins.step("onehot")
        with pytest.raises(
            NotFoundError, match=r"'pca' works on numbers, not on categories.\n  next: one of: onehot, "
        ):
            plugins.step("pca(2)", "categories")

    @pytest.mark.parametrize("text", ["standardize(3)", "pca", "pca(1,2)", "impute", "select()", "l2(max)"])
    def test_arguments_that_dont_fit(self, text: str) -> None:
        with pytest.raises(UsageError, match="can't be: "):
            Plugins.load().step(text)

    @pytest.mark.parametrize("text", ["concat(1)", "cca", "late(2)", "kronecker(1,2)"])
    def test_arguments_that_dont_fit_a_fuser(self, text: str) -> None:
        with pytest.raises(UsageError, match="can't be: "):
            Plugins.load().fuser(text)

    def test_what_is_made_is_looked_at(self, file: Callable[[str, str], str]) -> None:
        path = file("lab.py", "@featstore.hookimpl\ndef featstore_steps():\n    yield featstore.StepSpec('s', list)\n")
        with pytest.raises(PluginError, match="'s' gave list, not a Step"):
            Plugins.load([path]).step("s")

    def test_what_fitted_tables_may_hold(self) -> None:
        assert "sklearn.feature_selection._univariate_selection.f_classif" in Plugins.load().trusted()


class TestProvenance:
    CODE = "@featstore.hookimpl\ndef featstore_provenance({arguments}):\n    {body}\n"

    @pytest.mark.parametrize(
        ("arguments", "body", "facts"),
        [
            ("kind", "return {'kind': kind}", {"kind": "extract"}),
            ("", "return {'a': (1, 2)}", {"a": [1, 2]}),
            ("kind", "return None", {"error": "TypeError: 'NoneType' object is not iterable"}),
            ("kind", "raise RuntimeError('oh')", {"error": "RuntimeError: oh"}),
            ("kind", "return {'a': object}", {"error": "TypeError: Object of type type is not JSON serializable"}),
        ],
    )
    def test_facts(self, install: Install, arguments: str, body: str, facts: dict[str, object]) -> None:
        install("lab", self.CODE.format(arguments=arguments, body=body))
        assert Plugins.load().provenance("extract")["lab"] == facts


def test_a_store_is_data_and_never_code(
    store: featstore.Store, make_tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies in a stranger's store, opening and using it runs none of it."""
    trap = f"open({str(tmp_path / 'sprung')!r}, 'w')\n"
    for folder in (store.path, store.path / "plugins", store.path / "runs", store.path / "models"):
        folder.mkdir(exist_ok=True)
        for name in ("plugin", "conftest", "featstore_plugin", "sitecustomize", "pandas", "stranger"):
            (folder / f"{name}.py").write_text(trap)
        info = folder / "stranger-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[featstore]\nstranger = stranger\n")
    with (store.path / "featstore.toml").open("a") as config:
        config.write('plugins = ["plugins/plugin.py"]\n')
    monkeypatch.chdir(store.path)
    opened = featstore.open()
    opened.ingest(
        make_tree(tmp_path / "data", patients=2, slices=1), layouts=["{site}/**/{patient_id}/{modality}/*.png"]
    )
    opened.split(ratios={"train": 0.5, "val": 0.5})
    opened.sql("FROM samples")
    assert "stranger" not in [row["plugin"] for row in opened.ls("plugins").to_pylist()]
    command = Path(sys.executable).with_name("featstore")
    for arguments in (["status"], ["ls", "plugins"], ["sql", "from samples"]):
        subprocess.run([str(command), *arguments], check=True, capture_output=True)
    assert not (tmp_path / "sprung").exists()


def test_a_listed_name_of_another_plugins_family_is_refused(install: Install) -> None:
    install("lab_thief", BACKBONE.format(name="timm:test_vit"))
    plugins = Plugins.load()
    with pytest.raises(PluginError, match="The plugin lab_thief registers 'timm:test_vit', a name of the family timm"):
        plugins.backbone("timm:test_vit")
    assert plugins.backbone("timm:test_resnet").name == "timm:test_resnet"


def test_a_plugin_file_in_a_store_is_not_imported(store: featstore.Store) -> None:
    marker = store.path.parent / "it ran"
    file = store.path / "models" / "mine.py"
    file.write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n" + POOLER.format(name="mine"))
    with pytest.raises(PluginError, match="it lies in a store"):
        Plugins.load([str(file)])
    assert not marker.exists()
