"""The shapes an engine takes: profiles, the cheapest one for a batch, and batches outside all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.contract import BATCH, CHOICES, SEQUENCE
from albert_deploy.runtime.errors import InputError, check_known
from albert_deploy.runtime.session import Feeds

Shape = tuple[int, ...]
# What is done with a batch that fits no profile; each does what those before it do.
Policy = Literal["error", "split", "pad"]
POLICIES: tuple[str, ...] = get_args(Policy)

# Rank of the inputs -> names of their axes.
AXES = {2: (BATCH, SEQUENCE), 3: (BATCH, CHOICES, SEQUENCE)}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The range of input shapes that one optimization profile of an engine takes.

    Shapes are (batch, sequence), or (batch, choices, sequence) where the task has choices; an
    axis is fixed where all three agree.

    Args:
        minimum: Least size of each axis.
        optimum: The shape that the engine's kernels are chosen for.
        maximum: Largest size of each axis.

    Raises:
        InputError: The shapes differ in rank, or an axis does not rise from 1 on.
    """

    minimum: Shape
    optimum: Shape
    maximum: Shape

    def __post_init__(self) -> None:
        shapes = (self.minimum, self.optimum, self.maximum)
        if len(self.minimum) not in AXES or len({len(shape) for shape in shapes}) > 1:
            raise InputError(
                f"got the profile {self}; wanted three shapes of one rank: batch x sequence, or "
                "batch x choices x sequence"
            )
        for least, best, most in zip(*shapes, strict=True):
            if not 1 <= least <= best <= most:
                raise InputError(
                    f"got the profile {self}; wanted 1 <= minimum <= optimum <= maximum in every "
                    "axis"
                )

    @property
    def work(self) -> int:
        """Tokens of the maximum, by which profiles are compared."""
        return math.prod(self.maximum)

    def fits(self, shape: Shape) -> bool:
        """Return whether the profile takes a shape as it is."""
        return len(shape) == len(self.minimum) and all(
            least <= size <= most
            for least, size, most in zip(self.minimum, shape, self.maximum, strict=True)
        )

    def to_json(self) -> dict[str, list[int]]:
        """Return the form that records hold."""
        return {
            "min": list(self.minimum),
            "opt": list(self.optimum),
            "max": list(self.maximum),
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read what ``to_json`` returned.

        Raises:
            InputError: It is something else.
        """
        try:
            shapes = [value[key] for key in ("min", "opt", "max")]
        except (KeyError, TypeError, IndexError):
            shapes = []
        if not shapes or not all(isinstance(s, list) and all(map(_whole, s)) for s in shapes):
            raise InputError(
                f"got the profile {value!r}; wanted min, opt and max, each a list of sizes: build "
                "the engine again"
            )
        least, best, most = (tuple(shape) for shape in shapes)
        return cls(minimum=least, optimum=best, maximum=most)

    def __str__(self) -> str:
        return ":".join(written(shape) for shape in (self.minimum, self.optimum, self.maximum))


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an engine over some rows of a batch.

    Attributes:
        profile: Index of the profile.
        start: First row of the batch.
        stop: The row after its last.
        shape: What the engine is given: those rows, padded where it is larger.
    """

    profile: int
    start: int
    stop: int
    shape: Shape

    @property
    def rows(self) -> int:
        """Number of the batch's rows in it."""
        return self.stop - self.start


def written(shape: Shape) -> str:
    """Return a shape as ``8x128``."""
    return "x".join(map(str, shape))


def parse_profile(text: str, rank: int) -> Profile:
    """Read a profile as the command line has it.

    Args:
        text: ``min:opt:max`` such as ``1x1:8x128:32x128``; a single shape such as ``8x128`` is
            one that the engine takes alone.
        rank: Axes of the inputs: 2, or 3 where the task has choices.

    Raises:
        InputError: It says something else.
    """
    parts = text.strip().split(":")
    sizes = [part.split("x") for part in parts]
    plain = all(size.isascii() and size.isdigit() for shape in sizes for size in shape)
    if len(parts) not in (1, 3) or not plain or any(len(shape) != rank for shape in sizes):
        axes = " x ".join(AXES[rank])
        example = "1x1:8x128:32x128" if rank == 2 else "1x4x1:4x4x128:8x4x512"
        raise InputError(
            f"got the profile {text!r}; wanted min:opt:max, each {axes}, such as {example}"
        )
    shapes = [tuple(map(int, shape)) for shape in sizes]
    least, best, most = shapes if len(shapes) == 3 else shapes * 3
    return Profile(minimum=least, optimum=best, maximum=most)


def parse_profiles(text: str, rank: int) -> tuple[Profile, ...]:
    """Read profiles separated by commas; see ``parse_profile``."""
    return tuple(parse_profile(part, rank) for part in text.split(","))


def choose_profile(profiles: Sequence[Profile], shape: Shape) -> int | None:
    """Return the index of the cheapest profile that takes a shape; None where none does.

    The cheapest has the least work at its maximum, the first of equal ones.
    """
    fitting = [index for index, profile in enumerate(profiles) if profile.fits(shape)]
    return min(fitting, key=lambda index: profiles[index].work) if fitting else None


def plan_runs(profiles: Sequence[Profile], shape: Shape, policy: str = "error") -> tuple[Run, ...]:
    """Return the runs that cover a batch, one wherever a profile takes it as it is.

    A batch with too many rows is split over as few runs as any profile allows. Each has the most
    rows that leave enough for those after it, so that a shape that was captured once is met
    again. A batch is padded only where that does not do, and then to the fewest tokens.

    Args:
        profiles: Of the engine.
        shape: Of the batch: (batch, sequence) or (batch, choices, sequence).
        policy: What to do where no profile fits: ``error``, ``split`` the rows over several
            runs, or, where that is not enough, ``pad`` up to a profile's minimum.

    Raises:
        InputError: Unknown policy, or the policy finds no way; the message names the limits.
    """
    check_known(policy, POLICIES, "policy")
    whole = choose_profile(profiles, shape)
    if whole is not None:
        return (Run(profile=whole, start=0, stop=shape[0], shape=shape),)
    for padding in (False, True)[: POLICIES.index(policy)]:
        ways = [runs for p in profiles if (runs := _cover(p, shape, padding=padding))]
        if ways:
            best = min(ways, key=lambda shapes: (sum(map(math.prod, shapes)), len(shapes)))
            return tuple(_placed(profiles, best, shape[0]))
    raise InputError(_refusal(profiles, shape, policy))


def _cover(profile: Profile, shape: Shape, *, padding: bool) -> list[Shape]:
    """Return the shapes of the fewest runs of one profile over a batch; none if it cannot."""
    if len(shape) != len(profile.minimum) or min(shape) < 1:
        return []
    least, most = profile.minimum[0], profile.maximum[0]
    row = tuple(map(max, shape[1:], profile.minimum[1:])) if padding else shape[1:]
    count = -(-shape[0] // most)
    if not profile.fits((least, *row)) or (count * least > shape[0] and not padding):
        return []
    shapes, left = [], shape[0]
    for after in reversed(range(count)):
        # Enough rows stay for the minimum of each run that follows.
        rows = max(min(most, left - after * least), least)
        shapes.append((rows, *row))
        left -= rows
    return shapes


def _placed(profiles: Sequence[Profile], shapes: Sequence[Shape], rows: int) -> Iterator[Run]:
    """Give each shape its rows and the cheapest profile that takes it."""
    start = 0
    for shape in shapes:
        stop = min(start + shape[0], rows)
        profile = choose_profile(profiles, shape)
        if profile is not None:  # one does: the shape was made for it
            yield Run(profile=profile, start=start, stop=stop, shape=shape)
        start = stop


def _refusal(profiles: Sequence[Profile], shape: Shape, policy: str) -> str:
    limits = ", ".join(f"{written(p.minimum)} to {written(p.maximum)}" for p in profiles)
    got = f"got inputs of {written(shape)}; the engine takes {limits or 'none'}"
    axes = AXES.get(len(shape))
    if min(shape, default=0) < 1 or axes is None:
        return f"{got}: give at least one row of one token"
    remedies = [f"build it with a profile for {' x '.join(axes)} of this size"]
    for other in POLICIES[POLICIES.index(policy) + 1 :]:
        try:
            plan_runs(profiles, shape, other)
        except InputError:
            continue
        remedies.insert(0, f"use the policy {other!r}")
        break
    return f"{got}: {' or '.join(remedies)}"


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_TOKENS = "input_ids"

Outputs = dict[str, npt.NDArray[np.float32]]


def padded_rows(feeds: Feeds, run: Run, pad_id: int) -> dict[str, npt.NDArray[np.int64]]:
    """Return the inputs of one run.

    Rows are padded with tokens that the mask hides. Rows and choices that a profile wants beside
    the batch's repeat the last one: one that is hidden altogether would divide nothing by nothing
    in its softmax, and some engines stop there.

    Args:
        feeds: Of the whole batch, each int64 [batch, (choices,) sequence].
        run: One of ``shapes.plan_runs``.
        pad_id: Token id of the padding.

    Returns:
        The same inputs, each int64 of ``run.shape``.
    """
    return {
        name: _padded(value[run.start : run.stop], run.shape, pad_id if name == _TOKENS else 0)
        for name, value in feeds.items()
    }


def joined_outputs(
    parts: Sequence[Outputs],
    runs: Sequence[Run],
    shape: Shape,
    axes: Mapping[str, Sequence[str | int]],
) -> Outputs:
    """Return the outputs of a whole batch from those of its runs, without what was padded.

    Args:
        parts: Outputs of each run.
        runs: Those runs, in the order of the batch.
        shape: Of the batch's inputs.
        axes: Axes of each output, as the contract names them.
    """
    sizes = dict(zip(AXES[len(shape)], shape, strict=True))
    joined = {}
    for name, named in axes.items():
        pieces = []
        for part, run in zip(parts, runs, strict=True):
            kept = sizes | {BATCH: run.rows}
            cut = tuple(slice(kept[a] if isinstance(a, str) else None) for a in named)
            pieces.append(part[name][cut])
        joined[name] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return joined


def _padded(value: npt.NDArray[np.int64], shape: Shape, fill: int) -> npt.NDArray[np.int64]:
    missing = [(0, wanted - got) for got, wanted in zip(value.shape, shape, strict=True)]
    value = np.pad(value, [(0, 0)] * (value.ndim - 1) + missing[-1:], constant_values=fill)
    return np.pad(value, [*missing[:-1], (0, 0)], mode="edge")
