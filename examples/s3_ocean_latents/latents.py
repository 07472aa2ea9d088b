"""Latents of HDF5 files on S3: one ``<name>_latents.h5`` for each that has none yet.

::

    python latents.py options.json --source s3://ocean/tiles --output s3://ocean/latents \
                                   --store ocean_store --checkpoint encoder.pth [--clobber] [--debug]

Every partition of a file becomes a data set of the same name, (n, 128) or (n, 512), rows in the file's order, and
``<partition>_metadata`` names each row. The tiles are read from S3 where they are. What is new is ingested, extracted
(the latents, and the temperature spread of ``dt.py``), exported and uploaded; then the local copy is deleted.

What is there already is skipped. It says what it was made of: an output of other options, weights or data is named
(exit code 1), and stays until ``--clobber``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import fsspec
import h5py
from options import Options, sha256

from featstore import Store

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
from inprocess import featstore, featstore_json
from shared import display

HERE = Path(__file__).parent
MADE_OF = "made_of"
DEBUG_ROWS = 8


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Latents of HDF5 files on S3.")
    parser.add_argument("options", type=Path)
    parser.add_argument("--source", required=True, help="URL of the folder with the HDF5 files")
    parser.add_argument("--output", required=True, help="URL of the folder for the latents")
    parser.add_argument("--store", required=True, type=Path, help="featstore's folder; made where it isn't there")
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--clobber", action="store_true", help="make also what is there already")
    parser.add_argument("--debug", action="store_true", help=f"{DEBUG_ROWS} tiles a partition of one file; no upload")
    args = parser.parse_args(argv)
    options = Options.read(args.options)
    options = replace(options, clobber=options.clobber or args.clobber, debug=options.debug or args.debug)
    batch = Batch(options, args.source, args.output, args.store, args.checkpoint)
    todo, stale = batch.plan()
    incomplete = batch.make(todo) if todo else []
    if stale:
        print(f"Made of something else than now, and left alone: {', '.join(stale)}. --clobber makes them again.")
    if incomplete:
        print(f"Incomplete: {', '.join(incomplete)}. featstore errors says why; then --clobber.")
    if stale or incomplete:
        raise SystemExit(1)


class Batch:
    """The files of one source."""

    def __init__(self, options: Options, source: str, output: str, store: Path, checkpoint: Path) -> None:
        self.options, self.store, self.checkpoint = options, store, checkpoint
        self.weights = sha256(checkpoint)
        self.source, self.output = source.rstrip("/"), output.rstrip("/")
        self.source_fs, self.source_folder = fsspec.url_to_fs(self.source)
        self.output_fs, self.output_folder = fsspec.url_to_fs(self.output)

    # ------------------------------------------------------------------------------- what there is to do
    def plan(self) -> tuple[list[str], list[str]]:
        """Names of the files to make, and of those whose output was made of something else."""
        paths = self.source_fs.ls(self.source_folder, detail=False, refresh=True)
        names = sorted(Path(path).stem for path in paths if path.endswith(".h5"))
        if self.options.debug:
            return names[:1], []
        todo, stale = [], []
        for name in names:
            if self.options.clobber or not self.output_fs.exists(self._there(name)):
                todo.append(name)
            elif self._made_of_there(name) == self._made_of(name):
                print(f"{name}: there already, skipped.")
            else:
                stale.append(name)
        return todo, stale

    def _there(self, name: str) -> str:
        return f"{self.output_folder}/{name}_latents.h5"

    def _made_of(self, name: str) -> str:
        info = self.source_fs.info(f"{self.source_folder}/{name}.h5")
        return self.options.digest(self.weights, str(info["size"]), str(info.get("ETag")))

    def _made_of_there(self, name: str) -> str | None:
        with self.output_fs.open(self._there(name)) as opened, h5py.File(opened) as file:
            return file.attrs.get(MADE_OF)

    # --------------------------------------------------------------------------------------- making them
    def make(self, names: Sequence[str]) -> list[str]:
        """All files in one pass of the network, then one output after the other; returns those that lack tiles."""
        if not (self.store / "featstore.toml").is_file():
            featstore("init", self.store)
        featstore("ingest", self.source, "--layout", "{file}.h5", "--modality", "SST", "--store", self.store)
        latents = self._extract("latents", *self._encoder(), where=self._where(names))
        self._extract("dt", "--plugin", display(HERE / "dt.py"), "--backbone", "ocean:dt", where=self._where(names))
        return [name for name in names if not self._deliver(name, latents)]

    def _where(self, names: Sequence[str]) -> str:
        """The condition on samples that chooses some files' tiles."""
        chosen = ", ".join(f"'{name}'" for name in names)
        few = f" and split_part(sample_key, '/', -1)::int < {DEBUG_ROWS}" if self.options.debug else ""
        return f"attributes['file'] in ({chosen}){few}"

    def _encoder(self) -> list[str]:
        settings = [word for key, value in self.options.settings.items() for word in ("--set", f"{key}={value}")]
        words = ["--backbone", self.options.backbone, "--checkpoint", display(self.checkpoint), "--in-chans", "1"]
        return [*words, "--layer", self.options.layer, *settings]

    def _extract(self, name: str, *words: str, where: str) -> str:
        """Run ``featstore extract``, and return what it made, NAME@vK: a later one may be there, of other options."""
        numbers = ("--batch-size", str(self.options.batch_size), "--num-workers", str(self.options.num_workers))
        chosen = ("--pooler", "mean", "--where", where, *numbers, "--store", self.store)
        found = featstore_json("extract", "--name", name, *words, *chosen)
        made = f"{name}@v{found['feature_sets'][name]}"
        failed = found["failed"] + found["failed_before"]
        print(f"{made}: {found['done']} tiles extracted, {failed} failed, in {found['seconds']:.1f} s.", flush=True)
        return made

    def _deliver(self, name: str, latents: str) -> bool:
        """Export, upload and delete one file's latents; whether all of its tiles have them."""
        tiles, done = self._count(latents, where := self._where([name]))
        if not done:
            print(f"{name}: none of its tiles could be read.")
            return False
        local = self.store.absolute().parent / f"{name}_latents{'_debug' if self.options.debug else ''}.h5"
        chosen = ("--layout", "{split}", "--where", where)
        featstore("export", latents, "--format", "h5", *chosen, "--out", local, "--store", self.store)
        if done < tiles:
            print(f"{name}: {tiles - done} of {tiles} tiles have no latents; <partition>_metadata names the others.")
        if self.options.debug:
            print(f"{display(local)} stays here: debugging uploads nothing.")
            return done == tiles
        with h5py.File(local, "r+") as file:
            file.attrs[MADE_OF] = self._made_of(name)
        self.output_fs.put_file(str(local), self._there(name))
        local.unlink()
        print(f"{self.output}/{name}_latents.h5 is there; the local copy is deleted.", flush=True)
        return done == tiles

    def _count(self, latents: str, where: str) -> tuple[int, int]:
        """How many tiles there are, and how many of them have latents."""
        name, _, version = latents.partition("@v")
        query = (
            "select count(*) as tiles, count(f.sample_key) as done "
            f"from (select sample_key from samples where {where}) s left join (select sample_key from features "
            f"where feature_set = '{name}' and version = {version}) f using (sample_key)"
        )
        ((tiles, done),) = (row.values() for row in Store(self.store).sql(query).to_pylist())
        return tiles, done


if __name__ == "__main__":
    main()
