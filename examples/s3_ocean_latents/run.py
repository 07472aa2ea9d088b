"""Ocean tiles in HDF5 files on S3 → latents on S3, and what is like what.

::

    python examples/s3_ocean_latents/run.py [--out DIR]

Without ``$AWS_ENDPOINT_URL``, an S3 server of this machine (moto) stands in: it is there as long as this runs. Under a
minute on two CPU cores. Everything else stays in ``--out``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import s3fs

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
import latents
import make_tiles
import one_image
from inprocess import featstore, script
from shared import empty_folder, title

HERE = Path(__file__).parent


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Latents of ocean tiles on S3, from raw files to nearest neighbours.")
    parser.add_argument("--out", type=empty_folder, default="ocean_demo", help="a new folder (default: ocean_demo)")
    parser.add_argument("--bucket", default="ocean", help="made where it isn't there (default: ocean)")
    parser.add_argument("--files", default="3", help="HDF5 files (default: 3)")
    parser.add_argument("--train", default="48", help="tiles of train, a file (default: 48)")
    parser.add_argument("--valid", default="16", help="tiles of valid, a file (default: 16)")
    parser.add_argument("--options", type=Path, default=HERE / "options.json")
    args = parser.parse_args(argv)
    data, store = args.out / "data", args.out / "store"
    with s3_server():
        title("HDF5 files of tiles, and a checkpoint of a training on several GPUs")
        sizes = ("--files", args.files, "--train", args.train, "--valid", args.valid)
        script(HERE / "make_tiles.py", make_tiles.main, data, *sizes)
        upload(data, args.bucket)

        title("A few tiles of one file first: debugging")
        places = ("--source", f"s3://{args.bucket}/tiles", "--output", f"s3://{args.bucket}/latents")
        words = (args.options, *places, "--checkpoint", data / "encoder.pth", "--store", store)
        script(HERE / "latents.py", latents.main, *words, "--debug")

        title("All files; then again: what is there is skipped")
        script(HERE / "latents.py", latents.main, *words)
        script(HERE / "latents.py", latents.main, *words)

        title("A map: two principal components, fitted on train alone")
        words = ("--name", "map", "--input", "latents", "--label", "none", "--scheme", "default", "--pca", "2")
        featstore("materialize", *words, "--store", store)
        featstore(
            "sql",
            "select split, count(*) as tiles, round(avg(vector[1]), 2) as mean_dt, "
            "round(max(vector[1]), 2) as max_dt from vectors.dt group by split order by split",
            *("--store", store),
        )

        title("One tile that is in no file: its latents, DT, place on the map, nearest tiles")
        np.save(args.out / "new_tile.npy", make_tiles.make_tile(35.0, np.random.default_rng(2026)))
        words = ("--options", args.options, "--checkpoint", data / "encoder.pth", "--store", store)
        script(HERE / "one_image.py", one_image.main, args.out / "new_tile.npy", *words)


@contextmanager
def s3_server() -> Iterator[None]:
    """The server of ``$AWS_ENDPOINT_URL``, or one of this machine."""
    if os.environ.get("AWS_ENDPOINT_URL"):
        yield
        return
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    print(f"No $AWS_ENDPOINT_URL: an S3 server of this machine stands in, {os.environ['AWS_ENDPOINT_URL']}")
    try:
        yield
    finally:
        server.stop()


def upload(data: Path, bucket: str) -> None:
    """What whoever made the tiles has done already."""
    fs = s3fs.S3FileSystem()
    if not fs.exists(bucket):
        fs.mkdir(bucket)
    for file in sorted(data.glob("*.h5")):
        fs.put_file(str(file), f"{bucket}/tiles/{file.name}")
    print(f"Uploaded to s3://{bucket}/tiles: {', '.join(Path(path).name for path in fs.ls(f'{bucket}/tiles'))}")


if __name__ == "__main__":
    main()
