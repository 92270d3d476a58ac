"""Which losses of a step are differentiated together, and when that can be done."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class LossPart(NamedTuple):
    """Losses that one backward pass differentiates.

    Attributes:
        losses: Names of the modules whose losses they are; none where only penalties are
            differentiated.
        trains: Names of the modules that they train.
        ends: Names of the modules after whose ends all of it has been computed. The last
            module ends with the forward pass.
        penalties: Boolean, whether the penalties of the modules that it trains belong to
            it.
    """

    losses: tuple[str, ...]
    trains: frozenset[str]
    ends: frozenset[str]
    penalties: bool = True


def loss_parts(
    names: Sequence[str],
    reached: Mapping[str, frozenset[str]],
    separate: Mapping[str, frozenset[str]],
) -> tuple[LossPart, ...]:
    """Sorts the losses of a step into parts that can be differentiated on their own.

    Losses that train a module in common are one part: their gradients are summed where
    they meet, in one backward pass. A module that none of them reaches is a part for its
    penalties.

    Args:
        names: List of the names of the modules, in order.
        reached: Dict from each loss that flows as far as it can, by the name of its
            module, to the modules that it then trains.
        separate: Dict from each loss that must not flow as far as it could, to the modules
            that it may train.
    """
    groups: list[set[str]] = []
    for name in names:
        joined = {name, *reached.get(name, ())}
        apart = [group for group in groups if not group & joined]
        groups = [*apart, joined.union(*(group for group in groups if group & joined))]
    parts = [
        LossPart((name,), window, frozenset([name]), penalties=False)
        for name, window in separate.items()
    ]
    # The compiled loss has all penalties in it. Where it must not flow as far as it could,
    # the modules that it does not train have theirs one by one.
    covered = separate.get(names[-1], frozenset())
    if covered:
        alone = [frozenset([name]) for name in names if name not in covered]
        parts += [LossPart((), module, module) for module in alone]
    for group in sorted(groups, key=lambda group: max(map(names.index, group))):
        ends, losses = frozenset(group), tuple(n for n in names if n in group & {*reached})
        if losses or not covered:
            parts.append(LossPart(losses, ends, ends, penalties=not covered))
    return tuple(parts)
