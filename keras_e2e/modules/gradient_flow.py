"""Where gradients stop, which objectives take feedback, and what each loss trains."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from keras_e2e.modules.gate import FeedbackRoute
from keras_e2e.modules.loss_parts import LossPart, loss_parts
from keras_e2e.modules.module import Module
from keras_e2e.modules.ownership import borrowed_from
from keras_e2e.modules.training_mode import TrainingMode

Routes = Mapping[str, Mapping[str, FeedbackRoute]]


class GradientFlow(NamedTuple):
    """How gradients flow through a model in a training mode.

    Attributes:
        stopping: The boundaries that stop the gradient.
        routes: Dict from the module at whose end feedback is taken to the boundaries whose
            objectives take it there. One that predicts the gradient at its own boundary
            stands under its own name.
        windows: Dict for `local` mode, from each module whose loss counts to the modules
            that this loss trains: as far as it reaches, and those that take their feedback
            there.
        separate: The modules whose losses need a backward pass of their own, because
            through the open boundaries they would reach further than they may.
        parts: The losses that are differentiated together (`loss_parts`).
    """

    stopping: frozenset[str]
    routes: Routes
    windows: Mapping[str, frozenset[str]]
    separate: tuple[str, ...]
    parts: tuple[LossPart, ...]


def gradient_flow(modules: Sequence[Module], mode: TrainingMode) -> GradientFlow:
    """The flow of gradients in a mode.

    In `local` mode a boundary is open if some loss after it reaches over it. Other losses
    then must not: those are differentiated one by one, with respect to the variables
    of their own window only. The forward pass is one, in any case.
    """
    reached = _reached(modules, mode)
    opened = {name for owner, window in reached.items() for name in window - {owner}}
    stopping = frozenset(
        m.name
        for m in modules
        if m.boundary is not None and mode.stops(m.name) and m.name not in opened
    )
    for module in modules:
        objective = module.objective
        if objective and objective.feedback_source and module.name not in stopping:
            reached.pop(module.name, None)  # the true gradient gets through
    routes = _routes(modules, mode, stopping)
    spread = _Spread(modules, routes, reached, opened)
    windows = {name: spread.wanted(window) for name, window in reached.items()}
    separate = tuple(n for n, window in windows.items() if spread.actual(n) != window)
    parts = _parts(modules, mode, stopping, routes, windows, separate)
    return GradientFlow(stopping, routes, windows, separate, parts)


def _parts(
    modules: Sequence[Module],
    mode: TrainingMode,
    stopping: frozenset[str],
    routes: Routes,
    windows: Mapping[str, frozenset[str]],
    separate: Sequence[str],
) -> tuple[LossPart, ...]:
    names = [m.name for m in modules]
    counting = [m.name for m in modules if m.boundary is None or _counts(m, mode, stopping)]
    together = not stopping and not separate
    if together or mode.name == "sequential":  # which trains one module
        return (LossPart(tuple(counting), frozenset(names), frozenset(names)),)
    opened = {m.name for m in modules if m.boundary is not None} - stopping
    spread = _Spread(modules, routes, {}, opened)
    flowing = {name: spread.actual(name) for name in counting if name not in separate}
    apart = {name: windows[name] for name in separate}
    # Of losses that meet, one may use what another module owns that it does not train.
    borrowed = borrowed_from(modules)
    for part in loss_parts(names, flowing, apart):
        for name in set(part.losses) & set(flowing):
            window = flowing[name]
            owners = {owner for inside in window for owner in borrowed[inside]}
            if (owners - window) & part.trains:
                apart[name] = window
    flowing = {name: window for name, window in flowing.items() if name not in apart}
    return loss_parts(names, flowing, apart)


def _counts(module: Module, mode: TrainingMode, stopping: frozenset[str]) -> bool:
    """Whether the objective of a module counts."""
    objective = module.objective
    if objective is None or not mode.weight(module.name):
        return False
    # Where the true signal gets through, nothing needs a substitute.
    return not objective.feedback_source or module.name in stopping


def _reached(modules: Sequence[Module], mode: TrainingMode) -> dict[str, set[str]]:
    """In `local` mode, the modules that each loss reaches by its `reach`."""
    if mode.name != "local":
        return {}
    before = {m.name: m.inputs for m in modules}
    found = {}
    for module in modules:
        objective = module.objective
        if module.boundary is not None and (
            objective is None or not mode.weight(module.name)
        ):
            continue
        reach = (objective.reach if objective else None) or mode.reach or 1
        if objective is not None and objective.feedback_source:
            reach = 1  # a substitute for the gradient trains the module alone
        steps = len(modules) if reach == "all" else int(reach) - 1
        window = {module.name}
        for _ in range(steps):
            window |= {name for inside in window for name in before[inside]}
        found[module.name] = window
    return found


def _routes(
    modules: Sequence[Module], mode: TrainingMode, stopping: frozenset[str]
) -> dict[str, dict[str, FeedbackRoute]]:
    found: dict[str, dict[str, FeedbackRoute]] = {}
    for module in modules:
        objective, weight = module.objective, mode.weight(module.name)
        if objective is None or not weight or module.name not in stopping:
            continue
        if not objective.feedback_source:
            continue
        ends = {
            "boundary": [module.name],
            "outputs": [modules[-1].name],
            "following": [m.name for m in modules if module.name in m.inputs],
        }
        for index, end in enumerate(ends[objective.feedback_source]):
            route = FeedbackRoute(objective, weight, index)
            found.setdefault(end, {})[module.name] = route
    return found


class _Spread:
    """How far a loss spreads over the modules of a graph.

    Args:
        modules: The modules.
        routes: The feedback.
        reached: The modules that each loss is to reach.
        opened: The boundaries that let gradients through.
    """

    def __init__(
        self,
        modules: Sequence[Module],
        routes: Routes,
        reached: Mapping[str, set[str]],
        opened: set[str],
    ):
        self.before = {m.name: m.inputs for m in modules}
        self.routes, self.reached, self.opened = routes, reached, opened

    def wanted(self, window: Iterable[str]) -> frozenset[str]:
        """What a loss trains that is to reach these modules."""
        return self._with_predicting(_closure(window, self._trained_by_feedback))

    def actual(self, name: str) -> frozenset[str]:
        """What the loss of a module would train through the open boundaries."""
        return self._with_predicting(_closure([name], self._connected))

    def _fed(self, name: str) -> set[str]:
        return set(self.routes.get(name, ())) - {name}

    def _trained_by_feedback(self, name: str) -> Iterable[str]:
        return {own for source in self._fed(name) for own in self.reached[source]}

    def _connected(self, name: str) -> Iterable[str]:
        return self._fed(name) | {up for up in self.before[name] if up in self.opened}

    def _with_predicting(self, names: frozenset[str]) -> frozenset[str]:
        """Adds the boundaries that learn to predict the gradient of these modules."""
        upstream = {up for name in names for up in self.before[name]}
        return names | {up for up in upstream if up in self.routes.get(up, ())}


def _closure(first: Iterable[str], following: Callable) -> frozenset[str]:
    """What is reached from the first ones by a step that is repeated."""
    reached: set[str] = set()
    pending = list(first)
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending.extend(following(name))
    return frozenset(reached)
