"""One run, read back from its log files: for the dashboard and for the report."""

import functools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from keras_e2e.diagnostics import states
from keras_e2e.diagnostics.states import Place
from keras_e2e.diagnostics.verdicts import Verdict
from keras_e2e.modules import training_mode
from keras_e2e.visualization.tensorboard import tags

# Groups of tags that hold something else than a quantity.
BY_MODULE = ("verdict", "confidence", "cause", "place", "trained_by")
APART = {"summary", "healthy", "parameters", *BY_MODULE}
# A code that is in no list: a newer version wrote it, or the log is damaged.
UNKNOWN = "unknown"
_TAG = re.compile(r"e2e_([^/]+)/(\d\d+)_(.*)", re.DOTALL)


class Scalar(NamedTuple):
    """All that was logged under a tag; `steps` are in ascending order."""

    tag: str
    steps: Sequence[int]
    values: Sequence[float]
    description: str = ""


class Series(NamedTuple):
    """Values over steps, in order."""

    steps: list[int]
    values: list[float]


@dataclass
class RunData:
    """One run that `ModuleTensorBoard` wrote.

    Modules are identified by `<NN>_<name>`, as in the tags: names alone need not be unique,
    and the number is their order.

    Attributes:
        name: String, the name of the run: untrusted text, as are the names of modules.
        modules: List of the modules, in order.
        quantities: By quantity and module the measurements; only what was logged.
        about: By quantity its description, in Markdown.
        bands: By quantity the low and the high end of its healthy band.
        modes: Over steps the index of the training mode in `training_mode.NAMES`.
        verdicts: By module, over steps the code of the state (`states.STATES`).
        confidence: By module, over steps the confidence of the verdict, from 0 to 1.
        causes: By module, over steps the number of the module whose fault its state is an
            effect of, 0 for none.
        places: By module, over steps the code of its `states.Place`.
        parameters: By module its number of parameters.
        trained_by: By module, over steps the index in `TRAINED_BY`.
    """

    name: str
    modules: list[str] = field(default_factory=list)
    quantities: dict[str, dict[str, Series]] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    bands: dict[str, tuple[float, float]] = field(default_factory=dict)
    modes: Series = field(default_factory=lambda: Series([], []))
    verdicts: dict[str, Series] = field(default_factory=dict)
    confidence: dict[str, Series] = field(default_factory=dict)
    causes: dict[str, Series] = field(default_factory=dict)
    places: dict[str, Series] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    trained_by: dict[str, Series] = field(default_factory=dict)

    def switches(self) -> list[tuple[int, str]]:
        """The training modes in order: the step from which on each applied, and its name.

        TensorBoard downsamples long series, and may drop the first measurement in a mode.
        `trained_by` is logged at switches only, so it still has the step.
        """
        return self._switches

    @functools.cached_property  # each verdict asks for the last one
    def _switches(self) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        marks = sorted({step for s in self.trained_by.values() for step in s.steps})
        before = -1
        for step, value in zip(*self.modes, strict=True):
            name = named(value, training_mode.NAMES)
            if not found or found[-1][1] != name:
                between = [mark for mark in marks if before < mark <= step]
                found.append((between[-1] if found and between else step, name))
            before = step
        return found

    def first_step(self) -> int:
        """The step after the start of the training: the first to be measured."""
        return 1 + max((s for by in self.trained_by.values() for s in by.steps), default=0)

    def last_step(self) -> int:
        """The latest step at which something was measured; 0 if nothing was yet."""
        measured = [by for each in self.quantities.values() for by in each.values()]
        return max((series.steps[-1] for series in measured), default=0)

    def _latest_of(self, module: str, since: float) -> dict[str, float]:
        """The latest number of each quantity of a module, none from before a step."""
        return {
            quantity: series[module].values[-1]
            for quantity, series in self.quantities.items()
            if module in series and series[module].values
            if series[module].steps[-1] >= since
        }

    def effects_of(self, module: str) -> list[str]:
        """The modules whose states are effects of this one's fault."""
        number = int(module.split("_", 1)[0])
        return [m for m in self.modules if _code(self.causes.get(m)) == number]

    def verdict(self, module: str) -> Verdict | None:
        """The latest verdict on a module, with the latest numbers; None without one.

        A number from before the last switch of the mode, such as the local loss of a
        module that has none any more, is no evidence.
        """
        code = _latest(self.verdicts.get(module))
        if code is None:
            return None
        state = named(code, list(states.BY_NAME))
        since = self.switches()[-1][0] if self.modes.steps else -math.inf
        numbers = self._latest_of(module, since)
        # A module without a loss of its own serves the task, whose loss is the last's.
        serves = module if "loss" in numbers else self.modules[-1]
        of_task = self._latest_of(serves, since)
        numbers |= {name: of_task[name] for name in ("loss", "skill") if name in of_task}
        if "loss" in numbers:
            numbers["loss at start"] = self.quantities["loss"][serves].values[0]
        confidence = _latest(self.confidence.get(module))
        by_number = {int(m.split("_", 1)[0]): m.split("_", 1)[1] for m in self.modules}
        cause, place = (_code(kept.get(module)) for kept in (self.causes, self.places))
        return Verdict(
            "unclear" if state == UNKNOWN else state,
            math.nan if confidence is None else confidence,
            numbers,
            cause=by_number.get(cause, ""),
            place=Place.from_code(place),
        )


def _latest(series: Series | None) -> float | None:
    """The latest value of a series; None without one."""
    return series.values[-1] if series and series.values else None


def _code(series: Series | None) -> int:
    """The latest value of a series of codes; 0 without one."""
    latest = _latest(series)
    return int(latest) if latest is not None and math.isfinite(latest) else 0


def gather(name: str, scalars: Iterable[Scalar]) -> RunData | None:
    """Sorts the scalars of a run; None where `ModuleTensorBoard` logged none of them.

    Tags that only look like its own, or are empty, are passed over.

    Example:

    >>> from keras_e2e.visualization.tensorboard.run_data import Scalar, gather
    >>> run = gather("a/modules", [Scalar("e2e_loss/01_encoder", [1, 11], [0.7, 0.2])])
    >>> run.modules, run.quantities["loss"]["01_encoder"].values
    (['01_encoder'], [0.7, 0.2])
    """
    run = RunData(name)
    ends: dict[str, dict[str, float]] = {}
    modules: set[str] = set()
    for scalar in scalars:
        if not len(scalar.values):
            continue
        series = Series([int(s) for s in scalar.steps], [float(v) for v in scalar.values])
        if scalar.tag == tags.MODE:
            run.modes = series
            continue
        band = re.fullmatch(r"e2e_healthy/(.+)_(low|high)", scalar.tag)
        if band:
            ends.setdefault(band[1], {})[band[2]] = series.values[-1]
            continue
        match = _TAG.fullmatch(scalar.tag)
        if match is None:
            continue
        group, module = match[1], f"{match[2]}_{match[3]}"
        modules.add(module)
        if group == "parameters":
            if math.isfinite(series.values[-1]):
                run.parameters[module] = int(series.values[-1])
        elif group in BY_MODULE:
            kept = (run.verdicts, run.confidence, run.causes, run.places, run.trained_by)
            kept[BY_MODULE.index(group)][module] = series
        elif group not in APART:
            run.quantities.setdefault(group, {})[module] = series
            run.about.setdefault(group, scalar.description)
    run.modules = sorted(modules, key=lambda m: (int(m.split("_", 1)[0]), m))
    run.bands = {q: (e["low"], e["high"]) for q, e in ends.items() if len(e) == 2}
    return run if run.modules else None


def named(code: float, names: Sequence[str]) -> str:
    """What a code in a log means: the name at its place in a list, or `UNKNOWN`."""
    known = math.isfinite(code) and 0 <= int(code) < len(names)
    return names[int(code)] if known else UNKNOWN


def plain(value: Any) -> Any:
    """The same value for JSON, which has no NaN and no infinity: those become texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value
