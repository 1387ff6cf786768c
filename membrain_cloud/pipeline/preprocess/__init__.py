"""Preprocessing of single volume files as MemBrain-seg offers it, in bounded memory.

May import `store`, the packages of algorithms, and `pipeline.settings`; `settings` here imports nothing, since the
command line shows its defaults.

Modules
-------
filters         one function for each command: read a file, filter it, write another one
volume_filter   one volume on its way through a filter in Fourier space
settings        resources, outputs, and the filters' settings with their defaults
"""

__all__ = ["filters", "settings", "volume_filter"]
