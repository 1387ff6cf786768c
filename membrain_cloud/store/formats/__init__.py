"""Files of other programs: volumes, particles, meshes and spectra, read and written.

May import `store.refs`, `store.volumes` and `store.objects`, and the layers below `store`.

Modules
-------
volume_reader    volumes of every kind, read box by box
volume_writer    MRC and OME-Zarr volumes, written box by box or whole
layouts          the headers of the kinds of volume files
volume_layout    what a header says, and reading the voxels behind it
volume_files     kinds of volume files by their names; compressed files
relion           what the columns of RELION's tables mean
star, motl       particles: RELION's STAR and CSV; EM and STOPGAP motive lists
star_particles   STAR files of many tomograms, and copies of them with further columns
pick_units       whether particles lie in their tomogram
meshes           meshes: HDF5 of MemBrain-pick, OBJ, GLB
copick_files     meshes and picks as copick stores them
membrain_stats   folders as membrain-stats reads them
spectra          radial spectra as text
local_input      local files that are read, or refused with the cause
local_output     local files, written whole or not at all
"""

__all__ = [
    "copick_files",
    "layouts",
    "local_input",
    "local_output",
    "membrain_stats",
    "meshes",
    "motl",
    "pick_units",
    "relion",
    "spectra",
    "star",
    "star_particles",
    "volume_files",
    "volume_layout",
    "volume_reader",
    "volume_writer",
]
