"""What bench/device_check.py knows without a device: floors, percentiles, records, targets, and the ledger.

A record is one measured item, one line of JSON in `bench/results/device_ledger.jsonl`. Lines are appended, never
edited: a wrong one is followed by one whose `corrects` holds its `id`. Times are in seconds.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "BYTE_BOUND",
    "DATASHEET",
    "LEDGER",
    "Cost",
    "Item",
    "Rates",
    "Shape",
    "Slower",
    "Target",
    "append",
    "find_slower",
    "floor_seconds",
    "launch_floor",
    "percentiles",
    "predicted_stage",
    "read",
    "record_of",
    "refuse_ledger",
    "solve_nodes",
    "stage_cost",
    "stage_floor",
    "targets_of",
    "upload_bytes",
    "warm_solve_limit",
]

LEDGER = pathlib.Path(__file__).resolve().parent / "results" / "device_ledger.jsonl"
KINDS = ("parity", "stage", "solve", "fit", "sweep", "compile_only")

# A stage that takes this many times its best time on the same device has become slower.
SLOWER = 1.2
LAUNCH_SECONDS, GRAPH_NODE_SECONDS, SYNC_SECONDS = 3e-6, 1e-6, 1e-5


# ---- floors ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rates:
    """Bytes and float64 flops per second: `memory`, the `link` to the host, `matrix` products, `vector` arithmetic."""

    memory: float
    link: float
    matrix: float
    vector: float


# Of the device specification, section 5.1.
DATASHEET = Rates(memory=4.8e12, link=55e9, matrix=67e12, vector=34e12)


@dataclass(frozen=True)
class Shape:
    """`n` row blocks of depth `d`, border width `k`; bandwidth of the border, None for a dense one."""

    n: int
    d: int
    k: int
    bandwidth: int | None = None

    @property
    def total(self) -> int:
        return self.n * self.d

    @property
    def border_numbers(self) -> int:
        return self.k * self.k if self.bandwidth is None else (self.bandwidth + 1) * self.k

    @property
    def border_name(self) -> str:
        return "dense" if self.bandwidth is None else "tridiagonal" if self.bandwidth == 1 else f"band {self.bandwidth}"


@dataclass(frozen=True)
class Cost:
    """Flops and bytes of a stage; `matrix`: its flops are those of a matrix product."""

    flops: float
    bytes: float
    matrix: bool = False


BYTE_BOUND = ("factor_and_whiten", "reduce_rhs", "border_solve", "expand", "apply_h")
FRAME_BUILD = ("factor_and_whiten", "reduce", "factor_border")
DUAL_BUILD = ("factor_and_whiten", "dual_reduce", "dual_factor")


def floor_seconds(cost: Cost, rates: Rates = DATASHEET) -> float:
    """Return the larger of the byte and the flop time."""
    return max(cost.bytes / rates.memory, cost.flops / (rates.matrix if cost.matrix else rates.vector))


def upload_bytes(s: Shape) -> int:
    """E0: the blocks, the border in its own form, and the gradient."""
    return 8 * (s.n * s.d * s.d + s.total * s.k + s.border_numbers + s.total + s.k)


def stage_cost(stage: str, s: Shape) -> Cost:
    """Return flops and bytes of a stage of the table of a device (section 5.1 of the device specification)."""
    t, k, d = s.total, s.k, s.d
    block = 128  # the diagonal blocks of L_S that are inverted
    products = 6.0 * k if s.bandwidth is not None else 2.0 * k * k
    costs = {
        "factor_and_whiten": Cost(t * d * d / 3 + t * d * k, 16 * t * d + 16 * t * k),  # E1, E2
        "reduce": Cost(t * k * (k + 1), 8 * (t * k + k * k), matrix=True),  # E3
        "factor_border": Cost(k**3 / 3, 8 * k * k, matrix=True),  # E4
        "log_det": Cost(t + k, 8 * (t + k)),  # E5
        "prepare_border_solve": Cost(k * block * block / 3, 8 * block * k),  # E6
        "reduce_rhs": Cost(2 * t * k, 8 * t * k),  # V2, V3
        "border_solve": Cost(2 * k * k, 8 * k * k),  # V4
        "expand": Cost(2 * t * k, 8 * t * k),  # V5, V6
        "apply_h": Cost(4 * t * k + products, 8 * (t * k + s.border_numbers)),  # Q1
        "solve": Cost(4 * t * k + 2 * k * k, 8 * (2 * t * k + k * k)),  # V2 to V6
        "border_build": Cost(k**3 / 3, 8 * k * k, matrix=True),
        "attempt": Cost(8 * t * k + 2 * k * k + products, 8 * (3 * t * k + k * k + s.border_numbers)),
        "dual_reduce": Cost(t * (t + 1) * k, 16 * t * k + 8 * t * t, matrix=True),  # Y1
        "dual_factor": Cost(t**3 / 3, 8 * t * t, matrix=True),  # Y2
        "dual_solve": Cost(4 * t * k + 2 * t * t, 8 * (2 * t * k + t * t)),  # Y3
        "schur_apply": Cost(4 * t * k + products, 8 * (t * k + s.border_numbers)),  # P1
    }
    parts = [costs[name] for name in DUAL_BUILD]
    costs["dual_build"] = Cost(sum(c.flops for c in parts), sum(c.bytes for c in parts), matrix=True)
    parts = [costs[name] for name in FRAME_BUILD]
    # E1 to E4. Its floor is the sum of theirs (stage_floor), not that of this sum.
    costs["frame_build"] = Cost(sum(c.flops for c in parts), sum(c.bytes for c in parts), matrix=True)
    return costs[stage]


def stage_floor(stage: str, s: Shape, rates: Rates = DATASHEET) -> float:
    """Return the floor of a stage, or of a build: the sum of its stages'."""
    builds = {"frame_build": FRAME_BUILD, "dual_build": DUAL_BUILD}
    if stage in builds:
        return sum(floor_seconds(stage_cost(part, s), rates) for part in builds[stage])
    return floor_seconds(stage_cost(stage, s), rates)


def launch_floor(stage: str, s: Shape, launches: int, rates: Rates) -> float:
    """Return what a byte-bound stage may take: 1.5 times its measured ceiling, and 3 us for every launch."""
    return 1.5 * floor_seconds(stage_cost(stage, s), rates) + LAUNCH_SECONDS * launches


def dual_solve_nodes(s: Shape) -> int:
    """The same on the dual route: solves with M and C, a pass over W and one over V."""
    return 2 + 8 + 2 * math.ceil(s.total / 128)


def solve_nodes(s: Shape, groups: int = 1) -> int:
    """Nodes of the graph of a solve: a copy each way, two passes over W, a node for each block of L_S and triangle."""
    return 2 + (2 + groups) + 2 * math.ceil(s.k / 128) + groups


def warm_solve_limit(s: Shape, nodes: int, stage: str = "solve") -> float:
    """Return what a solve on a frame may take: 3 (floor + 1 us for every node + one synchronization)."""
    return 3 * (floor_seconds(stage_cost(stage, s)) + GRAPH_NODE_SECONDS * nodes + SYNC_SECONDS)


def predicted_stage(stage: str, s: Shape, profile: Mapping[str, float]) -> float | None:
    """Return the time that the time model gives a stage of a build (dispatch policy, section 12), None for others."""
    t, k, d = s.total, s.k, s.d
    memory, launch, matrix = profile["mem_bw"], profile["t_launch"], profile["rate_mat"]
    if stage == "factor_and_whiten":
        return max(t * d * k / profile["rate_vec"], 16 * t * k / memory) + launch
    if stage == "reduce":
        rate = matrix * k / (k + profile["half_reduce"])
        return max(t * k * (k + 1) / rate, 8 * (t * k + k * k) / memory) + launch
    if stage == "factor_border":
        rate = matrix * k / (k + profile["half_factor"])
        return k**3 / 3 / rate + math.ceil(k / profile["panel"]) * profile["t_panel"]
    return None


# ---- items and records ----------------------------------------------------------------------------------------------
def percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Return the 10th percentile, the median and the 90th, linear between neighbours."""
    values = sorted(seconds)
    if not values:
        raise ValueError("no times")

    def at(share: float) -> float:
        place = share * (len(values) - 1)
        low = math.floor(place)
        high = min(low + 1, len(values) - 1)
        return values[low] + (place - low) * (values[high] - values[low])

    return at(0.1), at(0.5), at(0.9)


@dataclass(frozen=True, kw_only=True)
class Item:
    """What was measured. `ceiling` is the floor at the rates that were measured in the same run."""

    kind: str
    name: str
    fixture: str = ""
    shape: Shape | None = None
    seconds: tuple[float, ...] = ()
    warm_ups: int = 0
    solves: int = 1  # N
    route: str = "direct"
    storage: str = "float64"
    cost: Cost | None = None
    floor: float | None = None
    ceiling: float | None = None
    predicted: float | None = None
    launches: int | None = None
    parity: Mapping[str, Any] | None = None
    certificate: float | None = None
    counters: Mapping[str, Any] | None = None
    tests: Mapping[str, Any] | None = None  # run, passed, failed, skipped with reasons
    figures: Mapping[str, Any] | None = None  # what else was found

    @property
    def median(self) -> float:
        return percentiles(self.seconds)[1]

    @property
    def label(self) -> str:
        place = "" if self.shape is None else f" {self.fixture}, border {self.shape.border_name}"
        return self.name + place


def record_of(item: Item, environment: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the record of an item; `environment` is what all items of a run have in common."""
    if item.kind not in KINDS:
        raise ValueError(f"kind {item.kind!r} is none of {', '.join(KINDS)}")
    low, median, high = percentiles(item.seconds) if item.seconds else (None, None, None)

    def ratio(to: float | None) -> float | None:
        return None if median is None or not to else median / to

    shape = item.shape
    return {
        "id": f"{environment.get('date', '')}#{number}",
        **environment,
        "kind": item.kind,
        "item": item.name,
        "fixture": item.fixture,
        "shape": None if shape is None else {"n": shape.n, "d": shape.d, "k": shape.k, "border": shape.border_name},
        "route": item.route if shape is not None else None,
        "storage": item.storage if shape is not None else None,
        "N": item.solves,
        "warm_ups": item.warm_ups,
        "repetitions": len(item.seconds),
        "median": median,
        "p10": low,
        "p90": high,
        "flops": None if item.cost is None else item.cost.flops,
        "bytes": None if item.cost is None else item.cost.bytes,
        "floor": item.floor,
        "ratio_to_floor": ratio(item.floor),
        "measured_ceiling": item.ceiling,
        "ratio_to_measured_ceiling": ratio(item.ceiling),
        "predicted": item.predicted,
        "launches": item.launches,
        "parity": item.parity,
        "certificate": item.certificate,
        "counters": item.counters,
        "tests": item.tests,
        "figures": item.figures,
    }


# ---- the ledger -----------------------------------------------------------------------------------------------------
def refuse_ledger(path: pathlib.Path, backend: str) -> str:
    """Say why records of this backend must not go to this file; empty where they may."""
    if backend == "fake" and path.resolve() == LEDGER.resolve():
        return "records of the stand-in prove no device: name another file with --ledger"
    return ""


def append(path: pathlib.Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records, one line each.

    Raises
    ------
    ValueError
        A record is of the stand-in and the file is the ledger of devices. Nothing is written.
    """
    lines = []
    for record in records:
        if complaint := refuse_ledger(path, str(record.get("backend", ""))):
            raise ValueError(complaint)
        lines.append(json.dumps(record, allow_nan=False) + "\n")
    with path.open("a", encoding="utf-8") as file:
        file.writelines(lines)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return the records of a file, less those that a later one corrects; of no file, none."""
    if not path.is_file():
        return []
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    corrected = {record["corrects"] for record in records if record.get("corrects")}
    return [record for record in records if record.get("id") not in corrected]


def _key(record: Mapping[str, Any]) -> tuple[str, ...]:
    names = (
        "backend",
        "device",
        "compute_capability",
        "multiprocessors",
        "kind",
        "item",
        "fixture",
        "shape",
        "route",
        "storage",
        "N",
    )
    return tuple(json.dumps(record.get(name), sort_keys=True) for name in names)


@dataclass(frozen=True)
class Slower:
    """An item that has become slower, and its best record."""

    label: str
    median: float
    best: float
    best_id: str

    def __str__(self) -> str:
        times = f"{1e6 * self.median:.4g} us, {self.median / self.best:.3g} times its best"
        return f"{self.label}: {times} ({1e6 * self.best:.4g} us, {self.best_id})"


def find_slower(
    records: Iterable[Mapping[str, Any]], earlier: Iterable[Mapping[str, Any]], factor: float = SLOWER
) -> list[Slower]:
    """Return the items whose median is more than `factor` times the best earlier one on the same device."""
    best: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for record in earlier:
        if record.get("median"):
            key = _key(record)
            if key not in best or record["median"] < best[key]["median"]:
                best[key] = record
    found = []
    for record in records:
        old = best.get(_key(record))
        if old is not None and record.get("median") and record["median"] > factor * old["median"]:
            shape = record.get("shape") or {}
            label = " ".join(str(x) for x in (record["item"], record.get("fixture"), shape.get("border")) if x)
            found.append(Slower(label, record["median"], old["median"], str(old.get("id", ""))))
    return found


# ---- targets --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Target:
    """A speed that is asked for: at most `limit`, or at least where `at_least`."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        relation = "at least" if self.at_least else "at most"
        return f"{self.name}: {self.value:.4g}, {relation} {self.limit:.4g} is asked for"


def targets_of(items: Iterable[Item], rates: Rates) -> list[Target]:
    """Return the speeds that are asked for (T-D-7 and the goals of section 21.11), for the items that were measured."""
    found = []
    for item in items:
        if item.shape is None or not item.seconds:
            continue
        name, shape, cost = item.label, item.shape, item.cost
        if item.kind == "stage" and item.name in BYTE_BOUND and item.launches is not None:
            limit = launch_floor(item.name, shape, item.launches, rates)
            found.append(Target(f"{name}: 1.5 measured ceilings + 3 us per launch, seconds", item.median, limit))
        if item.kind == "stage" and item.name == "reduce" and cost is not None:
            share = cost.flops / item.median / rates.matrix
            found.append(Target(f"{name}: share of the measured product rate", share, 0.7, at_least=True))
        if item.kind == "stage" and item.name == "factor_border" and item.predicted is not None:
            found.append(Target(f"{name}: twice the time model, seconds", item.median, 2 * item.predicted))
        if item.name == "warm step" and item.launches is not None:
            limit = warm_solve_limit(shape, item.launches, "dual_solve" if item.route == "dual" else "solve")
            found.append(Target(f"{name}: 3 (floor + 1 us per node + one wait), seconds", item.median, limit))
        figures = item.figures or {}
        if "asked_speedup" in figures:
            what = f"{name}: faster than a reupload by"
            found.append(Target(what, figures["speedup"], figures["asked_speedup"], at_least=True))
        if "most_uploads" in figures:
            found.append(Target(f"{name}: in times of its upload", figures["uploads"], figures["most_uploads"]))
    return found
