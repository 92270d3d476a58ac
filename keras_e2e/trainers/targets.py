"""Sorts `y` and `sample_weight` into the model's own part and those of boundaries."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from keras import tree


class StepTargets(NamedTuple):
    """`y` and `sample_weight` of a step, sorted.

    Attributes:
        y: The targets of the model's own outputs, as Keras expects them, or None.
        sample_weight: The sample weights of these, or None.
        labels: Dict with the intermediate labels, by boundary.
        label_weights: Dict with the sample weights of the objectives, by boundary.
    """

    y: Any
    sample_weight: Any
    labels: dict[str, Any]
    label_weights: dict[str, Any]

    def single_weight(self) -> Any:
        """Sample weights that hold for every example, or None."""
        weight = self.sample_weight
        return None if isinstance(weight, (dict, list, tuple)) else weight


def output_keys(structure: Any, output_names: Sequence[str] | None) -> list[str]:
    """A key for each output, in the order of `tree.flatten(structure)`.

    A dict of outputs goes by its keys, anything else by the output names.
    """
    paths = [path for path, _ in tree.flatten_with_path(structure)]
    if isinstance(structure, dict):
        return [str(path[-1]) for path in paths]
    if output_names and len(output_names) == len(paths):
        return list(output_names)
    return ["outputs"] if len(paths) == 1 else [f"output_{i}" for i in range(len(paths))]


def split_targets(
    y: Any,
    sample_weight: Any,
    boundaries: Collection[str],
    keys: Sequence[str],
    aliases: Collection[str] = (),
    *,
    single: bool = False,
) -> StepTargets:
    """Takes the boundaries' parts out of `y` and `sample_weight`, as in `split`."""
    if not (isinstance(y, dict) or isinstance(sample_weight, dict)):
        return StepTargets(y, sample_weight, {}, {})
    y, labels = split(y, boundaries, keys, aliases, single=single)
    sample_weight, weights = split(
        sample_weight, boundaries, keys, aliases, single=single, what="sample_weight"
    )
    return StepTargets(y, sample_weight, labels, weights)


def split(
    value: Any,
    boundaries: Collection[str],
    keys: Sequence[str],
    aliases: Collection[str] = (),
    *,
    single: bool = False,
    what: str = "y",
) -> tuple[Any, dict[str, Any]]:
    """Takes the boundaries' part out of `y` or `sample_weight`.

    Args:
        value: The argument as it was given to `fit`.
        boundaries: Names of the boundaries.
        keys: Keys of the model's outputs.
        aliases: Further names that an output may go by.
        single: Boolean, whether the model returns one bare tensor, whose part is then
            given bare too. Defaults to `False`.
        what: String, the argument's name, for errors. Defaults to `"y"`.

    Returns:
        The model's own part, shaped as stock Keras expects it (None when nothing of
        it is left), and a dict from boundary name to its part.

    Raises:
        ValueError: If a key is the name of neither an output nor a boundary.
    """
    if not isinstance(value, dict):
        return value, {}
    own = {k: v for k, v in value.items() if k in keys or k in aliases}
    rest = {k: v for k, v in value.items() if k not in own}
    unknown = [k for k in rest if k not in boundaries]
    if unknown:
        raise ValueError(
            f"{what} has the key {unknown[0]!r}, which names neither an output of the "
            f"model {sorted({*keys, *aliases})} nor a boundary {sorted(boundaries)}. "
            "Rename the key: labels of a boundary go under the boundary's name."
        )
    if not own:
        return None, rest
    return (next(iter(own.values())) if single else own), rest


def align_to_outputs(value: Any, keys: Sequence[str], aliases: Sequence[str] = ()) -> list:
    """The model's own part as a flat list, one entry for each output.

    A single tensor for several outputs (sample weights) goes to each of them.
    """
    if value is None:
        return [None] * len(keys)
    if isinstance(value, dict):
        names = list(aliases) if len(aliases) == len(keys) else list(keys)
        return [
            value.get(key, value.get(name)) for key, name in zip(keys, names, strict=True)
        ]
    flat = tree.flatten(value)
    return flat * len(keys) if len(flat) == 1 else flat
