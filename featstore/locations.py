"""Where bytes are: files of this machine, and URLs of whatever fsspec reaches (``s3://``, ``gs://``, ``https://``, …).

Who may read a URL is the environment's business (``AWS_PROFILE``, ``AWS_ENDPOINT_URL``, …): a location that holds a
password is refused, because a catalog is handed around.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import re
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, NamedTuple

from featstore.errors import SetupError, UsageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
#: Of a query's names: what lets anybody in who has the URL.
_SECRET = re.compile(r"(?i)(^|&)(x-(amz|goog)-\w|[^=&]*(sig|token|secret|passw|credential|api_?key|access_?key))")
#: Of file systems whose URLs are CONTAINER@ACCOUNT.
_CONTAINERS = ("abfs", "abfss", "wasb", "wasbs", "az")
#: Bytes fetched at a time from a URL, and how many such blocks an opened one keeps.
_BLOCK, _BLOCKS = 1 << 22, 16


class Stat(NamedTuple):
    """A file's size in bytes and time of change in ns; 0 where the other side tells none."""

    size: int
    mtime_ns: int


def is_url(location: str) -> bool:
    """Whether this is a URL, not a path.

    >>> is_url("s3://bucket/a.png"), is_url("/data/a.png"), is_url("c://odd")
    (True, False, False)
    """
    return _URL.match(location) is not None


def check_url(url: str) -> str:
    """Return a URL, or raise :class:`UsageError` where it holds a user's name, or what lets anybody in who has it."""
    scheme, _, rest = url.partition("://")
    user = "@" in rest.partition("/")[0] and scheme.lower() not in _CONTAINERS
    if user or _SECRET.search(rest.partition("?")[2]):
        raise UsageError(
            f"The URL {'names a user' if user else 'carries a signature or key'}, and what is ingested is written into "
            "the catalog.",
            hint="leave it out, and give it by the environment (AWS_PROFILE, AWS_ACCESS_KEY_ID, …)",
        )
    return url


def join(base: str, below: str) -> str:
    """``below`` a folder or URL, without ``.`` and ``..``; ``below`` itself where it is absolute or a URL.

    >>> join("s3://bucket/in", "a/../b.png"), join("/data", "s3://bucket/b.png")
    ('s3://bucket/in/b.png', 's3://bucket/b.png')
    """
    if is_url(below):
        return below
    if is_url(base):
        scheme, mark, rest = base.partition("://")
        return scheme + mark + posixpath.normpath(posixpath.join(rest, below.lstrip("/")))
    return os.path.normpath(os.path.join(base, below))


def stat(location: str) -> Stat:
    """Size and time of change of a file.

    Raises:
        FileNotFoundError: it isn't there. OSError: this machine can't tell. SetupError: the URL can't be reached.
    """
    if not is_url(location):
        found = os.stat(location)
        return Stat(found.st_size, found.st_mtime_ns)
    with _reaching(location):
        fs, path = _filesystem(location)
        return _told(fs.info(path))


def open_file(location: str) -> BinaryIO:
    """Open a file for reading, at random: a :class:`Remote` for a URL.

    Raises:
        as :func:`stat` does.
    """
    return Remote(location) if is_url(location) else open(location, "rb")  # type: ignore[return-value]


def stat_of(file: BinaryIO) -> Stat:
    """The stat of an opened file itself, so that no rename can come between."""
    if isinstance(file, Remote):
        return file.stat
    found = os.fstat(file.fileno())
    return Stat(found.st_size, found.st_mtime_ns)


def walk(root: str) -> Iterator[tuple[str, Stat]]:
    """Every file below a URL, as (POSIX path below it, stat) in path order; hidden ones are skipped.

    Raises:
        FileNotFoundError: there is nothing. SetupError: it can't be reached.
    """
    with _reaching(root):
        fs, top = _filesystem(root)
        found = fs.find(top, detail=True)
    if not found:
        raise FileNotFoundError(root)
    start = len(top.rstrip("/")) + 1
    for path in sorted(found):
        below = path[start:]
        if below and not any(part.startswith(".") for part in below.split("/")):
            yield below, _told(found[path])


class Remote(io.RawIOBase):
    """A file behind a URL, opened for reading at random.

    Attributes:
        fault: why a read failed. Libraries that read through this handle may turn it into an error of their own, about
            a damaged file, which it isn't.
        stat: of the file as it was opened.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.fault: SetupError | None = None
        with _reaching(url):
            fs, path = _filesystem(url)
            cache = {"cache_type": "blockcache", "cache_options": {"maxblocks": _BLOCKS}}
            self._file = fs.open(path, "rb", block_size=_BLOCK, **cache)
            self.stat = _told(getattr(self._file, "details", None) or fs.info(path))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._read(-1)

    def _read(self, size: int) -> bytes:
        try:
            return bytes(self._file.read(size))
        except Exception as error:
            self.fault = _unreachable(self.url, error)
            raise self.fault from error

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _filesystem(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    fs, path = url_to_fs(url)
    fs.invalidate_cache()  # what was listed before may be another file by now
    return fs, str(path)


def _told(info: dict[str, Any]) -> Stat:
    """What the many file systems of fsspec say under many names."""
    for name in ("LastModified", "mtime", "last_modified", "updated", "modified", "Last-Modified", "created"):
        time = info.get(name)
        if isinstance(time, str):
            time = parsedate_to_datetime(time) if name == "Last-Modified" else datetime.fromisoformat(time)
        if isinstance(time, datetime):
            time = time.timestamp()
        if isinstance(time, (int, float)):
            return Stat(int(info.get("size") or 0), int(time * 1e9))
    # No time, but perhaps what tells one content from another.
    tag = str(info.get("ETag") or info.get("etag") or info.get("checksum") or "")
    return Stat(int(info.get("size") or 0), int(hashlib.sha256(tag.encode()).hexdigest()[:15], 16) if tag else 0)


class _reaching:
    """Turn whatever a file system raises into FileNotFoundError, or a SetupError that names the URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, (FileNotFoundError, SetupError)):
            raise _unreachable(self.url, error) from error


def _unreachable(url: str, error: Exception) -> SetupError:
    if isinstance(error, ImportError):
        return SetupError(f"{url} needs a package that isn't here: {error}.", hint="pip install 'featstore[s3]'")
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    return SetupError(
        f"{url} can't be read: {why}.",
        hint="check the name, the network and the credentials, then run it again",
    )
