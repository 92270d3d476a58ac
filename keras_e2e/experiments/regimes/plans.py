"""Plans of training: the stages of each regime, made from the names of the modules."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_e2e.callbacks import AutoMode


class Stage(NamedTuple):
    """A part of a training: some of the steps, in one training mode.

    Attributes:
        share: Float, the stage's share of all steps. The shares of a plan are scaled to
            sum to one. Defaults to 1.0.
        mode: The training mode, as `model.training_mode` takes it. Defaults to
            "end_to_end".
        frozen: Names of modules that are frozen in the stage, as layers are whose
            `trainable` is False. Defaults to none.
        downstream_of: String, the name of a boundary. The stage trains only what lies
            downstream of it, on ideal activations of the boundary in place of those of
            the modules upstream (`train(ideal_activations=...)`). Defaults to None, which
            trains the whole model.
        callbacks: A function that makes further callbacks for `fit`. Defaults to none.

    Example:

    >>> from keras_e2e.experiments.regimes import Stage
    >>> Stage(0.5, "local").frozen
    ()
    """

    share: float = 1.0
    mode: Any = "end_to_end"
    frozen: tuple[str, ...] = ()
    downstream_of: str | None = None
    callbacks: Callable[[], list] = list


def divide(total: int, shares: Sequence[float]) -> list[int]:
    """Divides windows or epochs by shares; each has one at least.

    Args:
        total: Integer, how many there are, as many as shares or more.
        shares: List of the shares, each above 0.

    Returns:
        List of integers that sum to `total`.
    """
    whole = sum(shares)
    ends = np.round(np.cumsum([share / whole for share in shares]) * total).astype(int)
    parts: list[int] = []
    for place, end in enumerate(ends, start=1):
        begin, last = sum(parts), total - (len(ends) - place)
        parts.append(min(max(int(end), begin + 1), last) - begin)
    return parts


def end_to_end(names: Sequence[str]) -> list[Stage]:
    """Trains all modules by the task loss.

    Args:
        names: List of the names of the modules, in order.

    Returns:
        List of the `Stage`s.

    Example:

    >>> from keras_e2e import regimes
    >>> [stage.mode for stage in regimes.end_to_end(["encoder", "out"])]
    ['end_to_end']
    """
    return [Stage()]


def deep_supervision(names: Sequence[str]) -> list[Stage]:
    """Trains all modules by the task loss and all local objectives together.

    The "decomposition" of Shalev-Shwartz, Shamir & Shammah 2017.

    Args:
        names: List of the names of the modules, in order.

    Returns:
        List of the `Stage`s.

    Example:

    >>> from keras_e2e import regimes
    >>> [stage.mode for stage in regimes.deep_supervision(["encoder", "out"])]
    ['deep_supervision']
    """
    return [Stage(mode="deep_supervision")]


def local(names: Sequence[str]) -> list[Stage]:
    """Trains every module by its own objective, the last by the task loss, all at once.

    Args:
        names: List of the names of the modules, in order.

    Returns:
        List of the `Stage`s.

    Example:

    >>> from keras_e2e import regimes
    >>> [stage.mode for stage in regimes.local(["encoder", "out"])]
    ['local']
    """
    return [Stage(mode="local")]


def local_then_end_to_end(names: Sequence[str]) -> list[Stage]:
    """Trains locally for half of the steps, and end to end for the other half.

    Args:
        names: List of the names of the modules, in order.

    Returns:
        List of the `Stage`s.

    Example:

    >>> from keras_e2e import regimes
    >>> [stage.mode for stage in regimes.local_then_end_to_end(["encoder", "out"])]
    ['local', 'end_to_end']
    """
    return [Stage(mode="local"), Stage()]


def greedy(names: Sequence[str]) -> list[Stage]:
    """Trains one module after another, the first one first, with equal shares.

    Args:
        names: List of the names of the modules, in order.

    Returns:
        List of the `Stage`s.

    Example:

    >>> from keras_e2e import regimes
    >>> [stage.mode for stage in regimes.greedy(["encoder", "out"])]
    ['sequential:encoder', 'sequential:out']
    """
    return [Stage(mode=f"sequential:{name}") for name in names]


def last_first(names: Sequence[str]) -> list[Stage]:
    """Trains the last module on ideal activations, then the others with it frozen.

    The others learn by the task loss alone: the claim that modules learn when those
    downstream are trained already and frozen (Glasmachers 2017).

    Args:
        names: List of the names of the modules, in order.

    Returns:
        List of the `Stage`s.

    Example:

    >>> from keras_e2e import regimes
    >>> [stage.downstream_of for stage in regimes.last_first(["encoder", "out"])]
    ['encoder', None]
    """
    return [Stage(downstream_of=names[-2]), Stage(frozen=(names[-1],))]


def independent(names: Sequence[str]) -> list[Stage]:
    """Trains every module without the others.

    The last one learns on ideal activations, the others by their own objectives.

    Args:
        names: List of the names of the modules, in order.

    Returns:
        List of the `Stage`s.

    Example:

    >>> from keras_e2e import regimes
    >>> [stage.downstream_of for stage in regimes.independent(["encoder", "out"])]
    [None, 'encoder']
    """
    return [*greedy(names)[:-1], Stage(downstream_of=names[-2])]


def pretrained(names: Sequence[str]) -> list[Stage]:
    """Trains all modules but the last in turn, for half of the steps; then end to end.

    With objectives that need no labels this is unsupervised pretraining.

    Args:
        names: List of the names of the modules, in order.

    Returns:
        List of the `Stage`s.

    Example:

    >>> from keras_e2e import regimes
    >>> [stage.mode for stage in regimes.pretrained(["encoder", "out"])]
    ['sequential:encoder', 'end_to_end']
    """
    first = greedy(names)[:-1]
    return [*first, Stage(float(len(first)))]


def auto(names: Sequence[str]) -> list[Stage]:
    """Trains end to end, and starved modules locally (`callbacks.AutoMode`).

    Args:
        names: List of the names of the modules, in order.

    Returns:
        List of the `Stage`s.

    Example:

    >>> from keras_e2e import regimes
    >>> [type(each).__name__ for each in regimes.auto(["encoder", "out"])[0].callbacks()]
    ['AutoMode']
    """
    return [Stage(callbacks=lambda: [AutoMode()])]


PLANS: dict[str, Callable[[Sequence[str]], list[Stage]]] = {
    "end_to_end": end_to_end,
    "deep_supervision": deep_supervision,
    "local": local,
    "local_then_end_to_end": local_then_end_to_end,
    "greedy": greedy,
    "last_first": last_first,
    "independent": independent,
    "pretrained": pretrained,
    "auto": auto,
}
"""The plans by name: each makes its stages from the names of the modules, in order."""
