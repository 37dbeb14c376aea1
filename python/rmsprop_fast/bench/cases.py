"""The cases of a step: arrays, whole models and fused extras, each by every peer and beside the limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rmsprop_fast.bench.limits import limit_name, limits
from rmsprop_fast.bench.machine import free_memory, thread_counts, threads
from rmsprop_fast.bench.models import MODELS
from rmsprop_fast.bench.peers import OURS, OURS_TORCH, PEERS, TEMPORARIES, Peer
from rmsprop_fast.bench.problems import LARGE, checked, make_problem, size_name, timers
from rmsprop_fast.bench.timings import Quartiles, Timings, quartiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rmsprop_fast.bench.models import Shape

BYTES = 20  # an element of the bare step: p, g and s are read, p and s are written

SIZES = [2**power for power in (6, 8, 10, 12, 14, 16, 18, 19, 20, 22, 24, 25, 27)]
QUICK_SIZES = [2**power for power in (6, 10, 14, 18, 22)]

# What the family adds to the step, and the bytes that an element then needs. The norm is never exceeded, so that the
# gradients stay as they are for everybody.
EXTRAS: dict[str, tuple[dict[str, Any], int]] = {
    "momentum": ({"momentum": 0.9}, 28),
    "centered + momentum": ({"centered": True, "momentum": 0.9}, 36),
    "clip + decay": ({"clip_global_norm": 1e9, "weight_decay": 1e-4}, 24),
    "clip + decay + skip": ({"clip_global_norm": 1e9, "weight_decay": 1e-4, "skip_nonfinite": True}, 24),
}

SECONDS = 0.005  # that each candidate runs in each round, at least
MOST_BYTES = 120  # an element, of all peers together


@dataclass(frozen=True)
class Subject:
    """What is stepped."""

    kind: str  # "array", "model" or "extras"
    name: str
    shapes: Sequence[Shape]
    options: dict[str, Any] = field(default_factory=dict)  # of rmsprop_fast.init, beyond the bare step
    bytes_per_element: int = BYTES

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)


@dataclass
class Row:
    """One candidate in one case."""

    seconds: Quartiles
    ns_per_element: float
    gb_per_s: float  # of the bytes that a fused step has to move, whatever this candidate moves
    share_of_limit: float
    of_best_peer: Quartiles  # of the time of the fastest peer, round by round
    of_ours: Quartiles


@dataclass
class Case:
    """What was stepped, the limits on this machine by number of threads, and how all candidates did."""

    kind: str
    name: str
    elements: int
    leaves: int
    bytes_per_element: int
    memory_limit: dict[int, float]  # seconds to move the streams
    compute_limit: dict[int, float]  # seconds for the divisions and roots
    limit: float  # the slower of the two, with the number of threads that is best for it
    best_peer: str
    rows: dict[str, Row]


def subjects(quick: bool) -> Iterator[Subject]:
    for size in QUICK_SIZES if quick else SIZES:
        yield Subject("array", size_name(size), [(size,)])
    for model in list(MODELS)[: 2 if quick else None]:
        yield Subject("model", model, MODELS[model])
    for size in (2**14,) if quick else (2**14, 2**20, 2**25):
        for extra, (options, bytes_per_element) in EXTRAS.items():
            yield Subject("extras", f"{extra}, {size_name(size)}", [(size,)], options, bytes_per_element)


def measure_case(subject: Subject, some: Sequence[Peer], left_out: dict[str, str], quick: bool) -> Case:
    """Time every peer that can do it, after a check, and the limits. Raises MemoryError."""
    if subject.elements * MOST_BYTES > free_memory():
        raise MemoryError(f"needs {subject.elements * MOST_BYTES / 1e9:.1f} GB of free memory")
    timings = Timings()
    for _ in range(2 if subject.elements >= LARGE and not quick else 1):  # pages fall better or worse
        _measure_place(subject, some, left_out, timings, quick)
    return _case(subject, [peer.name for peer in some], timings)


def _measure_place(
    subject: Subject, some: Sequence[Peer], left_out: dict[str, str], timings: Timings, quick: bool
) -> None:
    problem = make_problem(subject.shapes, subject.options)
    is_large = subject.elements >= LARGE
    rounds = 5 if quick or is_large else 21
    able = [peer for peer in some if not subject.options or peer.has_options]
    candidates: dict[str, Any] = {limit.name: limit for limit in limits(problem)}
    candidates |= timers(able, problem, subject.name, left_out)
    # Its temporaries come from the system and go back to it, which slows down what comes next.
    apart = {peer: candidates.pop(peer) for peer in (TEMPORARIES,) if is_large and peer in candidates}
    timings.measure(candidates, rounds=rounds, seconds=SECONDS)
    timings.measure(apart, rounds=rounds, seconds=SECONDS)


def _case(subject: Subject, names: list[str], timings: Timings) -> Case:
    elements, bytes_per_element = subject.elements, subject.bytes_per_element
    memory = {t: timings.median(limit_name(True, t)) * bytes_per_element / BYTES for t in thread_counts()}
    compute = {t: timings.median(limit_name(False, t)) for t in thread_counts()}
    limit = min(max(memory[t], compute[t]) for t in thread_counts())
    rounds = len(timings.rounds[OURS])
    complete = [name for name in names if len(timings.rounds.get(name, ())) == rounds]
    others = [name for name in complete if name not in (OURS, OURS_TORCH)]
    best = min(others or [OURS], key=timings.median)
    rows = {}
    for name in complete:
        median = timings.median(name)
        rows[name] = Row(
            seconds=timings.quartiles(name),
            ns_per_element=median / elements * 1e9,
            gb_per_s=elements * bytes_per_element / median / 1e9,
            share_of_limit=limit / median,
            of_best_peer=timings.ratio(name, best),
            of_ours=timings.ratio(name, OURS),
        )
    leaves = len(subject.shapes)
    return Case(subject.kind, subject.name, elements, leaves, bytes_per_element, memory, compute, limit, best, rows)


def measure_tree(quick: bool) -> Quartiles:
    """Return what 158 arrays cost above the same elements in one array, in one thread, as ns a leaf."""
    leaves, size = 158, 64
    tree, array = make_problem([(size,)] * leaves), make_problem([(leaves * size,)])
    timings = Timings()
    with threads(1):
        candidates = {name: checked(PEERS[0], problem).timer() for name, problem in (("tree", tree), ("array", array))}
        timings.measure(candidates, rounds=5 if quick else 41, seconds=SECONDS)
    above = zip(timings.rounds["tree"], timings.rounds["array"], strict=True)
    return quartiles([(a - b) / leaves * 1e9 for a, b in above])
