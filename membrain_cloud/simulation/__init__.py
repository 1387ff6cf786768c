"""Phantoms: simulated tomograms with known truth, and how a tilt series images a specimen.

It may import `image`, `geometry`, `errors`, `units`; no storage, no torch.

Modules
-------
phantom : make_phantom, make_specimen.
specimen : settings of a phantom, and the records of its truth.
builder : placement of membranes, proteins, filaments and gold.
membrane_shapes : mid-surfaces as signed distances.
proteins : particles as sums of Gaussians.
imaging : contrast transfer, missing wedge and noise.
"""

__all__ = ["builder", "imaging", "membrane_shapes", "phantom", "proteins", "specimen"]
