"""Models that are called by hand, and steps that were refused before."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from tests.conformance import models

X, Y = models.inputs("rich", 8), models.targets("rich", 8)


def test_two_models_in_one_loop_keep_their_own_records():
    one, two = [e2e.modularize(models.build("dense"), models.CUTS) for _ in range(2)]
    losses = []
    for model in (one, two):
        model.compile("sgd", **models.losses("dense"))
        model.training_mode = "local"
    predicted = [model(X, training=True) for model in (one, two)]
    for model, y_pred in zip((one, two), predicted, strict=True):
        losses.append(float(model.compute_loss(x=X, y=Y, y_pred=y_pred)))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("mode", ["end_to_end", "local", "sequential:first"])
def test_the_loss_of_evaluation_by_hand_is_that_of_evaluate(mode):
    """The penalties of heads count in neither."""
    heads = {
        name: layers.Dense(models.CLASSES, kernel_regularizer="l2", name=f"{name}_head")
        for name in models.CUTS
    }
    model = e2e.modularize(
        models.build("rich"),
        {name: e2e.objectives.Prediction(head=head) for name, head in heads.items()},
    )
    model.compile("sgd", **models.losses("rich"))
    model.training_mode = mode
    y_pred = model(X, training=False)
    loss = model.compute_loss(x=X, y=Y, y_pred=y_pred, training=False)
    expected = model.evaluate(X, Y, batch_size=8, verbose=0)
    np.testing.assert_allclose(float(loss), expected, rtol=1e-6)


@pytest.mark.parametrize("observed", [False, True])
def test_training_goes_on_after_a_step_that_was_refused(observed):
    """The error says which labels to give; giving them to the next `fit` works."""
    if observed and keras.config.backend() != "tensorflow":
        pytest.skip("diagnostics on TensorFlow")
    base = models.build("dense")
    model = e2e.modularize(base, {"first": e2e.objectives.IntermediateTarget()})
    model.compile("sgd", **models.losses("dense"), metrics=["accuracy"])
    model.training_mode = "local"
    callbacks = [e2e.callbacks.ModuleDiagnostics(update_freq=1)] if observed else []
    with pytest.raises(ValueError, match=r"Give y=.*'first': labels"):
        model.fit(X, Y, verbose=0, callbacks=callbacks)
    model.fit(X, {"out": Y, "first": Y}, verbose=0, callbacks=callbacks)
    assert model.optimizer.iterations == 1
    assert set(model.trace_counts.values()) == {1}
