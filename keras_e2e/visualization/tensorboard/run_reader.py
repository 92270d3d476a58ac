"""Reads runs of `ModuleTensorBoard` through TensorBoard's data provider."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tensorboard.data.provider import RunTagFilter
from tensorboard.plugins.scalar.metadata import PLUGIN_NAME as SCALARS

from keras_e2e.visualization.tensorboard.run_data import (
    APART,
    RunData,
    Scalar,
    gather,
)
from keras_e2e.visualization.tensorboard.tags import MODE

# Measurements that the page takes of a run at most, over all tags; and of a tag.
# TensorBoard itself keeps 1000 of a scalar.
MOST_MEASUREMENTS = 250_000
MOST_OF_A_TAG = 1000
_OF_A_MODULE = re.compile(r"e2e_[^/]+/\d\d+_")
_E2E = re.compile(r"e2e_([^/]+)/")


class Listed(NamedTuple):
    """A run that `ModuleTensorBoard` wrote.

    Attributes:
        stamp: String that changes whenever something was added.
        written: Float, when something was added last, in seconds since 1970.
    """

    stamp: str
    written: float


class Answer(NamedTuple):
    """What was read of a run.

    Attributes:
        listed: When something was added last.
        data: The run.
        quantity: String, the quantity that was read in full; `None` for all.
        times: Set of the pairs of wall time and step of all that was read in full.
    """

    listed: Listed
    data: RunData
    quantity: str | None
    times: set[tuple[float, int]]

    @property
    def newest(self) -> float:
        """When what was read last was logged; 0 if nothing was."""
        return max((time for time, _ in self.times), default=0.0)

    def new_since(self, seen: float) -> int | None:
        """The step from which on all is to be read anew by who has read up to `seen`.

        `None` for the first. The latest event counts as new, for part of it may have been
        read before it was whole, and so does all that a later training replaced.
        """
        new = [step for time, step in self.times if time >= seen]
        return min(new) if new and len(new) < len(self.times) else None


class Runs:
    """Reads the runs of one experiment.

    Args:
        provider: A `tensorboard.data.provider.DataProvider`.
        context: The `RequestContext` on whose behalf it reads.
        experiment: String, the id of the experiment. Defaults to `""`, a local log
            directory.

    Raises:
        tensorboard.errors.PublicError: from any method, if the provider raises it.
    """

    def __init__(self, provider: Any, context: Any, experiment: str = ""):
        self._provider = provider
        self._asks = {"experiment_id": experiment, "plugin_name": SCALARS}
        self._context = context

    def exist(self) -> bool:
        """Whether `ModuleTensorBoard` wrote any run. Cheap: it looks up one tag."""
        return bool(self._list(RunTagFilter(tags=[MODE])))

    def listing(self) -> dict[str, Listed]:
        """By name the runs that hold data of modules."""
        return {
            run: _listed(tags.values())
            for run, tags in self._list(None).items()
            if any(map(_OF_A_MODULE.match, tags))
        }

    def read(self, run: str, shown: Sequence[str] = ()) -> Answer | None:
        """One run; None where there is no data of modules.

        Args:
            run: String, its name.
            shown: Names of quantities: the first that the run has is read in full, and of
                the others the latest numbers only, which the verdicts rest on. Most of
                the time goes into reading. Defaults to none: all are read in full.
        """
        tags = self._list(RunTagFilter(runs=[run])).get(run, {})
        ours = {tag: listed for tag, listed in tags.items() if _E2E.match(tag)}
        if not ours:
            return None
        groups = {tag: tag.split("/")[0].removeprefix("e2e_") for tag in ours}
        measured = [group for group in groups.values() if group not in APART]
        quantity = next((q for q in [*shown, *measured] if q in measured), None)
        in_full = set(ours)
        if shown:
            # A verdict names the loss at the start; the other two say when modes changed.
            kept = {quantity, "loss", "summary", "trained_by"}
            in_full = {tag for tag in ours if groups[tag] in kept}
        found = self._scalars(run, in_full, MOST_MEASUREMENTS // max(1, len(in_full)))
        found |= self._scalars(run, set(ours) - in_full, 1)
        found = in_force(found)
        gathered = gather(
            run,
            (
                Scalar(
                    tag,
                    [datum.step for datum in data],
                    [datum.value for datum in data],
                    ours[tag].description if tag in ours else "",
                )
                for tag, data in found.items()
            ),
        )
        if gathered is None:
            return None
        times = {(d.wall_time, d.step) for t in in_full & set(found) for d in found[t]}
        return Answer(_listed(tags.values()), gathered, quantity if shown else None, times)

    def _scalars(self, run: str, tags: Collection[str], most: int) -> dict[str, Any]:
        """The scalars of some tags, of each at most so many, the latest among them."""
        if not tags:
            return {}
        which = RunTagFilter(runs=[run], tags=tags)
        found = self._provider.read_scalars(
            self._context,
            downsample=max(1, min(MOST_OF_A_TAG, most)),
            run_tag_filter=which,
            **self._asks,
        )
        return dict(found.get(run, {}))

    def _list(self, which: RunTagFilter | None) -> Mapping[str, Mapping[str, Any]]:
        found = self._provider.list_scalars(
            self._context, run_tag_filter=which, **self._asks
        )
        return {run: tags for run, tags in found.items() if tags}


def in_force(found: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Leaves out what a later training in the same folder replaced.

    It began at an earlier step, and what the one before logged beyond that step says
    nothing of it, least of all a verdict. TensorBoard drops such data at best tag by tag.

    Args:
        found: By tag the scalars, with `step` and `wall_time`.

    Example:

    >>> from tensorboard.data.provider import ScalarDatum
    >>> from keras_e2e.visualization.tensorboard.run_reader import in_force
    >>> first, second = (ScalarDatum(s, t, 0.5) for s, t in [(90, 1.0), (10, 2.0)])
    >>> in_force({"e2e_verdict/01_a": [first], "e2e_loss/01_a": [first, second]})
    {'e2e_loss/01_a': [ScalarDatum(step=10, wall_time=2.0, value=0.5)]}
    """
    everything = [datum for data in found.values() for datum in data]
    steps = np.array([datum.step for datum in everything])
    order = np.argsort([datum.wall_time for datum in everything], kind="stable")
    # The lowest step of this and of all that was logged later.
    lowest = np.empty_like(steps)
    lowest[order] = np.minimum.accumulate(steps[order][::-1])[::-1]
    stands = iter(steps <= lowest)
    kept = {
        tag: sorted((d for d in data if next(stands)), key=lambda datum: datum.step)
        for tag, data in found.items()
    }
    return {tag: data for tag, data in kept.items() if data}


def _listed(series: Iterable[Any]) -> Listed:
    steps, times = zip(*((s.max_step, s.max_wall_time) for s in series), strict=True)
    return Listed(f"{len(steps)}-{max(steps)}-{max(times):.6f}", max(times))
