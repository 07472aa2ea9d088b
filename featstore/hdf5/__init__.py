"""HDF5 files as they come from others: opened so that what a header claims is looked at before HDF5 believes it.

Public: plugins import from its modules. None of them is loaded before a file is opened, as h5py may not be here.
"""
