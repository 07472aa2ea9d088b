"""Reading, decoding and transforming inputs, in the loader's workers. One bad input never touches another."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from featstore import locations
from featstore.errors import InputError, NotFoundError, PluginError, SetupError, one_line
from featstore.keys import split_fragment
from featstore.masks import split_labels
from featstore.plugins import Plugins
from featstore.source import Source
from featstore.spec import Picture

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

#: The machine's fault, not the file's: such an error stops the run.
_ENVIRONMENT = {
    errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENETDOWN,
    errno.ENETUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.ENOTCONN, errno.EIO,
}  # fmt: skip


class Failure(NamedTuple):
    """Why an input failed: at which stage, with what error, and what its file was like (:func:`file_state`)."""

    stage: str
    error: str
    message: str
    file_state: str


def file_state(location: str | os.PathLike[str]) -> str:
    """What changes when a file is mended: size, times of content and of mode; or that it isn't there."""
    location = os.fspath(location)
    try:
        if locations.is_url(location):
            found = locations.stat(location)
            return f"{found.size}:{found.mtime_ns}"
        stat = os.stat(location)
    except OSError:
        return "missing"
    except SetupError:
        return "unreachable"
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def input_state(uri: str, mask_uri: str | None) -> str:
    """What changes when an input's file or its mask is mended, or named."""
    mask = "none" if mask_uri is None else f"{mask_uri}:{file_state(split_fragment(mask_uri)[0])}"
    return f"{file_state(split_fragment(uri)[0])}|{mask}"


def is_state(state: str, uri: str, mask_uri: str | None) -> bool:
    """Whether an input's file, and its mask where that mattered, are still what they were when they failed."""
    return state == (input_state(uri, mask_uri) if "|" in state else file_state(split_fragment(uri)[0]))


class Read(NamedTuple):
    """What is known of the bytes that were read, beside the tensor; of no meaning where there is a failure.

    ``mask`` is hash, size and mtime_ns of the mask that was read; ``mask_failure`` says why there is none, where one
    was needed: vectors of the whole image can still be made.
    """

    content_hash: str = ""
    size: int = -1
    mtime_ns: int = -1
    failure: Failure | None = None
    mask: tuple[str, int, int] | None = None
    mask_failure: Failure | None = None


#: What stops a run, and is never recorded as a bad input.
Fault: TypeAlias = SetupError | PluginError


class Batch(NamedTuple):
    """One batch: failed inputs keep their slot, as zeros, so that shapes never change.

    ``fault`` is the environment's or a plugin's, met while reading: it stops the run. It is carried, not raised,
    because torch would bury it under the text of the worker's traceback. ``masks`` are float32 (N, height, width),
    where masks are asked for; one that failed is all inside, so that no pooler divides by nothing.
    """

    values: torch.Tensor
    read: list[Read]
    fault: Fault | None
    masks: torch.Tensor | None = None


class Item(NamedTuple):
    """One input: its array, None where it failed, or the fault that stops the run; what is known of its bytes; mask."""

    values: np.ndarray[Any, Any] | Fault | None
    read: Read = Read()
    mask: np.ndarray[Any, Any] | None = None


@dataclass(slots=True)
class Inputs:
    """The inputs of a plan by row: a map-style data set.

    Attributes:
        uris: by row, as Arrow keeps them: a list of strings would be ten times as large, in each worker.
        transform: the backbone's; picklable.
        shape: of one transformed input.
        roots: folders that must be there: where one is gone, its files' absence is the environment's fault.
        masks: by row, where the masks are; None where no mask is asked for.
    """

    uris: pa.ChunkedArray
    transform: Callable[[Any], Any]
    shape: tuple[int, ...]
    plugins: Plugins
    roots: tuple[str, ...] = ()
    masks: pa.ChunkedArray | None = None

    def __len__(self) -> int:
        return len(self.uris)

    def __getitem__(self, row: int) -> Item:
        uri = self.uris[row].as_py()
        source = Source(*split_fragment(uri))
        stage = "read"
        try:
            decoded = self._decoded(source)
            stage = "transform"
            values = np.asarray(self.transform(decoded), dtype=np.float32)
            if values.shape != self.shape:
                raise InputError(f"the transform gave shape {values.shape}, not {self.shape}")
            read = _read(source)
        except Exception as error:
            if fault := self._fault(error, source):
                return Item(fault)
            if stage == "read" and source.content_hash is not None:
                stage = "decode"
            return Item(None, Read(failure=_failure(stage, error, file_state(source.location))))
        if self.masks is None:
            return Item(values, read)
        mask_uri = self.masks[row].as_py()
        mask_source = source
        try:
            if mask_uri is None:
                raise InputError("the sample has no mask")
            path, fragment = split_fragment(mask_uri)
            rest, labels = split_labels(fragment)
            mask_source = Source(path, rest)
            mask = self._mask(mask_source, labels, decoded)
            of_mask = _read(mask_source)
            return Item(values, read._replace(mask=(of_mask.content_hash, of_mask.size, of_mask.mtime_ns)), mask)
        except Exception as error:
            if fault := self._fault(error, mask_source):
                return Item(fault)
            failure = _failure("mask", error, input_state(uri, mask_uri))
            if mask_uri is not None:
                failure = failure._replace(message=f"{mask_uri}: {failure.message}")
            return Item(values, read._replace(mask_failure=failure))

    def _decoded(self, source: Source) -> Any:
        try:
            reader = self.plugins.reader(source.location)
        except NotFoundError as error:  # it was there when the file was ingested
            raise SetupError(error.message, hint="give --plugin, or install the plugin that has it") from error
        return reader.read(source)

    def _mask(self, source: Source, labels: Sequence[int] | None, image: Any) -> np.ndarray[Any, Any]:
        """The mask of an image, by the image's own geometry: float32 (height, width) of 0…1."""
        decoded = self._decoded(source)
        decoded = decoded.pixels if isinstance(decoded, Picture) else decoded
        mask = np.asarray(self.transform.mask(decoded, size=image.shape[:2], labels=labels), np.float32)  # type: ignore[attr-defined]
        if mask.shape != self.shape[-2:] or not mask.any():
            raise InputError(f"the mask became {mask.shape} with {np.count_nonzero(mask)} pixels inside")
        return mask

    def _fault(self, error: Exception, source: Source) -> Fault | None:
        """What stops the run, if an error is that: the machine's fault or a plugin's, not the input's."""
        if isinstance(source.fault, SetupError):  # the network's, whatever a library made of it
            return source.fault
        if isinstance(error, (SetupError, PluginError)):
            return error
        if isinstance(error, MemoryError):
            return SetupError("Out of memory while decoding.", hint="fewer --num-workers")
        if isinstance(error, ImportError):
            return SetupError(
                f"Reading {Path(source.location).suffix} files needs something that isn't here: {error}.",
                hint="install it, then run it again",
            )
        return self._environment(error, source.location) if isinstance(error, OSError) else None

    def _environment(self, error: OSError, path: str) -> SetupError | None:
        """The machine's fault behind an error, if it is one."""
        if error.errno in _ENVIRONMENT:
            return SetupError(f"Reading inputs failed: {error.strerror}.", hint="mend it, then run it again")
        if isinstance(error, FileNotFoundError):
            for root in self.roots:
                if not locations.is_url(root) and path.startswith(root.rstrip("/") + "/") and not Path(root).is_dir():
                    return SetupError(f"The folder {root} isn't there.", hint="mount it, then run it again")
        return None

    # Workers that are spawned, not forked, get the data set by pickle: plugins given by path must be loaded in the
    # new process before the transform, which may be of one of them, can be unpickled.
    def __getstate__(self) -> dict[str, Any]:
        return {
            "uris": self.uris, "shape": self.shape, "roots": self.roots, "masks": self.masks,
            "paths": self.plugins.paths, "transform": pickle.dumps(self.transform),
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.uris, self.shape, self.roots, self.masks = (state[key] for key in ("uris", "shape", "roots", "masks"))
        self.plugins = Plugins.load(state["paths"])
        self.transform = pickle.loads(state["transform"])  # noqa: S301 - our own process wrote it a moment ago

    def collate(self, items: Sequence[Item]) -> Batch:
        """Stack a batch; a failed input is zeros."""
        import torch

        values = np.zeros((len(items), *self.shape), np.float32)
        fault: Fault | None = None
        masks = None if self.masks is None else np.ones((len(items), *self.shape[-2:]), np.float32)
        for slot, item in enumerate(items):
            if isinstance(item.values, (SetupError, PluginError)):
                fault = fault or item.values
            elif item.values is not None:
                values[slot] = item.values
            if masks is not None and item.mask is not None:
                masks[slot] = item.mask
        tensor = None if masks is None else torch.from_numpy(masks)
        return Batch(torch.from_numpy(values), [item.read for item in items], fault, tensor)

    def batches(
        self, rows: Sequence[Sequence[int]], *, num_workers: int, pin: bool, context: str | None = None
    ) -> Generator[Batch, None, None]:
        """The given batches in order, loaded by ``num_workers`` processes (0: in this one)."""
        from torch.utils.data import DataLoader

        loader: DataLoader[Any] = DataLoader(
            self,  # type: ignore[arg-type]  # a map-style data set needs no base class
            batch_sampler=rows,  # type: ignore[arg-type]
            num_workers=num_workers,
            collate_fn=self.collate,
            pin_memory=pin,
            multiprocessing_context=context if num_workers else None,
        )
        try:
            yield from loader
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise SetupError(
                f"A loader worker died: {str(error).splitlines()[0]}",
                hint="often for want of memory: fewer --num-workers, or 0; then run it again",
            ) from error


def _read(source: Source) -> Read:
    if source.content_hash is None:
        raise PluginError("the reader read nothing through its Source, so that there is no content hash")
    if source.size is None or source.mtime_ns is None:  # a container's reader, which took its own hash
        return Read(source.content_hash, *locations.stat(source.location))
    return Read(source.content_hash, source.size, source.mtime_ns)


def _failure(stage: str, error: Exception, state: str) -> Failure:
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return Failure(stage, name, "the file isn't there", state)
    if isinstance(error, OSError) and error.strerror:
        return Failure(stage, name, error.strerror, state)
    if isinstance(error, (InputError, NotFoundError)):
        hint = f" Next: {one_line(error.hint)}." if error.hint else ""
        return Failure(stage, name, (one_line(error.message) or name) + hint, state)
    return Failure(stage, name, one_line(str(error), 500) or name, state)
