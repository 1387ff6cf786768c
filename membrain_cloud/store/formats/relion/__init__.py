"""Tables of particles as RELION means them: the text of STAR files, columns as numbers, positions and orientations.

May import `store.formats.local_input` and the layers below `store.formats`.

Modules
-------
tables      the tables of a STAR file, every value as text
columns     columns of text as numbers: scores, membranes, classes
particles   RELION's rules for positions, shifts, orientations and optics groups
"""

__all__ = ["columns", "particles", "tables"]
