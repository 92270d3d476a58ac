"""Ensembles: one model of several predictors, trained independently or jointly."""

import itertools
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Literal, get_args

import keras
import numpy as np
from keras import tree

from keras_e2e.models.ensembles.voting import MajorityVote, WeightedMean
from keras_e2e.models.modular_model import ModularModel
from keras_e2e.models.modularize import strip
from keras_e2e.models.overridden import CALLED
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.training_mode import ModeName, TrainingMode
from keras_e2e.objectives import Prediction
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import (
    inputs_like,
    overrides,
    share_dtype_policy,
    strategy_scope,
)
from keras_e2e.utils.validation import check_integer

VoteName = Literal["mean", "majority"]
VOTES: tuple[str, ...] = get_args(VoteName)
Vote = VoteName | Sequence[float] | np.ndarray


def ensemble(
    members: Iterable[keras.Model],
    vote: Vote = "mean",
    *,
    training_mode: TrainingMode | ModeName = "end_to_end",
    name: str = "ensemble",
) -> ModularModel:
    """Joins models into one that combines their predictions.

    The models that are joined are called *members*; what combines their predictions is
    the *vote*. The members are the modules of a modular model, and its training mode
    switches between the two meanings of an ensemble:

    | training mode | what trains a member |
    |---|---|
    | `"local"` | its own loss: independent predictors (Hansen & Salamon 1990) |
    | `"end_to_end"` | the loss of the combined prediction: one system |
    | `"deep_supervision"` | both; `TrainingMode(..., weights={member: w})` weighs its own |

    The last is a blend of the first two, as in Webb et al. 2020 ("To Ensemble or Not
    Ensemble: When Does End-to-End Training Fail?").

    In local mode all members see the same batches; they differ by their initial weights.
    To train them on bags of their own (`bootstrap_indices`), or in orders of their own,
    call `fit` of the members themselves, before or after. (On TensorFlow, each `fit` on
    arrays after one `keras.utils.set_random_seed` has the same order: set another seed
    before each.) Layers and weights are shared: training the ensemble trains the members,
    and the reverse.

    The loss of a member is the compiled one, so the targets are given once.
    `evaluate_modules` returns loss and metrics of each member, `strip` the stock model.
    For classifiers `evaluate_ensemble` returns more.

    Args:
        members: List of two or more Functional or built Sequential models, of one output
            each, with equal inputs and outputs, that share no weights. Outputs of a
            classifier are probabilities: they end in a softmax over the last axis, or in
            one sigmoid unit. Boundaries inside of modular members are left out. Members
            of one name get numbers: `m`, `m_2`, ...
        vote: How predictions are combined. `"mean"`: their average, of probabilities or
            of the numbers of a regression. `"majority"`: the class that most members find
            most probable (`ensembles.MajorityVote`). A list of numbers, one for each
            member: the average weighted by them (`ensembles.WeightedMean`); they are at
            least 0 and are divided by their sum. Defaults to `"mean"`.
        training_mode: `TrainingMode` or its name, the mode to start in. Defaults to
            `"end_to_end"`.
        name: String, the name of the model. Defaults to `"ensemble"`. The layer of the
            combined prediction is called `vote`.

    Returns:
        A `ModularModel` from inputs like those of each member to the combined
        prediction, of the shape of theirs. It is not compiled, and has the dtype policy
        of the first member.

    Raises:
        TypeError: If a member is not a Keras model.
        ValueError: If there are fewer than two members, or one has no known graph or
            several outputs, differs from the first in shapes, or shares weights with
            another; if the vote is unknown, or its weights do not fit.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> def member():
    ...     return keras.Sequential([keras.Input((4,)),
    ...                              keras.layers.Dense(3, activation="softmax")], name="m")
    >>> model = e2e.ensemble([member(), member()], training_mode="local")
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> x, y = np.ones((8, 4), "float32"), np.arange(8) % 3
    >>> history = model.fit(x, y, verbose=0)     # each by itself
    >>> model.training_mode = "end_to_end"
    >>> history = model.fit(x, y, verbose=0)     # jointly
    >>> list(model.evaluate_modules(x, y))
    ['m', 'm_2', 'vote']
    """
    members = list(members)
    if len(members) < 2:
        raise ValueError(f"members: found {len(members)}; expected two models or more.")
    weights = _weights(vote, len(members))
    graphs = [_graph(member) for member in members]
    _refuse_different(members, graphs)
    _refuse_shared(members)
    with strategy_scope(members[0]):
        inputs = inputs_like(_inputs(graphs[0]))
        names = _names(members, taken={"vote", *(t.name for t in tree.flatten(inputs))})
        predictions = []
        for graph, own in zip(graphs, names, strict=True):
            # A model of its own, for the name: a member keeps the one it has.
            member = keras.Model(_inputs(graph), graph.outputs[0], name=own)
            boundary = ModuleBoundary(_own_loss(), name=f"{own}_boundary", module=own)
            predictions.append(boundary(member(inputs)))
        dtype = graphs[0].outputs[0].dtype  # of probabilities, whatever the policy
        layer: keras.layers.Layer
        if weights is not None:
            layer = WeightedMean(weights, dtype=dtype, name="vote")
        elif vote == "mean":
            layer = keras.layers.Average(dtype=dtype, name="vote")
        else:
            layer = MajorityVote(dtype=dtype, name="vote")
        model = ModularModel(
            inputs, layer(predictions), name=name, training_mode=training_mode
        )
        share_dtype_policy(members[0], model)
        return model


def bootstrap_indices(
    num_examples: int, num_members: int, seed: int = 0
) -> list[np.ndarray]:
    """Draws for each member of an ensemble the examples that it is trained on.

    Bagging (Breiman 1996, "Bagging Predictors"): each bag has as many examples as there
    are, drawn uniformly with replacement. About 37 % of the examples are not in a bag,
    others are in it several times.

    With arrays: `member.fit(x[rows], y[rows])`. As a dataset:
    `tf.data.Dataset.from_tensor_slices((x[rows], y[rows]))`.

    Args:
        num_examples: Positive integer, the number of examples there are.
        num_members: Positive integer, the number of bags. With more members the first
            bags stay as they are.
        seed: Non-negative integer seed of the draw. The same arguments give the same
            bags. Defaults to 0.

    Returns:
        List of the rows of each bag: integers below `num_examples`, shape
        `(num_examples,)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> import keras_e2e as e2e
    >>> bags = e2e.bootstrap_indices(1000, num_members=3)
    >>> [len(rows) for rows in bags], len(set(bags[0]))
    ([1000, 1000, 1000], 622)
    """
    check_integer("num_examples", num_examples, 1)
    check_integer("num_members", num_members, 1)
    check_integer("seed", seed, 0)
    size = (num_members, num_examples)
    return list(np.random.default_rng(seed).integers(num_examples, size=size))


def _own_loss() -> Prediction:
    """The compiled loss on a member's output as it is, without a head."""
    return Prediction(keras.layers.Identity(), activation="linear")


def _weights(vote: Any, members: int) -> list[float] | None:
    """Weights that add up to 1; None where the vote has none."""
    if isinstance(vote, str) and vote in VOTES:
        return None
    given = [vote] if isinstance(vote, str) or not isinstance(vote, Iterable) else [*vote]
    if len(given) != members or not all(isinstance(weight, Real) for weight in given):
        raise ValueError(
            f"vote={vote!r}: expected 'mean', 'majority' or a list of weights, one for "
            f"each of the {members} members."
        )
    weights = np.asarray(given, "float64")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(
            f"vote={vote!r}: expected weights of at least 0, not all of them 0. Leave a "
            "member out by the weight 0."
        )
    return [float(weight) for weight in weights / weights.sum()]


def _graph(member: Any) -> keras.Model:
    """The graph of a member, without its boundaries."""
    if not isinstance(member, keras.Model):
        raise TypeError(f"members: expected Keras models. Found: {member!r}.")
    plain = strip(member) if isinstance(member, ModularTrainer) else member
    if not compat.is_functional(plain) or not compat.has_stock_call(plain):
        raise ValueError(
            f"Member {member.name!r} ({type(member).__name__}) is not a graph of layers. "
            "Make it one: x = keras.Input(shape); keras.Model(x, member(x)). A Sequential "
            "model starts with keras.Input(shape)."
        )
    for method in CALLED:
        if overrides(plain, method):
            raise ValueError(
                f"Member {member.name!r} ({type(plain).__name__}) overrides {method}(), "
                "which an ensemble, made of the graph, would not run. Give the graph, "
                "keras.Model(member.inputs, member.outputs), and do what it does in front "
                f"of the ensemble's {method}()."
            )
    graph = compat.as_functional(plain)
    if len(graph.outputs) != 1:
        raise ValueError(
            f"Member {member.name!r} has {len(graph.outputs)} outputs. Expected one. "
            "Give a model of one of them: keras.Model(member.inputs, member.outputs[0])."
        )
    return graph


def _inputs(graph: keras.Model) -> Any:
    """The inputs as the graph takes them; a list of one as that one."""
    single = isinstance(graph.input, list | tuple) and len(graph.input) == 1
    return graph.input[0] if single else graph.input


def _refuse_different(members: list, graphs: list[keras.Model]) -> None:
    """Raises ValueError for members whose inputs or outputs differ from the first's."""
    first: dict[str, Any] = {}
    for member, graph in zip(members, graphs, strict=True):
        for what, tensors in (("inputs", _inputs(graph)), ("outputs", graph.outputs[0])):
            found = [
                (*map(str, path), t.shape, t.dtype)
                for path, t in tree.flatten_with_path(tensors)
            ]
            if first.setdefault(what, found) != found:
                raise ValueError(
                    f"Member {member.name!r} has the {what} {found}; member "
                    f"{members[0].name!r} has {first[what]}. Expected the same of all."
                )


def _refuse_shared(members: list) -> None:
    """Raises ValueError for members that share weights."""
    for (i, one), (j, other) in itertools.combinations(enumerate(members), 2):
        theirs = {id(v) for v in other.weights}
        shared = [v.path for v in one.weights if id(v) in theirs]
        if shared:
            raise ValueError(
                f"Members {i} ({one.name!r}) and {j} ({other.name!r}) share the weights "
                f"{shared[:3]}, so that neither is trained independently. Build each "
                "member anew (keras.models.clone_model does)."
            )


def _names(members: list, taken: set[str]) -> list[str]:
    """A name for each member that no other has."""
    names: list[str] = []
    for member in members:
        name, number = member.name, 1
        while name in taken:
            number += 1
            name = f"{member.name}_{number}"
        taken.add(name)
        names.append(name)
    return names
