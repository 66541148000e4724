"""Make ba_synthetic.txt.bz2: a simulated bundle adjustment problem in BAL format.

    python make_ba_synthetic.py [output.txt.bz2]

A car drives 30 m along a street and takes 16 photographs, turned to the left and the right in turns. Scene points lie
on the window grids of the facades at both sides, on kerbs and on the ground. A camera sees a point that falls into its
image at 2 to 35 m, with a chance that sinks with the distance; pixels carry Gaussian noise of 0.5. Points seen from
fewer than three cameras, or from nearly the same direction by all, are dropped.

The starting values are what a reconstruction pipeline has before its final adjustment: cameras whose pose drifts along
the path, a focal length some per cent off, no lens distortion, and points triangulated with these cameras.

The generator is seeded; only the last printed digits of the file can differ between machines.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bundle_adjustment import Problem, cost, project, write_bal

__all__ = ["make_problem"]

SEED = 20250117
CAMERAS = 16
NOISE = 0.5  # standard deviation of a pixel coordinate
WIDTH, HEIGHT = 1280.0, 960.0


def make_scene(rng: np.random.Generator) -> np.ndarray:
    """Make the points of a street along +z: x to the right, y up, metres, the camera 1.6 m above the ground; (n, 3)."""
    parts = []
    for side in (-1.0, 1.0):
        # Facades: houses 8 m long at slightly different distances, 3 x 4 windows each, points at the window corners.
        for house in np.arange(-2.0, 60.0, 8.0):
            front = side * (7.0 + rng.uniform(-0.8, 0.8))
            z, y, corner_z, corner_y = np.meshgrid(
                house + 1 + 2.6 * np.arange(3), 0.2 + 2.9 * np.arange(4), [0.0, 1.1], [0.0, 1.5], indexing="ij"
            )
            z, y = (z + corner_z).ravel(), (y + corner_y).ravel()
            parts.append(np.stack([np.full_like(z, front) + rng.choice([0.0, 0.15], z.size), y, z], axis=1))
            # Texture of the wall.
            wall = rng.uniform([-0.05, -1.4, house], [0.05, 11.0, house + 8.0], (170, 3))
            parts.append(wall + np.array([front, 0.0, 0.0]))
        # Kerb stones.
        z = np.arange(-2.0, 60.0, 0.7)
        parts.append(np.stack([np.full_like(z, side * 4.0), np.full_like(z, -1.5), z], axis=1))
    ground = rng.uniform([-4.0, -1.62, -2.0], [4.0, -1.58, 55.0], (700, 3))
    return np.concatenate([*parts, ground])


def pose(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Return the angle-axis vector of the rotation world -> camera; a BAL camera looks along its own -z axis, y up."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    look = np.array([[-1.0, 0, 0], [0, 1, 0], [0, 0, -1]])  # half a turn about y: from looking along +z to -z
    turn = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    tilt = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    bank = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    matrix = bank @ tilt @ look @ turn
    angle = np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1))
    axis = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    return angle * axis / np.linalg.norm(axis)


def rotate(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return R(w) x for stacked vectors; the angles here are far from zero."""
    r = np.linalg.norm(w, axis=-1, keepdims=True)
    u = w / r
    along = np.sum(u * x, axis=-1, keepdims=True)
    return np.cos(r) * x + np.sin(r) * np.cross(u, x) + (1 - np.cos(r)) * along * u


def drive(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the true cameras (c, 9), and their estimates with drift."""
    true, start = np.zeros((CAMERAS, 9)), np.zeros((CAMERAS, 9))
    drift_angle, drift_centre = np.zeros(3), np.zeros(3)
    for i in range(CAMERAS):
        z = 30.0 * i / (CAMERAS - 1)
        centre = np.array([0.6 * np.sin(0.15 * z), 0.05 * rng.standard_normal(), z + 0.1 * rng.standard_normal()])
        angles = np.array([0.45 * (-1) ** i + 0.06 * np.sin(0.2 * z), 0.0, 0.0]) + 0.02 * rng.standard_normal(3)
        focal = 820.0 + 2.0 * rng.standard_normal()
        drift_angle = drift_angle + 0.003 * rng.standard_normal(3)
        drift_centre = drift_centre + 0.03 * rng.standard_normal(3)
        for camera, turn, where, lens in (
            (true[i], angles, centre, (focal, -0.06, 0.008)),
            (
                start[i],
                angles + drift_angle,
                centre + drift_centre,
                (focal * (1 + 0.015 * rng.standard_normal()), 0, 0),
            ),
        ):
            camera[:3] = pose(*turn)
            camera[3:6] = -rotate(camera[:3], where)
            camera[6:] = lens
    return true, start


def triangulate(
    cameras: np.ndarray, camera: np.ndarray, point: np.ndarray, pixel: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Intersect the viewing rays of each point by least squares, taking the lens distortion as zero; (n, 3).

    Also which points deserve it: in front of every camera, and with rays that differ by degrees, not by minutes.
    """
    n = point.max() + 1
    w, t, f = cameras[camera, :3], cameras[camera, 3:6], cameras[camera, 6:7]
    ray = rotate(-w, np.concatenate([pixel / f, -np.ones((len(pixel), 1))], axis=1))
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    centre = rotate(-w, -t)
    # |(I - u u')(X - centre)|^2, summed over the rays of a point.
    across = np.eye(3) - ray[:, :, None] * ray[:, None, :]
    a, b = np.zeros((n, 3, 3)), np.zeros((n, 3))
    np.add.at(a, point, across)
    np.add.at(b, point, (across @ centre[:, :, None])[:, :, 0])
    x = np.linalg.solve(a, b[:, :, None])[:, :, 0]
    # The smallest eigenvalue over the number of rays is the mean sin^2 of the rays' angles to their common direction.
    spread = np.linalg.eigvalsh(a)[:, 0] / np.bincount(point)
    in_front = np.sum((x[point] - centre) * ray, axis=1) > 1.0
    return x, (spread > np.sin(np.radians(1.5)) ** 2) & (np.bincount(point, ~in_front) == 0)


def make_problem(seed: int = SEED) -> Problem:
    """Make the problem with its starting values."""
    rng = np.random.default_rng(seed)
    scene, (true, start) = make_scene(rng), drive(rng)

    camera, point = (index.ravel() for index in np.indices((CAMERAS, len(scene))))
    (pixel,) = project(true[camera], scene[point])
    depth = -(rotate(true[camera, :3], scene[point]) + true[camera, 3:6])[:, 2]
    chance = np.clip(1.1 - depth / 35.0, 0.0, 0.85)
    seen = (depth > 2.0) & (np.abs(pixel[:, 0]) < WIDTH / 2) & (np.abs(pixel[:, 1]) < HEIGHT / 2)
    seen &= rng.uniform(size=depth.size) < chance
    pixel += NOISE * rng.standard_normal(pixel.shape)

    seen &= np.bincount(point[seen], minlength=len(scene))[point] >= 3
    camera, pixel, point = camera[seen], pixel[seen], np.unique(point[seen], return_inverse=True)[1]
    x, good = triangulate(start, camera, point, pixel)
    camera, pixel, point = camera[good[point]], pixel[good[point]], (np.cumsum(good) - 1)[point[good[point]]]
    order = np.lexsort((camera, point))
    return Problem(camera[order], point[order], pixel[order], start, x[good])


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent / "ba_synthetic.txt.bz2"
    problem = make_problem()
    write_bal(path, problem, number=".10g", pixel=".2f")
    print(
        f"{path}: {len(problem.cameras)} cameras, {len(problem.points)} points, {len(problem.pixel)} observations, "
        f"initial cost {cost(problem):.1f}, {path.stat().st_size} bytes"
    )
