"""Reads runs of `ModuleTensorBoard` through TensorBoard's data provider."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tensorboard.data.provider import RunTagFilter
from tensorboard.plugins.scalar.metadata import PLUGIN_NAME as SCALARS

from keras_e2e.visualization.tensorboard.run_data import RunData, Scalar, gather
from keras_e2e.visualization.tensorboard.tags import MODE

# Measurements that the page takes of a run at most, over all tags; and of a tag.
# TensorBoard itself keeps 1000 of a scalar.
MOST_MEASUREMENTS = 250_000
MOST_OF_A_TAG = 1000
_OF_A_MODULE = re.compile(r"e2e_[^/]+/\d\d+_")
_E2E = re.compile(r"e2e_[^/]+/")


class Listed(NamedTuple):
    """A run that `ModuleTensorBoard` wrote.

    Attributes:
        stamp: String that changes whenever something was added.
        written: Float, when something was added last, in seconds since 1970.
    """

    stamp: str
    written: float


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

    def read(self, run: str) -> tuple[Listed, RunData] | None:
        """All of one run, in two requests; None where there is no data of modules."""
        tags = self._list(RunTagFilter(runs=[run])).get(run, {})
        ours = {tag: listed for tag, listed in tags.items() if _E2E.match(tag)}
        if not ours:
            return None
        found = self._provider.read_scalars(
            self._context,
            downsample=max(1, min(MOST_OF_A_TAG, MOST_MEASUREMENTS // len(ours))),
            run_tag_filter=RunTagFilter(runs=[run], tags=ours),
            **self._asks,
        ).get(run, {})
        gathered = gather(
            run,
            (
                Scalar(
                    tag,
                    [datum.step for datum in data],
                    [datum.value for datum in data],
                    ours[tag].description if tag in ours else "",
                )
                for tag, data in in_force(found).items()
            ),
        )
        return None if gathered is None else (_listed(tags.values()), gathered)

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
