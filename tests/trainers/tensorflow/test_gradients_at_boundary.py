"""A module's gradients are taken at its boundary, before the next module runs."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_e2e as e2e
from keras_e2e import TrainingMode
from keras_e2e.trainers.one_pass import why_one_apply

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.arange(32) % 3


def base(**dense):
    """Three layers with fixed names, and an output."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6,), name="x")
    for name in "abc":
        x = layers.Dense(8, activation="tanh", name=name, **dense)(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


class Coded(keras.Model):
    def __init__(self):
        super().__init__(name="coded")
        self.inner = [layers.Dense(8, activation="tanh", name=name) for name in "abc"]
        self.last = layers.Dense(3, name="out")

    def call(self, inputs):
        for layer in self.inner:
            inputs = layer(inputs)
        return self.last(inputs)


def compiled(model, mode="local", optimizer=None, objective="prediction", **arguments):
    keras.utils.set_random_seed(0)
    model = e2e.modularize(model, ["a", "b", "c"], objective=objective)
    if not model.modules:
        model.examine(X[:2])
    model.training_mode = mode
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.Adam(0.01), loss, **arguments)
    return model


def graph_of_step(model):
    """The graph of one training step."""
    model.train_on_batch(X, Y)

    @tf.function
    def step(x, y):
        return model.train_step((x, y))

    return step.get_concrete_function(tf.constant(X), tf.constant(Y)).graph


def products(graph, layers="abc"):
    """The products of a batch and the weights of layers in the forward pass, in order."""
    return [
        op
        for op in graph.get_operations()
        if op.type == "MatMul"
        and "gradient_tape" not in op.name
        and op.name.split("/")[-2:-1] != []
        and op.name.split("/")[-2].partition("_")[0] in layers
    ]


def upstream(op):
    """The names of all operations that one waits for."""
    pending, found = [op], set()
    while pending:
        for before in (
            *(tensor.op for tensor in pending[-1].inputs),
            *pending.pop().control_inputs,
        ):
            if before.name not in found:
                found.add(before.name)
                pending.append(before)
    return found


def waiting(model):
    """For each layer's product, in order, how many gradients it waits for."""
    graph = graph_of_step(model)
    return [
        sum("gradient_tape" in name and "MatMul" in name for name in upstream(op))
        for op in products(graph)
    ]


@pytest.mark.parametrize("make", [base, Coded], ids=["functional", "subclassed"])
def test_the_next_module_waits_for_the_gradients_of_the_one_before(make):
    counts = waiting(compiled(make()))
    # Those of a head and of the module's layer: two by weights, one by an activation.
    assert counts == [0, 3, 6]


def test_what_a_later_loss_trains_too_is_waited_for_and_not_yet_applied():
    model = compiled(base(), TrainingMode("local", reach=2), keras.optimizers.SGD())
    assert why_one_apply(model) is None
    graph = graph_of_step(model)
    written = {
        name: {
            variable.path.split("/")[0]
            for variable in model.trainable_variables
            if any(
                op.inputs[0] is graph.capture(variable.value.handle)
                for op in map(graph.get_operation_by_name, upstream(product))
                if op.type.startswith("Assign")
            )
        }
        & {"a", "b", "c"}
        for name in ("b", "c", "out")
        for product in products(graph, [name])
    }
    # The loss at `b` is the last to train `a`, that at `c` the last to train `b`.
    assert written == {"b": set(), "c": {"a"}, "out": {"a", "b"}}


def test_each_loss_is_computed_once():
    graph = graph_of_step(compiled(base()))
    heads = [op for op in graph.get_operations() if op.type == "MatMul"]
    forward = [op for op in heads if "gradient_tape" not in op.name]
    assert len(forward) == 4 + 3


@pytest.mark.parametrize(
    "mode", ["end_to_end", "deep_supervision", TrainingMode("local", reach="all")], ids=str
)
def test_nothing_waits_where_no_gradient_stops(mode):
    assert waiting(compiled(base(), mode)) == [0, 0, 0]


def test_modules_that_share_a_loss_are_waited_for_together():
    counts = waiting(compiled(base(), TrainingMode("mixed", stop=["b"])))
    assert counts[:2] == [0, 0] and counts[2] > 0


def test_under_a_finite_reach_a_module_waits_for_the_losses_that_end_before_it():
    counts = waiting(compiled(base(), TrainingMode("local", reach=2)))
    # The losses at `a` and `b` both train `a`: they are differentiated together.
    assert counts[0] == counts[1] == 0 < counts[2]


def test_where_passes_are_compared_all_gradients_are_made_at_the_end():
    model = compiled(base(), objective="vicreg")
    assert waiting(model)[:3] == [0, 0, 0]


def trained(model, *, callbacks=(), epochs=3):
    keras.utils.set_random_seed(1)
    history = model.fit(X, Y, 8, epochs, verbose=0, callbacks=[*callbacks])
    return [v.numpy() for v in model.variables], history.history


def assert_equal(first, second):
    for one, other in zip(first[0], second[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert first[1] == second[1]


SEPARABLE = {
    kind.__name__: kind
    for kind in vars(keras.optimizers).values()
    if isinstance(kind, type) and issubclass(kind, keras.optimizers.Optimizer)
}
WHOLE = ("Optimizer", "LossScaleOptimizer", "MultiOptimizer", "ScheduleFreeAdamW")
for name in WHOLE:
    SEPARABLE.pop(name, None)


def run_with(optimizer, apart, monkeypatch, **arguments):
    """Weights and logs with gradients applied at boundaries or at the end."""
    with monkeypatch.context() as patch:
        if not apart:
            reason = lambda model: "asked for"  # noqa: E731
            patch.setattr("keras_e2e.trainers.tensorflow.step.why_one_apply", reason)
        return trained(compiled(base(), "local", optimizer, **arguments))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", SEPARABLE)
def test_applied_at_the_boundary_weights_are_those_of_one_apply(kind, monkeypatch):
    """For every optimizer of Keras, whether or not it is one that is applied apart."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 3, 0.9)
    first, second = (
        run_with(SEPARABLE[kind](schedule, clipnorm=0.5), apart, monkeypatch)
        for apart in (True, False)
    )
    assert_equal(first, second)


GROUPS = {
    "adam": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.1),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "averages": lambda: keras.optimizers.AdamW(0.01, use_ema=True, ema_momentum=0.9),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
def test_so_they_are_with_an_optimizer_for_each_module(kind, eager, monkeypatch):
    make = GROUPS[kind]
    first, second = (
        run_with(e2e.ModuleOptimizers(make()), apart, monkeypatch, run_eagerly=eager)
        for apart in (True, False)
    )
    assert_equal(first, second)


APART = {
    "adam": (lambda: keras.optimizers.Adam(), None),
    "modules": (lambda: e2e.ModuleOptimizers("nadam"), None),
    "nadam": (lambda: keras.optimizers.Nadam(), "Nadam is not taken variable by variable"),
    "global": (lambda: keras.optimizers.Adam(global_clipnorm=1.0), "a norm over all"),
    "averages": (lambda: keras.optimizers.Adam(use_ema=True), "averages all weights"),
    "accumulated": (
        lambda: keras.optimizers.Adam(gradient_accumulation_steps=2),
        "gradients are accumulated",
    ),
    "scaled": (
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
        "LossScaleOptimizer is not taken variable by variable",
    ),
}


@pytest.mark.parametrize("kind", APART)
def test_gradients_are_applied_where_the_optimizer_allows_it(kind):
    make, reason = APART[kind]
    model = compiled(base(), "local", make())
    why = why_one_apply(model)
    assert why is None if reason is None else reason in why
    graph = graph_of_step(model)
    (last,) = products(graph, "c")
    writes = [n for n in upstream(last) if "Assign" in graph.get_operation_by_name(n).type]
    assert bool(writes) == (reason is None)


@pytest.mark.parametrize("kind", ["adam", "modules"])
def test_looking_changes_nothing_where_gradients_are_applied_at_the_boundary(kind):
    def run(*callbacks):
        optimizer = APART[kind][0]
        model = compiled(base(), "local", optimizer())
        return trained(model, callbacks=callbacks)

    plain, watched = run(), run(e2e.callbacks.ModuleDiagnostics(update_freq=3))
    assert_equal(plain, watched)


def test_a_module_without_any_gradient_is_named_as_before():
    model = compiled(base(), "local", e2e.ModuleOptimizers("sgd"))
    model.get_layer("a").trainable = False
    model.compile(e2e.ModuleOptimizers("sgd"), model.loss)
    before = model.get_layer("a").kernel.numpy()
    trained(model)
    np.testing.assert_array_equal(before, model.get_layer("a").kernel.numpy())


def without_weights_at_the_end(modular_optimizer=False):
    """A model whose last module is an activation."""
    keras.utils.set_random_seed(0)
    layers_of = [
        layers.Dense(8, activation="tanh", name="a"),
        layers.Dense(3, name="b"),
        layers.Activation("softmax", name="out"),
    ]
    model = keras.Sequential([keras.Input((6,), name="x"), *layers_of])
    model = e2e.modularize(model, ["a", "b"], training_mode="local")
    sgd = keras.optimizers.SGD(0.1)
    optimizer = e2e.ModuleOptimizers(sgd) if modular_optimizer else sgd
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("modular", [False, True], ids=["one", "modules"])
def test_a_step_counts_once_where_the_last_module_has_no_weights(modular, monkeypatch):
    model = without_weights_at_the_end(modular)
    weights, logs = trained(model)
    assert int(model.optimizer.iterations) == 12
    reason = lambda model: "asked for"  # noqa: E731
    monkeypatch.setattr("keras_e2e.trainers.tensorflow.step.why_one_apply", reason)
    assert_equal((weights, logs), trained(without_weights_at_the_end(modular)))


def test_a_head_that_ends_as_the_model_does_crosses_no_boundary():
    """The heads repeat the calls of the model's layers behind the last weights."""
    model = without_weights_at_the_end()
    before = [v.numpy() for v in model.trainable_variables]
    trained(model)
    after = [v.numpy() for v in model.trainable_variables]
    assert all(np.any(old != new) for old, new in zip(before, after, strict=True))


def test_penalties_of_weights_are_those_of_the_weights_before_the_step():
    model = compiled(base(kernel_regularizer="l2"), "local", keras.optimizers.SGD(1.0))
    penalty = sum(0.01 * np.sum(np.square(model.get_layer(n).kernel)) for n in "abc")
    plain = compiled(base(), "local", keras.optimizers.SGD(1.0)).train_on_batch(X, Y)
    assert model.train_on_batch(X, Y) - plain == pytest.approx(penalty, rel=1e-4)


@pytest.mark.parametrize("reach", [None, 2])
@pytest.mark.parametrize("activity", [False, True], ids=["weights", "activity"])
def test_a_penalty_trains_the_module_that_makes_it(activity, reach):
    name = "activity_regularizer" if activity else "kernel_regularizer"

    def moved(factor):
        model = base(**{name: keras.regularizers.L2(factor)})
        model = compiled(
            model, TrainingMode("local", reach=reach), keras.optimizers.SGD(1.0)
        )
        entering = [X, *(model.forward_record(X).activations(name)[0] for name in "ab")]
        before = [model.get_layer(name).kernel.numpy() for name in "abc"]
        model.train_on_batch(X, Y)
        after = [model.get_layer(name).kernel.numpy() for name in "abc"]
        return entering, before, after

    entering, before, plain = moved(0.0)
    _, _, penalized = moved(0.5)
    for x, kernel, first, second in zip(entering, before, plain, penalized, strict=True):
        with tf.GradientTape() as tape:
            weights = tf.Variable(kernel)
            by = tf.tanh(x @ weights) if activity else weights
            loss = 0.5 * tf.reduce_sum(by**2) / (len(X) if activity else 1)
        expected = -tape.gradient(loss, weights)
        np.testing.assert_allclose(second - first, expected, rtol=1e-4, atol=1e-5)


def test_a_loss_of_a_subclass_is_differentiated_whole():
    class Decayed(e2e.ModularModel):
        factor = 0.0

        def compute_loss(self, **given):
            kernel = self.get_layer("a").kernel
            return super().compute_loss(**given) + self.factor * keras.ops.sum(kernel**2)

    def moved(factor):
        keras.utils.set_random_seed(0)
        x = inputs = keras.Input((6,), name="x")
        for name in "ab":
            x = layers.Dense(8, activation="tanh", name=name)(x)
            x = e2e.ModuleBoundary(name=f"{name}_end")(x)
        model = Decayed(inputs, layers.Dense(3, name="out")(x), training_mode="local")
        model.factor = factor
        model.compile(keras.optimizers.SGD(0.1), "mse")
        before = model.get_layer("a").kernel.numpy()
        model.train_on_batch(X, np.zeros((32, 3)))
        return before, model.get_layer("a").kernel.numpy()

    before, plain = moved(0.0)
    _, decayed = moved(0.5)
    np.testing.assert_allclose(decayed - plain, -0.1 * before, rtol=1e-3, atol=1e-6)


def test_an_error_of_an_objective_says_what_it_says():
    class Picky(e2e.objectives.LocalObjective):
        def loss(self, activation, batch):
            raise ValueError("This objective takes nothing.")

    model = compiled(base(), objective=Picky())
    with pytest.raises(ValueError) as caught:
        model.train_on_batch(X, Y)
    assert str(caught.value) == "Boundary 'a': This objective takes nothing."


def test_missing_targets_are_named_before_anything_runs():
    model = compiled(base())
    seen = []
    layer = model.get_layer("a")
    call = layer.call
    layer.call = lambda *args, **kwargs: (seen.append(1), call(*args, **kwargs))[1]
    with pytest.raises(ValueError, match="needs the model's targets"):
        model.train_on_batch(X)
    assert not seen


@pytest.mark.parametrize("nested", [False, True], ids=["functional", "subclassed"])
def test_masked_steps_do_not_count_at_a_boundary(nested):
    """A head that averages over time sees the mask while the pass is under way."""
    tokens = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0]])
    other = np.array([[1, 2, 3, 0, 0, 0, 0], [4, 5, 0, 0, 0, 0, 0]])

    def made():
        keras.utils.set_random_seed(0)
        embed = layers.Embedding(9, 4, mask_zero=True, name="embed")
        rest = [layers.GlobalAveragePooling1D(name="mean"), layers.Dense(1, name="out")]
        if not nested:
            return keras.Sequential([keras.Input((None,)), embed, *rest])

        class Reader(keras.Model):
            def __init__(self):
                super().__init__(name="reader")
                self.embed, self.mean, self.out = embed, *rest

            def call(self, inputs):
                return self.out(self.mean(self.embed(inputs)))

        return Reader()

    def step(x):
        model = e2e.modularize(made(), ["embed"])
        if not model.modules:
            model.examine(x)
        model.training_mode = "local"
        model.compile(keras.optimizers.SGD(0.5), "mse")
        model.train_on_batch(x, np.ones((2, 1)))
        embed = next(v for v in model.variables if "embed" in v.path)
        return embed.numpy()

    np.testing.assert_allclose(step(tokens), step(other), rtol=1e-5, atol=1e-7)


def test_a_step_by_hand_builds_the_optimizer_on_all_variables():
    """As `fit` does beforehand; the apply at a boundary would build it on one module."""
    model, fitted = compiled(base()), compiled(base())
    model.optimizer.built = False
    model.compile(keras.optimizers.Adam(0.01), model.loss)
    fitted.compile(keras.optimizers.Adam(0.01), fitted.loss)
    for _ in range(3):
        model.train_step((X, Y))
    fitted.fit(X, Y, batch_size=32, epochs=3, verbose=0)
    for one, other in zip(model.variables, fitted.variables, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    model.training_mode = "end_to_end"
    model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("mode", ["local", TrainingMode("mixed", stop=["b"])])
def test_what_was_frozen_after_the_first_step_is_trained_on_as_in_keras(mode):
    model = compiled(base(), "end_to_end")
    model.fit(X, Y, verbose=0)
    model.get_layer("a").trainable = False  # without compile
    model.training_mode = mode
    before = model.get_layer("a").kernel.numpy()
    model.fit(X, Y, epochs=3, verbose=0)
    assert not np.array_equal(model.get_layer("a").kernel, before)


class Reads(keras.losses.Loss):
    """A loss that reads a weight of the model."""

    def __init__(self, layer):
        super().__init__(name="reads")
        self.layer = layer

    def call(self, y, y_pred):
        return keras.ops.mean((y_pred - 1.0) ** 2, -1) * keras.ops.sum(self.layer.kernel**2)


@pytest.mark.parametrize("kind", ["object", "closure", "partial"])
def test_a_loss_that_reads_a_weight_reads_it_before_the_step(kind):
    class Mine(keras.optimizers.SGD):
        """Whose gradients are applied at the end."""

    def after(optimizer):
        model = compiled(base())
        layer = model.get_layer("a")
        reads = Reads(layer)
        loss = {
            "object": reads,
            "closure": lambda y, y_pred: reads.call(y, y_pred),
            "partial": functools.partial(_reads, weight=layer.kernel),
        }[kind]
        model.compile(optimizer, loss)
        model.fit(X, Y, batch_size=32, epochs=3, shuffle=False, verbose=0)
        return model, [v.numpy() for v in model.variables]

    model, found = after(keras.optimizers.SGD(0.01))
    for one, other in zip(found, after(Mine(0.01))[1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert "holds layers or variables" in why_one_apply(model)


def _reads(y, y_pred, weight):
    return keras.ops.mean((y_pred - 1.0) ** 2, -1) * keras.ops.sum(weight**2)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("mode", ["local", TrainingMode("local", reach=2)])
def test_a_penalty_on_activations_before_a_boundary_of_code_trains_its_layer(mode, eager):
    def trained(make):
        keras.utils.set_random_seed(0)
        model = make()
        model(X)
        for number, layer in enumerate(model.layers[-4:]):
            layer.set_weights([np.cos(w + number) for w in layer.get_weights()])
        for layer in model.layers[-4:-1]:
            layer.activity_regularizer = keras.regularizers.L2(0.5)
        model = compiled(model, mode, keras.optimizers.SGD(0.05), run_eagerly=eager)
        heads = [b.objective for b in model.boundaries.values()]
        for number, head in enumerate(heads):
            for weight in head.weights:
                weight.assign(np.sin(weight + number))
        logs = model.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0).history
        # Nothing that is put into place of a layer's method stays behind.
        assert not any("add_loss" in vars(m) for m in model._flatten_layers())
        return [v.numpy() for layer in "abc" for v in _layer(model, layer).weights], logs

    graph, logs = trained(base)
    code, logs_of_code = trained(Coded)
    for one, other in zip(graph, code, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logs["loss"], logs_of_code["loss"], rtol=1e-5)


def test_a_step_that_fails_at_a_boundary_leaves_no_penalty_out_of_the_next():
    keras.utils.set_random_seed(0)
    code = Coded()
    code(X)
    code.inner[0].activity_regularizer = keras.regularizers.L2(0.5)
    target = e2e.objectives.IntermediateTarget("mse")
    model = compiled(code, objective=target, run_eagerly=True)
    real = target.__class__.compute_loss

    def fails(*args):
        raise RuntimeError("at a boundary")

    labels = {name: np.ones((32, 8), "float32") for name in "abc"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target.__class__, "compute_loss", fails)
        with pytest.raises(RuntimeError, match="at a boundary"):
            model.fit(X, {"outputs": Y, **labels}, verbose=0)
    assert target.__class__.compute_loss is real
    assert "add_loss" not in vars(code.inner[0])


def _layer(model, name):
    return next(layer for layer in model._flatten_layers() if layer.name == name)
