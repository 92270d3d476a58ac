"""Which modules each loss trains: how far gradients flow back in local mode."""

from collections.abc import Sequence
from typing import NamedTuple

from keras_e2e.modes import TrainingMode
from keras_e2e.partition import Module


class Reach(NamedTuple):
    """How far the losses of a model reach in a training mode.

    Attributes:
        windows: for each module whose loss counts, the modules that this loss trains.
        open: the boundaries that let a gradient pass.
        separate: the modules whose losses need a backward pass of their own, because
            through the open boundaries they would reach further than they may.
    """

    windows: dict[str, frozenset[str]]
    open: frozenset[str]
    separate: tuple[str, ...]


def reach_of(modules: Sequence[Module], mode: TrainingMode) -> Reach:
    """How far losses reach in `local` mode.

    A boundary is open if the gradient of some loss after it flows through it. Other
    losses then must not: those are differentiated one by one, with respect to the
    variables of their own window only. The forward pass is one, in any case.
    """
    counting = [
        m
        for m in modules
        if m.boundary is None or (m.objective is not None and mode.weight(m.name))
    ]
    windows = {m.name: _window(m, modules, mode) for m in counting}
    opened = frozenset(
        name for owner, window in windows.items() for name in window if name != owner
    )
    separate = tuple(
        name for name, window in windows.items() if _flow(name, modules, opened) != window
    )
    return Reach(windows, opened, separate)


def _window(module: Module, modules: Sequence[Module], mode: TrainingMode) -> frozenset:
    reach = None if module.objective is None else module.objective.reach
    reach = reach or mode.reach or 1
    steps = len(modules) if reach == "all" else int(reach) - 1
    before = {m.name: m.inputs for m in modules}
    window = {module.name}
    for _ in range(steps):
        window |= {name for inside in window for name in before[inside]}
    return frozenset(window)


def _flow(name: str, modules: Sequence[Module], opened: frozenset) -> frozenset:
    """The modules that a loss reaches through the open boundaries."""
    before = {m.name: m.inputs for m in modules}
    reached, pending = {name}, [name]
    while pending:
        for upstream in before[pending.pop()]:
            if upstream in opened and upstream not in reached:
                reached.add(upstream)
                pending.append(upstream)
    return frozenset(reached)
