"""Opening: what a file or folder holds, by its ending or by what lies in it."""

from __future__ import annotations

from featstore.errors import NotFoundError, UsageError
from featstore.imports import groups, hdf5, tabular, trees
from featstore.imports.columns import Columns
from featstore.imports.request import ImportRequest
from featstore.imports.vectors import Contents, NpyFile, shaped

_ENDINGS = (".npy", ".csv", ".parquet", ".h5", ".hdf5", ".h5ad", ".h5mu", ".zarr")


def open_source(request: ImportRequest, index: Columns | None) -> tuple[Contents, Columns | None]:
    """Open the source of an import.

    Returns:
        what it holds; and the index, or None where it is used already: that of a tree says which file is which.

    Raises:
        NotFoundError: it isn't there. UsageError: nothing that is known, or options that don't go with it.
        InputError: it is damaged.
    """
    path = request.source
    if not path.exists():
        raise NotFoundError(f"There is no file or folder {path}.")
    suffix = path.suffix.lower()
    is_tree = False
    if path.is_dir():
        if groups.is_zarr(path):
            contents = groups.open_zarr(path, request.key)
        elif (path / "img_emb").is_dir():
            contents = trees.open_clip(path)
        else:
            is_tree, contents = True, trees.open_tree(path, request, index)
    elif suffix == ".npy":
        file = NpyFile(path)
        contents = Contents(file, [path], [f"{path.name}#row={row}" for row in range(file.count)])
    elif suffix in (".csv", ".parquet"):
        contents = tabular.open_table(path, request.vectors, request.key)
    elif suffix in (".h5ad", ".h5mu"):
        contents = groups.open_h5ad(path, request.key, request.vectors)
    elif suffix in (".h5", ".hdf5"):
        is_tree = hdf5.is_patches(path)
        contents = (
            trees.open_tree(path.parent, request, index, path.name) if is_tree else hdf5.open_h5(path, request.key)
        )
    else:
        raise UsageError(
            f"{path.name} ends with none of {', '.join(_ENDINGS)}.", hint="convert it, say with numpy.save"
        )
    if request.layout is not None and not is_tree:
        raise UsageError("--layout goes with a folder of files, or with a file of patches.")
    if request.vectors is not None and suffix not in (".csv", ".parquet", ".h5mu"):
        raise UsageError("--vectors names the columns of a CSV or Parquet, or the modality of an h5mu.")
    if request.shape is not None:
        contents.vectors = shaped(contents.vectors, request.shape, path.name)
    return contents, None if is_tree else index
