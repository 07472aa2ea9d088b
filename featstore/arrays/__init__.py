"""Vectors on disk: Zarr v3 segments, written chunk by chunk and read through memory maps.

Importing this costs NumPy; pyarrow and zarr are imported where they are needed.
"""

from featstore.arrays.arrow import arrow_block, arrow_vectors, codes, numbers
from featstore.arrays.layout import SegmentLayout, create_group, create_segment, group_attributes
from featstore.arrays.reading import FeatureReader
from featstore.arrays.segments import SegmentReader, check_chunk
from featstore.arrays.writing import storable, write_chunk

__all__ = [
    "FeatureReader",
    "SegmentLayout",
    "SegmentReader",
    "arrow_block",
    "arrow_vectors",
    "check_chunk",
    "codes",
    "create_group",
    "create_segment",
    "group_attributes",
    "numbers",
    "storable",
    "write_chunk",
]
