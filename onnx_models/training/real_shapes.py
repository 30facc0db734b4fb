"""Vertebrae of real people as signed distances, for judging networks and, where said so, for training the segmenter.

Three sources, all outside the project (the folder of real images): a label map of one whole spine (T6 to L5 are
unbroken in it), the surfaces L1 to S1 of the Visible Human, and the mean surface of L2 to L5 of 87 people. They are
shapes, not images: what grey values they get is the business of ``real_rendering``.

Patient coordinates are LPS in mm; where a source has no patient, its own axes are turned into left, back, up.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from onnx_models.training.real_cases import nifti

Floats = NDArray[np.float64]
STEP_MM = 0.7
"""Grid of the signed distances."""
MARGIN_MM = 7.0
FAR_MM = 100.0
VERSE = {7: "C7", **{7 + n: f"T{n}" for n in range(1, 13)}, **{19 + n: f"L{n}" for n in range(1, 6)}}
"""Numbers of the label map (those of VerSe)."""
UNBROKEN = tuple(f"T{n}" for n in range(6, 13)) + tuple(f"L{n}" for n in range(1, 6))
"""Levels of the label map without a gap between them: T2 and T5 are absent from it."""


@dataclass(frozen=True)
class DistanceGrid:
    """Signed distance in mm, negative inside, on an axis-parallel grid.

    ``values[i, j, k]`` lies at ``origin + STEP_MM * (i, j, k)``: axes x, y, z in LPS.
    """

    values: NDArray[np.float32] = field(repr=False)
    origin_lps_mm: Floats

    def __call__(self, points_lps_mm: Floats) -> NDArray[np.float32]:
        """(...) at points (..., 3), trilinear; ``FAR_MM`` outside the grid."""
        p = np.asarray(points_lps_mm, np.float64)
        index = ((p.reshape(-1, 3) - self.origin_lps_mm) / STEP_MM).T
        out = ndimage.map_coordinates(self.values, index, np.float32, order=1, mode="constant", cval=FAR_MM)
        return np.asarray(out.reshape(p.shape[:-1]))

    @property
    def box_lps_mm(self) -> tuple[Floats, Floats]:
        """Lower and upper corner of the grid."""
        return self.origin_lps_mm, self.origin_lps_mm + STEP_MM * (np.array(self.values.shape) - 1)


@dataclass(frozen=True)
class RealVertebra:
    """One vertebra.

    Attributes
    ----------
    level
        "T6" to "S1".
    frame
        (3, 3): rows are its left, back and up in LPS. Up is normal to the mean of both end plates.
    keypoints_lps_mm
        (6, 3) in the order of ``inference.findings.KEYPOINTS``, found on the surface of the whole vertebra in the
        mid-sagittal plane, where the canal parts the body from the spinous process. The corners are the outermost
        points of the section along its diagonals, the middle ones lie on the end plates half-way between them.
    body, whole
        Signed distances of the body and of the whole vertebra. Where the source does not separate the body, it ends at
        the plane through both posterior corners.
    separated
        Whether the source itself separates the body.
    """

    level: str
    frame: Floats
    keypoints_lps_mm: Floats
    body: DistanceGrid = field(repr=False)
    whole: DistanceGrid = field(repr=False)
    separated: bool

    @property
    def heights_mm(self) -> Floats:
        """(3,): anterior, middle, posterior."""
        return np.asarray(np.linalg.norm(self.keypoints_lps_mm[0::2] - self.keypoints_lps_mm[1::2], axis=1))

    @property
    def centroid_lps_mm(self) -> Floats:
        """(3,): mean of the six points."""
        return np.asarray(self.keypoints_lps_mm.mean(axis=0))

    def vertebra_distance(self, points_lps_mm: Floats) -> NDArray[np.float32]:
        """(...) signed distance of points (..., 3) to the whole vertebra in mm, negative inside."""
        return self.whole(points_lps_mm)

    def body_distance(self, points_lps_mm: Floats) -> NDArray[np.float32]:
        """(...) signed distance of points (..., 3) to the body in mm, negative inside."""
        own = self.body(points_lps_mm)
        if self.separated:
            return own
        corners = self.keypoints_lps_mm[4:6]
        up = (corners[0] - corners[1]) / np.linalg.norm(corners[0] - corners[1])
        back = np.cross(up, self.frame[0])
        behind = (np.asarray(points_lps_mm, np.float64) - corners.mean(axis=0)) @ (back / np.linalg.norm(back))
        return np.asarray(np.maximum(own, behind), np.float32)


@dataclass(frozen=True)
class RealSpine:
    """Vertebrae of one source from the top, with no gap between them; ``person`` says whose."""

    name: str
    person: str
    vertebrae: tuple[RealVertebra, ...]


def load_spines(folder: Path) -> list[RealSpine]:
    """All three, from the folder of real images."""
    return [load_label_map(folder), load_visible_human(folder), load_mean_lumbar(folder)]


def load_label_map(folder: Path, levels: Sequence[str] = UNBROKEN) -> RealSpine:
    """One patient's label map, 0.32 x 0.32 mm sagittal slices 2 mm apart, of `levels` (it also has C7, T1, T3, T4)."""
    labels = nifti(folder / "bone-cement-bukas" / "healthy_ref_mask.nii.gz")
    marks = json.loads((folder / "bone-cement-bukas" / "healthy_ref_ctd.json").read_text())[1:]
    # marks count along the file's own axes (P, I, R), which ``nifti`` turns into (R, I, P)
    middle = {VERSE[m["label"]]: labels.to_lps(np.array([m["Z"], m["Y"], m["X"]])) for m in marks}
    number = {level: n for n, level in VERSE.items()}
    centres = np.array([middle[level] for level in levels])
    made = []
    for i, level in enumerate(levels):
        whole = _of_slices(labels.hu == number[level], labels.affine)
        up = centres[max(i - 1, 0)] - centres[min(i + 1, len(levels) - 1)]
        made.append(_vertebra(level, whole, whole, centres[i], up, separated=False))
    return RealSpine("label map", "one patient", tuple(made))


def load_visible_human(folder: Path) -> RealSpine:
    """L1 to L5 and the body of S1 of the Visible Human; bodies are separate surfaces."""
    parts = folder / "meshes" / "artisynth_LSS"
    levels = ("L1", "L2", "L3", "L4", "L5", "S1")
    bodies = {level: _obj(parts / f"{level}_body.obj") for level in levels}
    centres = np.array([_middle(bodies[level][0]) for level in levels])
    made = []
    for i, level in enumerate(levels):
        body = of_surface(*bodies[level])
        whole = body if level == "S1" else of_surface(*_obj(parts / f"{level}_Schrumpfverpacken.obj"))
        up = centres[max(i - 1, 0)] - centres[min(i + 1, len(levels) - 1)]
        made.append(_vertebra(level, body, whole, centres[i], up, separated=True))
    return RealSpine("surfaces", "the Visible Human", tuple(made))


def load_mean_lumbar(folder: Path) -> RealSpine:
    """L2 to L5 of the mean surface of 87 people; bodies are not separated."""
    parts = folder / "meshes" / "morphable_lumbar_L2-L5"
    points = _turned(np.loadtxt(parts / "meanMesh_vertices.csv", delimiter=","))
    faces = np.loadtxt(parts / "meanMesh_faces.csv", delimiter=",").astype(np.int64) - 1
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(points),) * 2)
    count, part = connected_components(graph, directed=False)
    largest = sorted(range(count), key=lambda n: -int((part == n).sum()))[:4]
    pieces = [faces[part[faces[:, 0]] == n] for n in largest]
    pieces.sort(key=lambda face: -float(points[face][..., 2].mean()))
    centres = np.array([_front_middle(points[np.unique(f)]) for f in pieces])
    made = []
    for i, (level, face) in enumerate(zip(("L2", "L3", "L4", "L5"), pieces, strict=True)):
        whole = of_surface(points, face)
        up = centres[max(i - 1, 0)] - centres[min(i + 1, 3)]
        made.append(_vertebra(level, whole, whole, centres[i], up, separated=False))
    return RealSpine("mean surface", "mean of 87 people", tuple(made))


def _turned(points: Floats) -> Floats:
    """Axes (front, left, up) of both mesh sources to (left, back, up)."""
    return np.column_stack([points[:, 1], -points[:, 0], points[:, 2]])


def _middle(points: Floats) -> Floats:
    return np.asarray((points.min(axis=0) + points.max(axis=0)) / 2)


def _front_middle(points: Floats) -> Floats:
    """A place inside the body: on the midline, 16 mm behind the front of the vertebra's middle part."""
    x = float(_middle(points)[0])
    centre = points[np.abs(points[:, 0] - x) < 4]
    front = float(centre[:, 1].min())
    wall = centre[centre[:, 1] < front + 16]
    return np.array([x, front + 16, float(_middle(wall)[2])])


def _obj(path: Path) -> tuple[Floats, NDArray[np.int64]]:
    """Vertices in LPS mm and triangles of an OBJ file in metres."""
    lines = path.read_text().splitlines()
    points = np.array([line.split()[1:4] for line in lines if line.startswith("v ")], np.float64)
    faces = [[int(p.split("/")[0]) - 1 for p in line.split()[1:]] for line in lines if line.startswith("f ")]
    triangles = [(f[0], f[k], f[k + 1]) for f in faces for k in range(1, len(f) - 1)]
    return _turned(points * 1000.0), np.array(triangles, np.int64)


def of_surface(points: Floats, triangles: NDArray[np.int64]) -> DistanceGrid:
    """Signed distance of a closed surface of points (n, 3) in mm and triangles (m, 3).

    Raises
    ------
    ValueError
        Where the surface encloses nothing: it is open.
    """
    dots = _sprinkled(points[triangles], STEP_MM / 2)
    origin = dots.min(axis=0) - MARGIN_MM
    shape = np.ceil((dots.max(axis=0) + MARGIN_MM - origin) / STEP_MM).astype(int) + 1
    wall = np.zeros(shape, bool)
    wall[tuple(np.rint((dots - origin) / STEP_MM).astype(int).T)] = True
    inside = ndimage.binary_fill_holes(wall) & ~wall
    if inside.sum() < wall.sum() / 8:
        raise ValueError("the surface is open: it encloses nothing")
    # voxels of the wall itself: the side of the nearest triangle decides
    signed = np.where(inside, -1.0, 1.0) * ndimage.distance_transform_edt(~wall) * STEP_MM
    near = np.argwhere(np.abs(signed) < 2.5)
    tree = cKDTree(dots)
    away, nearest = tree.query(near * STEP_MM + origin)
    values = signed.astype(np.float32)
    on_wall = wall[tuple(near.T)]
    sign = np.where(inside[tuple(near.T)], -1.0, 1.0)
    normals = _normals(points, triangles)
    side = np.einsum("nd,nd->n", near * STEP_MM + origin - dots[nearest], normals[nearest])
    orientation = -1.0 if np.median(side[~on_wall] * sign[~on_wall]) < 0 else 1.0
    sign[on_wall] = np.where(orientation * side[on_wall] < 0, -1.0, 1.0)
    values[tuple(near.T)] = sign * away
    return DistanceGrid(values, origin)


def _weights(edges_mm: float, spacing_mm: float) -> Floats:
    n = max(int(np.ceil(edges_mm / spacing_mm)), 1)
    a, b = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    keep = a + b <= n
    return np.column_stack([a[keep], b[keep], n - a[keep] - b[keep]]) / n


def _groups(corners: Floats, spacing_mm: float) -> list[tuple[NDArray[np.int64], Floats]]:
    """Triangles (m, 3, 3) of like size, with the barycentric places of their samples."""
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    steps = np.maximum(np.ceil(longest / spacing_mm), 1).astype(int)
    return [(np.flatnonzero(steps == n), _weights(n * spacing_mm, spacing_mm)) for n in np.unique(steps)]


def _sprinkled(corners: Floats, spacing_mm: float) -> Floats:
    """Points on triangles (m, 3, 3), at most ``spacing_mm`` apart."""
    made = [np.einsum("wc,tcd->twd", w, corners[t]).reshape(-1, 3) for t, w in _groups(corners, spacing_mm)]
    return np.concatenate(made)


def _normals(points: Floats, triangles: NDArray[np.int64]) -> Floats:
    """The unit normal of the triangle of each point that `_sprinkled` gives, in its order."""
    corners = points[triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    return np.concatenate([np.repeat(normal[t], len(w), axis=0) for t, w in _groups(corners, STEP_MM / 2)])


def _of_slices(mask: NDArray[np.bool_], affine: Floats) -> DistanceGrid:
    """Signed distance of a mask with thick sagittal slices: in-slice distances interpolated across them.

    ``mask`` has any axes, placed by ``affine``; the coarsest axis is the one across slices (shape-based interpolation,
    Raya and Udupa, IEEE TMI 1990).
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    across = int(np.argmax(spacing))
    at = np.argwhere(mask)
    low = np.maximum(at.min(axis=0) - 30, 0)
    low[across] = at[:, across].min() - 2
    high = at.max(axis=0) + 31
    high[across] = at[:, across].max() + 3
    wide = np.pad(mask, 40)[tuple(slice(a + 40, b + 40) for a, b in zip(low, high, strict=True))]
    flat = np.moveaxis(wide, across, 0)
    plane = np.delete(spacing, across)
    signed = np.empty(flat.shape, np.float32)
    for n, image in enumerate(flat):
        outside = ndimage.distance_transform_edt(~image, sampling=plane) if image.any() else np.full(image.shape, 6.0)
        inside = ndimage.distance_transform_edt(image, sampling=plane)
        signed[n] = np.minimum(outside, 12) - inside
    signed = np.moveaxis(signed, 0, across)
    corners = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]) * (at.max(0) - at.min(0)) + at.min(
        0
    )
    places = corners @ affine[:3, :3].T + affine[:3, 3]
    origin = places.min(axis=0) - MARGIN_MM
    shape = np.ceil((places.max(axis=0) + MARGIN_MM - origin) / STEP_MM).astype(int) + 1
    grid = np.stack(np.meshgrid(*(np.arange(n) * STEP_MM for n in shape), indexing="ij"), axis=-1) + origin
    index = (grid - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T - low
    fine = ndimage.map_coordinates(signed, index.reshape(-1, 3).T, order=1, mode="nearest").reshape(shape)
    solid = ndimage.gaussian_filter(fine, 0.6) < 0
    half = STEP_MM / 2
    out = ndimage.distance_transform_edt(~solid) * STEP_MM - half
    inner = ndimage.distance_transform_edt(solid) * STEP_MM - half
    away = np.where(solid, -inner, out)
    near = np.abs(away) < 2 * STEP_MM
    values = np.where(near, np.clip(ndimage.gaussian_filter(fine, 0.6), -3, 3), away)
    return DistanceGrid(np.asarray(values, np.float32), origin)


# --- key points from a surface ----------------------------------------------------------------------------------------


def _vertebra(
    level: str, body: DistanceGrid, whole: DistanceGrid, inside_lps_mm: Floats, up: Floats, *, separated: bool
) -> RealVertebra:
    """Its frame and six points; ``inside_lps_mm`` lies in the body, near its midline, ``up`` along the spine."""
    frame = _frame(np.array([1.0, 0.0, 0.0]), up)
    centre = np.asarray(inside_lps_mm, np.float64)
    points = np.zeros((6, 3))
    for _ in range(4):
        points = section_points(whole, frame, centre)
        back = (points[4] + points[5] - points[0] - points[1]) / 2
        frame = _frame(frame[0], np.cross(frame[0], back))
        centre = points.mean(axis=0)
    return RealVertebra(level, frame, points, body, whole, separated)


def _frame(left: Floats, up: Floats) -> Floats:
    """Rows left, back, up: up is exact, left as near as it can be, all at right angles."""
    z = up / np.linalg.norm(up)
    x = left - z * (left @ z)
    x = x / np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def section_points(whole: DistanceGrid, frame: Floats, centre_lps_mm: Floats, step_mm: float = 0.25) -> Floats:
    """Six points (6, 3) in LPS mm on the section of a vertebra in the plane of its back and up axes.

    The section is the part around ``centre_lps_mm``: in the midline the canal parts the body from the spinous process.

    Raises
    ------
    ValueError
        Where there is no body at the centre.
    """
    reach = np.arange(-40.0, 40.0 + step_mm / 2, step_mm)
    back, up = np.meshgrid(reach, reach, indexing="ij")
    solid = whole(centre_lps_mm + back[..., None] * frame[1] + up[..., None] * frame[2]) < 0
    parts, _ = ndimage.label(ndimage.binary_opening(solid, iterations=int(1.0 / step_mm)))
    seen = np.argwhere(parts > 0)
    if not len(seen):
        raise ValueError("there is no body at this place")
    middle = len(reach) // 2
    nearest = seen[np.argmin(((seen - middle) ** 2).sum(axis=1))]
    cut = ndimage.binary_dilation(parts == parts[tuple(nearest)], iterations=int(2.0 / step_mm)) & solid
    v, w = (reach[i] for i in np.nonzero(cut))
    depth, height = float(np.ptp(np.percentile(v, [2, 98]))), float(np.ptp(np.percentile(w, [2, 98])))
    corners = {}
    for side in (-1, 1):
        for way in (1, -1):
            n = int(np.argmax(side * v / depth + way * w / height))
            corners[side, way] = np.array([v[n], w[n]])
    out = []
    for side in (-1, 0, 1):
        for way in (1, -1):
            if side:
                place = corners[side, way]
            else:
                at = (corners[-1, way][0] + corners[1, way][0]) / 2
                column = w[np.abs(v - at) < step_mm]
                place = np.array([at, column.max() if way > 0 else column.min()])
            out.append(centre_lps_mm + place[0] * frame[1] + place[1] * frame[2])
    return np.array(out)
