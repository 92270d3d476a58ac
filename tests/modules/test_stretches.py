"""A stretch begins and ends where gradients are summed as without it."""

import itertools

import keras
from keras import layers

import keras_e2e as e2e
from keras_e2e.modules.graph import OUTPUT, Graph
from keras_e2e.modules.stretches import Stretch, schedule, stretches


def names(model, wanted=lambda end: True, penalizes=lambda end, call: False):
    """The names of the layers of each stretch."""
    found = stretches(Graph(model), wanted, penalizes)
    return [[call.operation.name for call in stretch.calls] for stretch in found]


def covered(*args, **kwargs):
    """The names of the layers of all stretches."""
    return [*itertools.chain(*names(*args, **kwargs))]


def residual():
    x = inputs = keras.Input((4,))
    for i in range(3):
        y = layers.Dense(4, name=f"a{i}")(x)
        y = layers.Dense(4, name=f"b{i}")(layers.ReLU(name=f"r{i}")(y))
        x = layers.Add(name=f"sum{i}")([x, y])
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def test_no_stretch_ends_inside_of_a_residual_block():
    found = names(residual())
    assert [each[0] for each in found][:3] == ["a0", "a1", "a2"]
    assert {each[-1] for each in found} <= {"sum0", "sum1", "sum2", "out"}


def test_only_the_modules_that_are_asked_for():
    running = e2e.modularize(residual(), ["sum0", "sum1"])._modular.graph
    assert covered(running, {"sum1"}.__contains__) == ["a1", "r1", "b1", "sum1"]
    assert covered(running, {OUTPUT}.__contains__)[0] == "a2"


def test_no_stretch_ends_with_a_penalty_of_what_leaves_it():
    x = inputs = keras.Input((4,))
    for i in range(4):
        x = layers.Dense(4, name=f"d{i}")(x)
    model = keras.Model(inputs, x)
    found = names(model, penalizes=lambda end, call: call.operation.name in ("d1", "d2"))
    assert not {each[-1] for each in found} & {"d1", "d2"}


def test_a_layer_that_is_called_twice_stays_outside():
    shared, x = layers.Dense(4, name="shared"), keras.Input((4,))
    first = layers.Dense(4, name="first")(x)
    y = layers.Dense(4, name="last")(shared(layers.Dense(4, name="mid")(shared(first))))
    assert "shared" not in covered(keras.Model(x, y))


def test_what_leaves_and_is_used_inside_as_well_stays_outside():
    x = inputs = keras.Input((4,))
    early = layers.Dense(4, name="early")(x)
    x = layers.Dense(4, name="later")(layers.Dense(4, name="next")(early))
    found = covered(keras.Model(inputs, [early, x]))
    assert "early" not in found and "next" not in found


def test_every_call_is_made_once_after_what_it_needs():
    model = e2e.modularize(residual(), ["sum1"])
    graph = Graph(model)
    units = schedule(graph, stretches(graph, lambda end: True, lambda end, call: False))
    calls = [c for u in units for c in (u.calls if isinstance(u, Stretch) else [u])]
    made = {id(tensor) for tensor in model.inputs}
    for call in calls:
        assert {id(t) for t in call.inputs} <= made
        made |= {id(t) for t in call.outputs}
    assert len(calls) == len([c for c in graph.calls if not c.node.is_input])
