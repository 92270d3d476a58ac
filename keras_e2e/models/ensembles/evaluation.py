"""Scores of an ensemble of classifiers: its members, their votes, their diversity."""

import io
import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from rich.console import Console
from rich.table import Table

from keras_e2e.models.ensembles.calibration import Scores, checked, scores
from keras_e2e.models.ensembles.ensemble import ensemble
from keras_e2e.models.ensembles.voting import MajorityVote
from keras_e2e.models.modular_model import ModularModel
from keras_e2e.modules.graph import Graph
from keras_e2e.utils.data import Batches


class EnsembleEvaluation(NamedTuple):
    """What `evaluate_ensemble` found. Printed, it is a table.

    Attributes:
        members: Dict from member to its `ensembles.Scores`: error, negative log likelihood
            and calibration error.
        mean: `ensembles.Scores` of the mean of their probabilities.
        majority: `ensembles.Scores` of their majority vote (`ensembles.MajorityVote`).
        disagreement: Float, share of the examples on which one of two members is correct
            and the other is not, mean over all pairs (Kuncheva & Whitaker 2003,
            "Measures of Diversity in Classifier Ensembles").
        oracle_error: Float, share of the examples on which no member is correct: the least
            error of any choice among the members' classes.
        num_examples: Integer, the number of examples.

    Example:

    >>> from keras_e2e import ensembles
    >>> one = ensembles.Scores(error=0.25, nll=0.6, ece=0.1)
    >>> found = ensembles.EnsembleEvaluation({"a": one, "b": one}, one, one, 0.5, 0.0, 8)
    >>> print(str(found).splitlines()[-1])
    Of two members only one is correct: 50.00%. No member is correct: 0.00%.
    """

    members: dict[str, Scores]
    mean: Scores
    majority: Scores
    disagreement: float
    oracle_error: float
    num_examples: int

    def __str__(self) -> str:
        table = Table(
            title=f"{len(self.members)} members on {self.num_examples:,} examples",
            title_justify="left",
        )
        table.add_column("predictor", overflow="fold")
        for column in ("error", "NLL", "ECE"):
            table.add_column(column, justify="right")
        rows = {**self.members, "mean": self.mean, "majority": self.majority}
        for number, (name, found) in enumerate(rows.items(), start=1):
            cells = f"{found.error:.2%}", f"{found.nll:.3f}", f"{found.ece:.2%}"
            table.add_row(name, *cells, end_section=number == len(self.members))
        text = io.StringIO()
        Console(file=text, width=92).print(table)
        return (
            f"{text.getvalue()}Of two members only one is correct: "
            f"{self.disagreement:.2%}. No member is correct: {self.oracle_error:.2%}."
        )


def evaluate_ensemble(
    model: keras.Model | Iterable[keras.Model],
    x: Any,
    y: Any = None,
    *,
    batch_size: int | None = None,
) -> EnsembleEvaluation:
    """Error, calibration and diversity of an ensemble of classifiers.

    It runs in inference mode and has no side effects. Mean and majority are computed from
    the members, whatever the model's own vote is; `ensembles.scores(model.predict(x), y)`
    scores an ensemble with weights. For a regression use `model.evaluate_modules`.

    Args:
        model: What `ensemble` returned, or a list of the members.
        x: Inputs: arrays, a `tf.data.Dataset` or a `keras.utils.PyDataset` (these two
            with labels).
        y: Labels, with arrays: classes, integers from 0, or one-hot. Defaults to `None`,
            for datasets.
        batch_size: Integer, the batch size of arrays. Defaults to `None`, which means
            32, as in Keras.

    Returns:
        An `EnsembleEvaluation`: print it.

    Raises:
        TypeError: If the model is not an ensemble.
        ValueError: If members do not return probabilities, labels do not fit them, or
            there are none; or as in `ensemble`.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> def member(bias):
    ...     bias = keras.initializers.Constant(bias)
    ...     return keras.Sequential([keras.Input((1,)), keras.layers.Dense(
    ...         1, "sigmoid", kernel_initializer="zeros", bias_initializer=bias)])
    >>> found = e2e.evaluate_ensemble(
    ...     [member(-1), member(1), member(2)], np.ones((4, 1)), np.array([0, 1, 1, 1]))
    >>> found.majority.error, round(found.disagreement, 3), found.oracle_error
    (0.25, 0.667, 0.0)
    """
    if not isinstance(model, keras.Model):
        model = ensemble(model)
    names, members = _members(model)
    found, labels = [], []
    for inputs, y_true, _ in Batches(x, y, batch_size=batch_size, who="evaluate_ensemble"):
        if y_true is None:
            raise ValueError(
                "evaluate_ensemble: the data has no labels. Give y, or a dataset of (x, y)."
            )
        predictions = members(inputs, training=False)
        found.append([ops.convert_to_numpy(t) for t in predictions])
        labels.append(ops.convert_to_numpy(y_true))
    y_true = np.concatenate(labels)
    by_member = zip(*found, strict=True)
    each = [checked(np.concatenate(batches), y_true)[0] for batches in by_member]
    classes = checked(each[0], y_true)[1]
    votes = ops.convert_to_numpy(MajorityVote(dtype="float32")(each))
    correct = [p.argmax(axis=1) == classes for p in each]
    return EnsembleEvaluation(
        {name: scores(p, classes) for name, p in zip(names, each, strict=True)},
        scores(np.mean(each, axis=0), classes),
        scores(votes, classes),
        float(np.mean([(a != b).mean() for a, b in itertools.combinations(correct, 2)])),
        float(1.0 - np.any(correct, axis=0).mean()),
        len(classes),
    )


def _members(model: keras.Model) -> tuple[list[str], keras.Model]:
    """The members' names, and a model that returns all of their predictions."""
    if isinstance(model, ModularModel):
        running = model._modular.graph
        graph = Graph(running)
        entering = [graph.tensors(boundary)[0] for boundary in model.boundaries.values()]
        shapes = [t.shape for tensors in entering for t in tensors]
        if shapes == [model.outputs[0].shape] * len(entering):
            return list(model.boundaries), keras.Model(
                running.input, [t for [t] in entering]
            )
    raise TypeError(
        f"evaluate_ensemble needs what `ensemble` returned, or a list of members. Found: "
        f"{model.name!r} ({type(model).__name__}), whose modules do not all return what "
        "it returns. Make one by keras_e2e.ensemble(members)."
    )
