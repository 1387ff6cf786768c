"""Voxels inside a closed surface, as regions of interest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Box, Grid, Mesh


def is_closed(mesh: Mesh) -> bool:
    """Return whether a mesh is closed.

    Parameters
    ----------
    mesh : Mesh
        The mesh.

    Returns
    -------
    bool
        Whether it has faces and every edge has exactly two, which meet it in opposite directions.
    """
    if not len(mesh.faces):
        return False
    count = len(mesh.vertices)
    start, end = mesh.faces.ravel().astype(np.int64), np.roll(mesh.faces, -1, axis=1).ravel().astype(np.int64)
    forth, back = np.sort(start * count + end), np.sort(end * count + start)
    return bool((forth[1:] != forth[:-1]).all() and (forth == back).all())


def inside_mesh(mesh: Mesh, grid: Grid, box: Box) -> NDArray[np.bool_]:
    """Return the voxels of a box whose centres lie inside a closed mesh.

    A centre is inside where a line from it to far away meets the surface an odd number of times (VTK's image stencil),
    however the faces are wound: of a vesicle of two shells, between them.

    Parameters
    ----------
    mesh : Mesh
        A closed mesh of any number of components, vertices in Å.
    grid : Grid
        The volume's grid.
    box : Box
        The voxels to fill.

    Returns
    -------
    (Z, Y, X) bool
        Of the box's shape.

    Raises
    ------
    ValueError
        If the mesh has an open edge.
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
    inside: NDArray[np.bool_] = values.reshape(box.shape).astype(bool)
    return inside
