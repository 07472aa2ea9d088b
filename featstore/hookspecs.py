"""The hooks that a plugin may implement. Each returns an iterable of specs; none imports anything heavy.

A plugin is a module (or any object) with functions marked by :data:`hookimpl`, registered by an entry point of the
group ``featstore``, given with ``--plugin path.py``, or named in ``$FEATSTORE_PLUGINS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pluggy

from featstore.spec import BackboneSpec, ExporterSpec, FuserSpec, Json, PoolerSpec, ReaderSpec, StepSpec

hookspec = pluggy.HookspecMarker("featstore")
hookimpl = pluggy.HookimplMarker("featstore")


@hookspec
def featstore_backbones() -> Iterable[BackboneSpec]:
    """Backbones with fixed names.

    Example::

        @featstore.hookimpl
        def featstore_backbones():
            yield featstore.BackboneSpec("lab:histogram", load=lambda request: Histogram())
    """
    raise NotImplementedError


@hookspec
def featstore_resolve_backbone(name: str, trusted: bool) -> BackboneSpec | None:
    """Backbones of an open family, such as the 1,800 names of ``timm:``.

    Called only for names that :func:`featstore_backbones` didn't list. Return None for other providers' names, and
    raise :class:`~featstore.errors.NotFoundError`, with a suggestion, for an unknown name of your own.

    ``trusted`` is False where the name was read from a store, by ``featstore retry``: if a name of yours says which
    code to run, refuse it then. Leave the argument out if none does.

    Example::

        @featstore.hookimpl
        def featstore_resolve_backbone(name):
            if name.startswith("lab:"):
                return featstore.BackboneSpec(name, load=load_from_the_lab)
            return None
    """
    raise NotImplementedError


@hookspec
def featstore_poolers() -> Iterable[PoolerSpec]:
    """Poolers: tokens → vector, and a patient's rows → one row.

    Example::

        def load():
            return lambda values, *, prefix, grid: values[:, 0, :]

        @featstore.hookimpl
        def featstore_poolers():
            yield featstore.PoolerSpec("lead", load=load)
    """
    raise NotImplementedError


@hookspec
def featstore_fusers() -> Iterable[FuserSpec]:
    """Fusers: the inputs of a training table → one vector.

    Example::

        class Sum(featstore.Fuser):
            def transform(self, parts):
                return sum(parts.values())

        @featstore.hookimpl
        def featstore_fusers():
            yield featstore.FuserSpec("sum", load=Sum)
    """
    raise NotImplementedError


@hookspec
def featstore_steps() -> Iterable[StepSpec]:
    """Steps: what is learned from train rows on the way to a table, such as a scaler, a projection, an encoder.

    Example::

        class Quantile(featstore.Step):
            def fit(self, blocks):
                values = numpy.concatenate([block.values for block in blocks()])
                return sklearn.preprocessing.QuantileTransformer(random_state=0).fit(values)

        @featstore.hookimpl
        def featstore_steps():
            yield featstore.StepSpec("quantile", load=Quantile)
    """
    raise NotImplementedError


@hookspec
def featstore_readers() -> Iterable[ReaderSpec]:
    """Readers: a file's bytes → what a backbone's transform takes.

    Example::

        def read(source):
            return numpy.frombuffer(source.read_bytes(), "uint8").reshape(28, 28)

        @featstore.hookimpl
        def featstore_readers():
            yield featstore.ReaderSpec("raw28", suffixes=(".raw",), read=read)
    """
    raise NotImplementedError


@hookspec
def featstore_exporters() -> Iterable[ExporterSpec]:
    """Exporters: a training table, or the vectors of a feature set → a file or folder, chosen by its ending.

    Example::

        def write(path, schema, batches, *, wide):
            with pyarrow.ipc.new_file(path, schema) as file:
                for batch in batches:
                    file.write_batch(batch)

        @featstore.hookimpl
        def featstore_exporters():
            yield featstore.ExporterSpec("arrow", suffix=".arrow", write=write)
    """
    raise NotImplementedError


@hookspec
def featstore_provenance(kind: str) -> Mapping[str, Json]:
    """Facts to record with every run (``kind`` is ``extract``, ``ingest``, …), such as a scanner's software version.

    Example::

        @featstore.hookimpl
        def featstore_provenance(kind):
            return {"cluster": os.environ.get("SLURM_CLUSTER_NAME", "")}
    """
    raise NotImplementedError
