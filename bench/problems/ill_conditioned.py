"""A badly conditioned block-sparse problem: a drive through the streets of a city.

Cameras stand along the streets of a grid, points are seen by a few cameras in a row, and what is measured is each
point's direction (well) and distance (less well) in the frame of the camera, as a stereo rig does. Linearised at the
truth, a camera has six unknowns (position x, small rotation w) and point p seen by camera c has the residual

    r = L (dp - dx_c - dw_c x (p - x_c)),     L' L = bearing^2 (I - e e') + distance^2 e e',  e towards the point

Long streets bend at little cost: the smallest eigenvalues of the Schur complement fall with the fourth power of their
length, and a weak prior on all poses fixes the frame of reference. Block Jacobi sees none of this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

POSE = 6  # unknowns of a camera


@dataclass
class BlockSparseProblem:
    """Normal equations, ready for ``BlockSparseCross`` and ``BlockDiagonalBorder``."""

    h_tt: np.ndarray  # [n, 3, 3]
    indptr: np.ndarray  # [n + 1]
    block_index: np.ndarray  # [entries]
    values: np.ndarray  # [entries, 3, 6]
    block_offsets: np.ndarray  # [cameras + 1]
    h_bb: np.ndarray  # [cameras, 6, 6]
    g_t: np.ndarray  # [3 n]
    g_beta: np.ndarray  # [6 cameras]

    def schur(self) -> np.ndarray:
        """The dense Schur complement, by one small solve per point."""
        cameras, pose = len(self.h_bb), np.arange(POSE)
        s = np.zeros((cameras, POSE, cameras, POSE))
        s[np.arange(cameras), :, np.arange(cameras), :] = self.h_bb
        solved = np.linalg.solve(self.h_tt[np.repeat(np.arange(len(self.h_tt)), np.diff(self.indptr))], self.values)
        for begin, end in zip(self.indptr[:-1], self.indptr[1:], strict=True):
            seen = self.block_index[begin:end]
            s[np.ix_(seen, pose, seen, pose)] -= np.einsum("aij,bil->ajbl", self.values[begin:end], solved[begin:end])
        return s.reshape(cameras * POSE, cameras * POSE)


def street_cameras(blocks: int, per_block: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Positions along the streets of a `blocks` x `blocks` grid (0: one street), and the cameras of each street."""
    if blocks == 0:
        along = np.arange(per_block, dtype=float)
        return np.stack([along, 0 * along, 0 * along], axis=1), [np.arange(per_block)]
    positions: list[tuple[float, float, float]] = []
    streets: list[np.ndarray] = []
    index: dict[tuple[int, int], int] = {}
    for axis in (0, 1):
        for lane in range(blocks + 1):
            street = []
            for step in range(blocks * per_block + 1):
                at = (step, lane * per_block) if axis == 0 else (lane * per_block, step)
                if at not in index:  # crossings belong to both streets
                    index[at] = len(positions)
                    positions.append((*at, 0.0))
                street.append(index[at])
            streets.append(np.array(street))
    return np.array(positions, dtype=float), streets


def ill_conditioned(
    blocks: int = 3,
    per_block: int = 25,
    points_per_camera: int = 20,
    seen_by: int = 4,
    bearing: float = 30.0,
    distance: float = 3.0,
    prior: float = 1e-3,
    seed: int = 0,
) -> BlockSparseProblem:
    """A city of `blocks` x `blocks` house blocks with `per_block` cameras along each (`blocks=0`: one street)."""
    rng = np.random.default_rng(seed)
    position, streets = street_cameras(blocks, per_block)
    cameras = len(position)
    first, points = [], []  # the cameras that see a point, and where it is
    for street in streets:
        for start in range(len(street) - seen_by + 1):
            window = street[start : start + seen_by]
            centre = position[window].mean(axis=0)
            for _ in range(points_per_camera):
                first.append(np.sort(window))
                points.append(centre + rng.normal(scale=(3.0, 3.0, 1.5)))
    seen, point = np.array(first), np.array(points)
    n = len(point)

    towards = point[:, None, :] - position[seen]  # [n, seen_by, 3]
    towards = np.where(np.linalg.norm(towards, axis=2, keepdims=True) < 0.5, towards + 1.0, towards)
    e = towards / np.linalg.norm(towards, axis=2, keepdims=True)
    outer = e[..., :, None] * e[..., None, :]
    weight = bearing**2 * (np.eye(3) - outer) + distance**2 * outer  # L'L
    x, y, z = np.moveaxis(towards, 2, 0)
    zero = np.zeros_like(x)
    # -d(residual)/d(pose) = [I, -[p - x]_x], since w x u = -[u]_x w.
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(n, seen_by, 3, 3)
    jacobian = np.concatenate([np.broadcast_to(np.eye(3), cross.shape), -cross], axis=3)
    noise = rng.normal(scale=0.1, size=(n, seen_by, 3))

    weighted = weight @ jacobian
    h_bb = np.zeros((cameras, POSE, POSE))
    np.add.at(h_bb, seen, np.swapaxes(jacobian, 2, 3) @ weighted)
    h_bb += prior * np.eye(POSE)
    g_beta = np.zeros((cameras, POSE))
    np.add.at(g_beta, seen, -np.einsum("nsij,nsi->nsj", weighted, noise))
    return BlockSparseProblem(
        h_tt=weight.sum(axis=1) + 1e-9 * bearing**2 * np.eye(3),
        indptr=np.arange(n + 1, dtype=np.int64) * seen_by,
        block_index=seen.reshape(-1).astype(np.int64),
        values=-weighted.reshape(n * seen_by, 3, POSE),
        block_offsets=np.arange(cameras + 1, dtype=np.int64) * POSE,
        h_bb=h_bb,
        g_t=np.einsum("nsij,nsj->ni", weight, noise).reshape(-1),
        g_beta=g_beta.reshape(-1),
    )
