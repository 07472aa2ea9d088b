"""Ingest: from folders, manifests and tables to rows of the catalog. Nothing is decoded here."""

from featstore.ingest.layout import Layout, scan
from featstore.ingest.manifest import read_manifest
from featstore.ingest.samples import IngestResult, add_samples
from featstore.ingest.tabular import TabularResult, add_table

__all__ = ["IngestResult", "Layout", "TabularResult", "add_samples", "add_table", "read_manifest", "scan"]
