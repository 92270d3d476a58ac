"""Sequences of which some steps have no weight: those teach no module anything."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.objectives import Batch, InfoNCE, ModelSpec, Reconstruction

RNG = np.random.default_rng(0)
EXAMPLES, LENGTH, FEATURES = 6, 8, 3
OBJECTIVES = {
    "reconstruction": e2e.objectives.Reconstruction,
    "labels": lambda: e2e.objectives.IntermediateTarget(
        "binary_crossentropy", head="linear", units=2, per_position=True
    ),
    "infonce": lambda: InfoNCE(num_steps=3, seed=0),
    "prediction": lambda: e2e.objectives.Prediction("linear", output_name="policy"),
}


def model_of(objective, optimizer):
    """A policy with a memory, whose sequences may have any length."""
    keras.utils.set_random_seed(0)
    observation = keras.Input((None, FEATURES), name="observation")
    state = keras.Input((4,), name="state")
    seen = layers.Dense(5, "tanh", name="perception")(observation)
    memory = layers.GRU(4, return_sequences=True, return_state=True)
    remembered, last = memory(seen, initial_state=state)
    base = keras.Model(
        {"observation": observation, "state": state},
        {"policy": layers.Dense(2, name="policy")(remembered), "state": last},
    )
    model = e2e.modularize(base, {"perception": objective}, training_mode="local")
    model.compile(optimizer, loss={"policy": e2e.rewards.PPO()}, run_eagerly=True)
    return model


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_in_steps_without_weight_changes_nothing(name, optimizer):
    lengths = RNG.integers(1, LENGTH + 1, EXAMPLES)
    real = np.arange(LENGTH) < lengths[:, None]
    found = []
    for filled_with in (0.0, 100.0):
        keras.utils.set_random_seed(1)
        rng = np.random.default_rng(1)
        seen = rng.normal(size=(EXAMPLES, LENGTH, FEATURES))
        y = {"policy": rng.normal(size=(EXAMPLES, LENGTH, 3)) > 0}
        if name == "labels":
            y["perception"] = (rng.normal(size=(EXAMPLES, LENGTH, 2)) > 0) * real[..., None]
        x = {
            "observation": np.where(real[..., None], seen, filled_with),
            "state": np.zeros((EXAMPLES, 4)),
        }
        model = model_of(OBJECTIVES[name](), optimizer)
        before = model.get_layer("perception").kernel.numpy()
        weight = real * (real.size / real.sum())
        model.train_on_batch(x, y, sample_weight=weight.astype("float32"))
        found.append(model.get_weights())
        assert not np.array_equal(before, model.get_layer("perception").kernel.numpy())
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def compute(objective, h, weight):
    batch = Batch(None, (), None, weight, None)
    return float(objective.compute_loss(keras.ops.convert_to_tensor(h), batch))


def built(**arguments):
    objective = InfoNCE(seed=0, **arguments)
    source = keras.KerasTensor((None, None, FEATURES))
    objective.build_for(source, ModelSpec(source, [source], ()))
    return objective


def test_infonce_takes_sequences_whose_length_is_known_only_in_the_step():
    h = RNG.normal(size=(EXAMPLES, 4, FEATURES)).astype("float32")
    objective = built(num_steps=9)
    # No farther than there are steps, though there are nine matrices.
    assert len(objective.predictions) == 9
    for variable in objective.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    assert compute(objective, h, None) == pytest.approx(np.log(17), rel=1e-5)


def test_infonce_weighs_an_example_by_its_steps_and_a_single_step_by_nothing():
    h = RNG.normal(size=(2, 4, FEATURES)).astype("float32")
    objective = built(num_steps=2)
    for variable in objective.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    weight = np.float32([[1, 1, 1, 0], [1, 0, 0, 0]])
    # By hand: log(17) in each pair of the first example, whose weights have a mean of 3/4.
    assert compute(objective, h, weight) == pytest.approx(np.log(17) * 0.75 / 2, rel=1e-5)


def test_infonce_takes_weights_of_other_steps_than_its_positions_for_the_example():
    h = RNG.normal(size=(2, 4, FEATURES)).astype("float32")
    found = []
    for weight in ([1, 0], [[1] * 6, [0] * 6]):
        keras.utils.set_random_seed(0)
        found.append(compute(built(num_steps=2), h, np.float32(weight)))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_infonce_refuses_a_step_whose_length_is_unknown():
    import tensorflow as tf

    objective = built()

    @tf.function(input_signature=[tf.TensorSpec((None, None, FEATURES))])
    def step(h):
        return objective.compute_loss(h, Batch(None, (), None, None, None))

    with pytest.raises(ValueError, match=r"InfoNCE: .*length of the sequences"):
        step(tf.zeros((2, 4, FEATURES)))


def test_weights_of_other_positions_count_by_their_mean():
    source = keras.KerasTensor((None, 6, FEATURES))
    h = RNG.normal(size=(2, 6, FEATURES)).astype("float32")
    objective = Reconstruction()
    objective.build_for(source, ModelSpec(source, [source], ()))
    found = [
        float(objective.compute_loss(h, Batch(None, (), None, np.float32(weight), h)))
        for weight in ([0.5, 2], [[1, 0, 0.5], [3, 2, 1]], [[0.5] * 6, [2] * 6])
    ]
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)
