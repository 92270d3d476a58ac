"""Where gradients stop, who listens to them, and which modules each loss trains."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from keras_e2e.modules.graph import Module
from keras_e2e.modules.training_mode import TrainingMode


class Listener(NamedTuple):
    """A boundary whose objective hears the signal at the end of some module.

    Attributes:
        weight: the factor of the mode.
        place: which of the ends it listens to this one is.
    """

    weight: float
    place: int


class Flow(NamedTuple):
    """How gradients flow through a model in a training mode.

    Attributes:
        stopping: the boundaries that stop the gradient.
        listeners: by the end of a module, whose objectives hear the signal there. One that
            predicts the signal at its own boundary stands under its own name.
        windows: in `local` mode, for each module whose loss counts, the modules that this
            loss trains: as far as it reaches, and what listens there.
        separate: the modules whose losses need a backward pass of their own, because
            through the open boundaries they would reach further than they may.
    """

    stopping: frozenset[str]
    listeners: Mapping[str, Mapping[str, Listener]]
    windows: Mapping[str, frozenset[str]]
    separate: tuple[str, ...]


def flow_of(modules: Sequence[Module], mode: TrainingMode) -> Flow:
    """The flow of gradients in a mode.

    In `local` mode a boundary is open if some loss after it reaches over it. Other losses
    then must not: those are differentiated one by one, with respect to the variables
    of their own window only. The forward pass is one, in any case.
    """
    counting = [
        m
        for m in modules
        if m.boundary is None or (m.objective is not None and mode.weight(m.name))
    ]
    local = mode.name == "local"
    reached = {m.name: _reached(m, modules, mode) for m in counting} if local else {}
    opened = {name for owner, window in reached.items() for name in window - {owner}}
    stopping = frozenset(
        m.name
        for m in modules
        if m.boundary is not None and mode.stops(m.name) and m.name not in opened
    )
    listeners = _listeners(modules, mode, stopping)
    before = {m.name: m.inputs for m in modules}

    def heard(name: str) -> set[str]:
        return set(listeners.get(name, ())) - {name}

    def trained(name: str) -> Iterable[str]:
        return {own for listener in heard(name) for own in reached[listener]}

    def flowing(name: str) -> Iterable[str]:
        return heard(name) | {up for up in before[name] if up in opened}

    def predicting(names: frozenset[str]) -> frozenset[str]:
        """Adds the boundaries that learn to predict the signal of these modules."""
        upstream = {up for name in names for up in before[name]}
        return names | {up for up in upstream if up in listeners.get(up, ())}

    windows = {k: predicting(_closure(names, trained)) for k, names in reached.items()}
    separate = tuple(
        name
        for name, window in windows.items()
        if predicting(_closure([name], flowing)) != window
    )
    return Flow(stopping, listeners, windows, separate)


def _reached(module: Module, modules: Sequence[Module], mode: TrainingMode) -> set[str]:
    """The modules that a loss reaches by its `reach`."""
    reach = None if module.objective is None else module.objective.reach
    reach = reach or mode.reach or 1
    steps = len(modules) if reach == "all" else int(reach) - 1
    before = {m.name: m.inputs for m in modules}
    window = {module.name}
    for _ in range(steps):
        window |= {name for inside in window for name in before[inside]}
    return window


def _listeners(
    modules: Sequence[Module], mode: TrainingMode, stopping: frozenset[str]
) -> dict[str, dict[str, Listener]]:
    found: dict[str, dict[str, Listener]] = {}
    for module in modules:
        feedback_source = (
            None if module.objective is None else module.objective.feedback_source
        )
        weight = mode.weight(module.name)
        if not feedback_source or not weight or module.name not in stopping:
            continue
        ends = {
            "boundary": [module.name],
            "outputs": [modules[-1].name],
            "following": [m.name for m in modules if module.name in m.inputs],
        }
        for place, end in enumerate(ends[feedback_source]):
            found.setdefault(end, {})[module.name] = Listener(weight, place)
    return found


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
