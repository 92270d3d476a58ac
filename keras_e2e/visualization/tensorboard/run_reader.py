"""Our runs, as TensorBoard's data provider hands them out."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tensorboard.data.provider import RunTagFilter
from tensorboard.plugins.scalar.metadata import PLUGIN_NAME as SCALARS

from keras_e2e.visualization.tensorboard import tags as layout
from keras_e2e.visualization.tensorboard.run_data import RunData, Scalar, gather

# Readings that the page takes of a run at most, over all tags; and of a tag. TensorBoard
# itself keeps 1000 of a scalar.
READINGS = 250_000
READINGS_OF_A_TAG = 1000
_OF_A_MODULE = re.compile(r"e2e_[^/]+/\d\d+_")
_OURS = re.compile(r"e2e_[^/]+/")


class Listed(NamedTuple):
    """A run that holds something of ours.

    Attributes:
        stamp: another one whenever something was added.
        written: when something was added last, in seconds since 1970.
    """

    stamp: str
    written: float


class Runs:
    """Reads the runs of one experiment.

    Args:
        provider: a `tensorboard.data.provider.DataProvider`.
        context: the `RequestContext` in whose name it reads.
        experiment: id of the experiment; empty for a local log directory.

    Raises:
        tensorboard.errors.PublicError: by any method, when the provider does.
    """

    def __init__(self, provider: Any, context: Any, experiment: str = ""):
        self._provider = provider
        self._asks = {"experiment_id": experiment, "plugin_name": SCALARS}
        self._context = context

    def exist(self) -> bool:
        """Whether any run is ours. Cheap: asks for one tag."""
        return bool(self._list(RunTagFilter(tags=[layout.MODE])))

    def listing(self) -> dict[str, Listed]:
        """The runs that hold something of a module, by name."""
        return {
            run: _listed(tags.values())
            for run, tags in self._list(None).items()
            if any(map(_OF_A_MODULE.match, tags))
        }

    def read(self, run: str) -> tuple[Listed, RunData] | None:
        """All of one run, in two questions; None where nothing is ours (any more)."""
        tags = self._list(RunTagFilter(runs=[run])).get(run, {})
        ours = {tag: listed for tag, listed in tags.items() if _OURS.match(tag)}
        if not ours:
            return None
        found = self._provider.read_scalars(
            self._context,
            downsample=max(1, min(READINGS_OF_A_TAG, READINGS // len(ours))),
            run_tag_filter=RunTagFilter(runs=[run], tags=ours),
            **self._asks,
        ).get(run, {})
        data = gather(
            run,
            (
                Scalar(
                    tag,
                    [reading.step for reading in readings],
                    [reading.value for reading in readings],
                    ours[tag].description if tag in ours else "",
                )
                for tag, readings in in_force(found).items()
            ),
        )
        return None if data is None else (_listed(tags.values()), data)

    def _list(self, which: RunTagFilter | None) -> Mapping[str, Mapping[str, Any]]:
        found = self._provider.list_scalars(
            self._context, run_tag_filter=which, **self._asks
        )
        return {run: tags for run, tags in found.items() if tags}


def in_force(found: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Leaves out readings that a later training in the same folder took back.

    It began at an earlier step, and what the one before logged beyond says nothing of it,
    least of all a verdict. TensorBoard drops such readings at best tag by tag.

    Args:
        found: readings, with `step` and `wall_time`, by tag.

    Example:

    >>> from tensorboard.data.provider import ScalarDatum
    >>> from keras_e2e.visualization.tensorboard.run_reader import in_force
    >>> first, second = (ScalarDatum(s, t, 0.5) for s, t in [(90, 1.0), (10, 2.0)])
    >>> in_force({"e2e_verdict/01_a": [first], "e2e_loss/01_a": [first, second]})
    {'e2e_loss/01_a': [ScalarDatum(step=10, wall_time=2.0, value=0.5)]}
    """
    all_readings = [reading for readings in found.values() for reading in readings]
    steps = np.array([reading.step for reading in all_readings])
    order = np.argsort([reading.wall_time for reading in all_readings], kind="stable")
    # The lowest step of this and all later readings.
    lowest = np.empty_like(steps)
    lowest[order] = np.minimum.accumulate(steps[order][::-1])[::-1]
    stands = iter(steps <= lowest)
    kept = {
        tag: sorted((r for r in readings if next(stands)), key=lambda reading: reading.step)
        for tag, readings in found.items()
    }
    return {tag: readings for tag, readings in kept.items() if readings}


def _listed(series: Iterable[Any]) -> Listed:
    steps, times = zip(*((s.max_step, s.max_wall_time) for s in series), strict=True)
    return Listed(f"{len(steps)}-{max(steps)}-{max(times):.6f}", max(times))
