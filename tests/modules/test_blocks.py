"""The rest of a network as blocks: where it is cut, and copies of them."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_e2e import ModuleBoundary
from keras_e2e.modules.blocks import blocks_after
from keras_e2e.modules.graph import Graph


def names(block):
    return [layer.name for layer in block.layers]


def rest_of(model, name="first"):
    graph = Graph(model)
    return blocks_after(graph, graph.boundaries()[name])


def residual(h, width, name):
    """A residual block of two convolutions, with a projection where the width changes."""
    short = h
    if h.shape[-1] != width:
        short = layers.Conv2D(width, 1, name=f"{name}_short")(h)
    h = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_conv")(h)
    h = layers.BatchNormalization(name=f"{name}_norm")(h)
    return layers.ReLU(name=f"{name}_relu")(h + short)


def resnet():
    inputs = keras.Input((8, 8, 3))
    h = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    h = ModuleBoundary(name="first")(layers.ReLU()(h))
    h = layers.Dropout(0.5, name="drop")(h)
    h = residual(h, 6, "a")
    h = ModuleBoundary(name="second")(h)
    h = residual(h, 6, "b")
    h = layers.GlobalAveragePooling2D()(h)
    return keras.Model(inputs, layers.Dense(3, "softmax", name="out")(h))


def test_the_rest_is_cut_at_every_cut_point():
    model = resnet()
    first = rest_of(model)
    assert [sorted(names(b)) for b in first] == [
        ["a_conv", "a_norm", "a_short"],
        ["b_conv", "b_norm"],
        ["out"],
    ]
    assert [b.last for b in first] == [False, False, True]
    assert [(b.place, b.count) for b in first] == [(1, 4), (2, 4), (3, 4)]
    # The dropout before the first layer with weights belongs to its block.
    assert "drop" in [c.operation.name for c in first[0].calls]
    assert len(first[1].variables) == 5
    second = rest_of(model, "second")
    assert [names(b) for b in second] == [names(b) for b in first[1:]]
    assert [(b.place, b.count) for b in second] == [(2, 4), (3, 4)]


def test_the_heads_of_boundaries_are_no_part_of_the_rest():
    model = resnet()
    before = [names(b) for b in rest_of(model)]
    for boundary in Graph(model).boundaries().values():
        boundary.own = layers.Dense(2)  # weights, as a built objective has
        boundary.own.build((None, 3))
    assert [names(b) for b in rest_of(model)] == before
    assert rest_of(model, "second")[0].place == 2


def test_a_copy_computes_the_same_with_the_same_weights():
    model = resnet()
    block = rest_of(model)[0]
    inputs = keras.Input(block.start.shape[1:])
    outputs, pairs = block.clone(inputs, "copy_")
    copy = keras.Model(inputs, outputs)
    assert not {id(v) for v in copy.weights} & {id(v) for v in block.variables}
    for original, twin in pairs:
        assert twin.name == f"copy_{original.name}"
        for variable in original.weights:
            variable.assign(variable + 0.1)
        twin.set_weights(original.get_weights())
    whole = keras.Model(block.start, block.ends[0])
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")
    np.testing.assert_allclose(copy(x), whole(x), rtol=1e-5, atol=1e-6)


def test_a_copy_takes_another_shape_and_keeps_what_its_layers_are():
    inputs = keras.Input((6,))
    h = ModuleBoundary(name="first")(layers.Dense(4)(inputs))
    twice = layers.Dense(4, kernel_regularizer="l2", name="twice")
    h = layers.Dropout(0.3, name="drop")(twice(twice(h)))
    block, _ = rest_of(keras.Model(inputs, layers.Dense(2)(h)))
    given = keras.Input((4,))
    outputs, pairs = block.clone(given, "a_")
    names = [copy.name for _, copy in pairs]
    assert names == ["a_twice", "a_drop"], "one copy of what is called twice"
    assert len(keras.Model(given, outputs).weights) == 2
    assert pairs[0][1].kernel_regularizer is not None
    assert outputs.shape == (None, 4)
    wide = rest_of(resnet())[0]  # it opens with a dropout
    outputs, pairs = wide.clone(keras.Input((5, 9, 7)), "b_")
    assert outputs.shape == (None, 5, 9, 6)
    rates = [getattr(copy, "rate", None) for _, copy in pairs]
    assert 0.5 in rates


def test_a_copy_that_cannot_be_is_refused():
    _, same, _ = rest_of(resnet())
    with pytest.raises(ValueError) as caught:
        same.clone(keras.Input((8, 8, 4)), "")  # the sum of 6 and 4 channels
    for phrase in ["b_conv", "(None, 8, 8, 4)", "(None, 8, 8, 6)"]:
        assert phrase in str(caught.value)


def test_there_is_no_rest_where_something_else_goes_into_it():
    inputs = keras.Input((6,))
    other = keras.Input((4,))
    h = ModuleBoundary(name="first")(layers.Dense(4)(inputs))
    joined = layers.Dense(2)(layers.Add()([layers.Dense(4)(h), other]))
    assert rest_of(keras.Model([inputs, other], joined)) == ()
    boundary = ModuleBoundary(name="first")
    pair = [boundary(layers.Dense(4)(inputs)), boundary(layers.Dense(4)(inputs))]
    assert rest_of(keras.Model(inputs, layers.Dense(2)(layers.Add()(pair)))) == ()


def test_the_last_block_leads_into_all_outputs():
    inputs = keras.Input((6,))
    h = ModuleBoundary(name="first")(layers.Dense(4)(inputs))
    h = layers.Dense(5, name="hidden")(h)
    model = keras.Model(
        inputs, [layers.Dense(2, name="p")(h), layers.Dense(3, name="q")(h)]
    )
    hidden, last = rest_of(model)
    assert (names(hidden), sorted(names(last))) == (["hidden"], ["p", "q"])
    assert [t.shape for t in last.ends] == [(None, 2), (None, 3)]
    with pytest.raises(ValueError, match="2 outputs"):
        last.clone(keras.Input((5,)), "")
