"""Regions of interest: the voxels inside a closed surface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Box, Grid, Mesh


def is_closed(mesh: Mesh) -> bool:
    """Whether every edge has exactly two faces, which meet it in opposite directions; a mesh without faces is not."""
    if not len(mesh.faces):
        return False
    count = len(mesh.vertices)
    start, end = mesh.faces.ravel().astype(np.int64), np.roll(mesh.faces, -1, axis=1).ravel().astype(np.int64)
    forth, back = np.sort(start * count + end), np.sort(end * count + start)
    return bool((forth[1:] != forth[:-1]).all() and (forth == back).all())


def inside_mesh(mesh: Mesh, grid: Grid, box: Box) -> NDArray[np.bool_]:
    """(Z, Y, X) bool: the voxels of a box whose centres lie inside a closed mesh of any number of pieces.

    A vesicle of two shells, the inner one wound the other way, is inside between them. The winding does not count: a
    centre is inside where a line from it to far away meets the surface an odd number of times (VTK's image stencil).
    Raises ValueError where the mesh has an open edge: then nothing is inside.
    """
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkImagingStencil import vtkImageStencilToImage, vtkPolyDataToImageStencil

    if not is_closed(mesh):
        raise ValueError("the mesh is not closed: it has no inside")
    import pyvista

    spacing = grid.voxel_spacing_angstrom
    cutter = vtkPolyDataToImageStencil()
    cutter.SetInputData(pyvista.PolyData.from_regular_faces(mesh.vertices, np.asarray(mesh.faces, np.int64)))
    cutter.SetOutputSpacing(spacing, spacing, spacing)
    cutter.SetOutputOrigin(0.0, 0.0, 0.0)
    (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
    cutter.SetOutputWholeExtent(x0, x1 - 1, y0, y1 - 1, z0, z1 - 1)
    image = vtkImageStencilToImage()
    image.SetInputConnection(cutter.GetOutputPort())
    image.SetInsideValue(1)
    image.SetOutsideValue(0)
    image.SetOutputScalarTypeToUnsignedChar()
    image.Update()
    values = vtk_to_numpy(image.GetOutput().GetPointData().GetScalars())
    return values.reshape(box.shape).astype(bool)
