"""What all tests share."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import PIL.Image
import pytest

import featstore
from featstore.catalog.connection import Catalog

# Before huggingface_hub is imported: a missing model is then a clear error at once, not 47 s of retries.
os.environ["HF_HUB_OFFLINE"] = "1"

SEED = int(os.environ.get("FEATSTORE_TEST_SEED", "20261121"))

# Time limits of single examples only measure how busy the machine is.
hypothesis.settings.register_profile("featstore", deadline=None, derandomize=True)
hypothesis.settings.load_profile("featstore")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"seed: {SEED} (another: FEATSTORE_TEST_SEED=…)")
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if getattr(report, "when", None) == "call":  # other processes' reports bring what was recorded there
            for line in (value for name, value in report.user_properties if name == "summary"):
                terminalreporter.write_line(str(line))


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in each test, told by the seed."""
    return np.random.default_rng(SEED)


@pytest.fixture
def store(tmp_path: Path) -> featstore.Store:
    """A new, empty store."""
    return featstore.init(tmp_path / "store")


@pytest.fixture(scope="session")
def outside() -> Callable[..., str]:
    """``outside(command, *words, cwd=…)``: a command's stdout; what it said is shown where it fails.

    No variable leads it back to the checkout.
    """

    def call(*command: object, cwd: Path) -> str:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FEATSTORE"))}
        done = subprocess.run(list(map(str, command)), cwd=cwd, env=kept, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return call


@pytest.fixture(scope="session")
def build_wheel(outside: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """A function that builds a project's wheel, as anyone would."""

    def build(project: Path) -> Path:
        out = tmp_path_factory.mktemp("dist")
        outside(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, project, cwd=out)
        (built,) = out.glob("*.whl")
        return built

    return build


@pytest.fixture(scope="session")
def make_environment(outside: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_environment(*packages)``: the folder of commands of a fresh environment that has them installed.

    It borrows their dependencies from the running one, through a .pth file: Python doesn't follow the .pth files of a
    folder that is added so, and the editable installation of this checkout is one of them.
    """

    def make(*packages: Path) -> Path:
        home = tmp_path_factory.mktemp("venv")
        venv.create(home)
        scripts = home / ("Scripts" if os.name == "nt" else "bin")
        asked = (scripts / "python", "-c", "import sysconfig as s; print(s.get_path('purelib'))")
        borrowed = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
        site = Path(outside(*asked, cwd=home).strip())
        (site / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
        pip = (sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--no-index", "--no-deps")
        # featstore is among the borrowed ones already, in name: it is to be installed all the same.
        quiet = ("--no-build-isolation", "--quiet", "--disable-pip-version-check", "--ignore-installed")
        outside(*pip, *quiet, *packages, cwd=home)
        return scripts

    return make


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server on this machine, which the environment's variables point to."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    settings = {
        "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield url
    server.stop()


@pytest.fixture
def s3_bucket(s3_server: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A new bucket, as boto3 has it."""
    import boto3

    name = f"b{abs(hash(request.node.nodeid)):x}"
    bucket = boto3.resource("s3", endpoint_url=s3_server).create_bucket(Bucket=name)
    yield bucket
    bucket.objects.all().delete()
    bucket.delete()


@pytest.fixture
def interrupted_after_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after whose call Ctrl-C comes right after each COMMIT."""
    write = Catalog.write

    @contextmanager
    def interrupted(self: Catalog, **options: Any) -> Iterator[Any]:
        with write(self, **options) as connection:
            yield connection
        raise KeyboardInterrupt

    return lambda: monkeypatch.setattr(Catalog, "write", interrupted)


@pytest.fixture
def make_tree(rng: np.random.Generator) -> Callable[..., Path]:
    """A function that writes a cohort of small grey PNGs: ``make_tree(root, patients=…, slices=…, …)``."""

    def write(
        root: Path,
        *,
        patients: int = 6,
        slices: int = 2,
        modalities: Sequence[str] = ("A", "P"),
        size: int = 32,
        home: str = "JM",
        external: str | None = "KD",
        folds: int = 2,
        grades: int = 2,
    ) -> Path:
        """``patients`` at the home site, in ``folds`` folds, and half as many (at least one) at the external one.

        ``{site}/fold{fold}/grade{label}/{patient}/{modality}/{patient}_{m}_slice_{n}.png`` at home; the external site
        has no folds. Patients are ``<site>001``…; labels take turns.
        """
        sites = [(home, patients, folds)] + ([(external, max(patients // 2, 1), 0)] if external else [])
        for site, count, site_folds in sites:
            for number in range(count):
                patient, grade = f"{site}{number + 1:03}", number % grades
                fold = f"fold{number % site_folds}" if site_folds else "."
                for modality in modalities:
                    folder = root / site / fold / f"grade{grade}" / patient / modality
                    folder.mkdir(parents=True)
                    for n in range(slices):
                        pixels = rng.integers(0, 256, (size, size), dtype=np.uint8)
                        PIL.Image.fromarray(pixels).save(folder / f"{patient}_{modality.lower()}_slice_{n}.png")
        return root

    return write
