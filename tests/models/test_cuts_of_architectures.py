"""Where a number of boundaries cuts graphs like those of known architectures."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.modules.call_costs import graph_costs
from keras_e2e.modules.graph import OUTPUT, Graph

TOKENS, WIDTH, WORDS = 12, 16, 20


class Positions(layers.Layer):
    """Adds a trained vector for each position."""

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], name="table")

    def call(self, x):
        return x + self.table


def attention(x, heads, causal=False, mask=None, source=None):
    layer = layers.MultiHeadAttention(heads, WIDTH // heads)
    source = x if source is None else source
    return layer(x, source, attention_mask=mask, use_causal_mask=causal)


def feed_forward(x, activation="gelu"):
    return layers.Dense(WIDTH)(layers.Dense(4 * WIDTH, activation=activation)(x))


def bert(blocks=4):
    """Post-norm; the padding mask and the segments enter by inputs of their own."""
    tokens = keras.Input((TOKENS,), dtype="int32", name="tokens")
    segments = keras.Input((TOKENS,), dtype="int32", name="segments")
    padding = keras.Input((TOKENS,), dtype="int32", name="padding")
    mask = ops.expand_dims(ops.cast(padding, "bool"), 1)
    x = Positions()(layers.Embedding(WORDS, WIDTH, name="words")(tokens))
    x = layers.LayerNormalization()(x + layers.Embedding(2, WIDTH)(segments))
    for _ in range(blocks):
        x = layers.LayerNormalization()(x + attention(x, 2, mask=mask))
        x = layers.LayerNormalization()(x + layers.Dropout(0.1)(feed_forward(x)))
    outputs = layers.Dense(2, activation="softmax")(layers.Dense(WIDTH)(x[:, 0, :]))
    return keras.Model([tokens, segments, padding], outputs)


def gpt2(blocks=4, tied=False):
    """Pre-norm, with sums by `+` alone and a padding mask in each block."""
    tokens = keras.Input((TOKENS,), dtype="int32", name="tokens")
    padding = keras.Input((TOKENS,), dtype="int32", name="padding")
    mask = ops.expand_dims(ops.cast(padding, "bool"), 1)
    embed = layers.ReversibleEmbedding(WORDS, WIDTH)
    x = Positions()(embed(tokens))
    for _ in range(blocks):
        x = x + attention(layers.LayerNormalization()(x), 2, causal=True, mask=mask)
        x = x + feed_forward(layers.LayerNormalization()(x))
    x = layers.LayerNormalization()(x)
    if tied:
        return keras.Model([tokens, padding], embed(x, reverse=True))
    return keras.Model([tokens, padding], layers.Dense(WORDS, activation="softmax")(x))


def llama(blocks=4):
    """Gated feed-forward parts, and rotary positions that are made of the inputs."""
    tokens = keras.Input((TOKENS,), dtype="int32", name="tokens")
    angles = ops.expand_dims(ops.cumsum(ops.ones_like(tokens), axis=-1), -1)
    angles = ops.cast(angles, "float32") / ops.arange(1.0, WIDTH + 1.0)
    cosine, sine = ops.cos(angles), ops.sin(angles)
    x = layers.Embedding(WORDS, WIDTH)(tokens)
    for _ in range(blocks):
        h = layers.RMSNormalization()(x)
        q, k, v = (layers.Dense(WIDTH, use_bias=False)(h) for _ in range(3))
        q, k = (t * cosine + ops.roll(t, 1, axis=-1) * sine for t in (q, k))
        scores = ops.softmax(ops.matmul(q, ops.swapaxes(k, 1, 2)) / 4.0)
        x = x + layers.Dense(WIDTH, use_bias=False)(ops.matmul(scores, v))
        h = layers.RMSNormalization()(x)
        gate = ops.silu(layers.Dense(3 * WIDTH)(h)) * layers.Dense(3 * WIDTH)(h)
        x = x + layers.Dense(WIDTH)(gate)
    x = layers.RMSNormalization()(x)
    return keras.Model(tokens, layers.Dense(WORDS, activation="softmax")(x))


def vit(blocks=4):
    """Patches, positions, pre-norm blocks with `Add` layers, and a mean."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(WIDTH, 4, strides=4)(inputs)
    x = Positions()(layers.Reshape((16, WIDTH))(x))
    for _ in range(blocks):
        x = layers.Add()([x, attention(layers.LayerNormalization()(x), 2)])
        x = layers.Add()([x, feed_forward(layers.LayerNormalization()(x))])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


def convnext():
    """Inverted bottlenecks with a sum by `+`, and downsampling in a nested model."""
    inputs = keras.Input((16, 16, 3))
    x = layers.LayerNormalization()(layers.Conv2D(4, 2, strides=2)(inputs))
    for stage, width in enumerate((4, 8, 16)):
        if stage:
            down = [layers.LayerNormalization(), layers.Conv2D(width, 2, strides=2)]
            x = keras.Sequential([keras.Input(x.shape[1:]), *down])(x)
        for _ in range((2, 4, 2)[stage]):
            h = layers.DepthwiseConv2D(3, padding="same")(x)
            h = layers.Dense(4 * width)(layers.LayerNormalization()(h))
            x = x + layers.Dense(width)(ops.gelu(h))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


def unet():
    """Skips from each part that narrows to the one that widens again."""

    def twice(x, width):
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        return x

    x = inputs = keras.Input((16, 16, 1))
    skips = []
    for width in (4, 8):
        skips.append(twice(x, width))
        x = layers.MaxPooling2D()(skips[-1])
    x = twice(x, 16)
    for width in (8, 4):
        x = layers.Conv2DTranspose(width, 2, strides=2)(x)
        x = twice(layers.Concatenate()([x, skips.pop()]), width)
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))


def seq2seq(blocks=2):
    """An encoder whose output enters each block of the decoder."""
    source = keras.Input((TOKENS,), dtype="int32", name="source")
    target = keras.Input((TOKENS,), dtype="int32", name="target")
    x = layers.Embedding(WORDS, WIDTH)(source)
    for _ in range(blocks):
        x = layers.LayerNormalization()(x + attention(x, 2))
        x = layers.LayerNormalization()(x + feed_forward(x))
    encoded, x = x, layers.Embedding(WORDS, WIDTH)(target)
    for _ in range(blocks):
        x = layers.LayerNormalization()(x + attention(x, 2, causal=True))
        x = layers.LayerNormalization()(x + attention(x, 2, source=encoded))
        x = layers.LayerNormalization()(x + feed_forward(x))
    outputs = layers.Dense(WORDS, activation="softmax")(x)
    return keras.Model([source, target], outputs)


def recurrent():
    """An embedding with a mask, which goes through two recurrent layers."""
    x = inputs = keras.Input((TOKENS,), dtype="int32", name="tokens")
    x = layers.Embedding(WORDS, WIDTH, mask_zero=True)(x)
    x = layers.LSTM(WIDTH, return_sequences=True)(x)
    x = layers.LSTM(WIDTH)(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


def denoiser():
    """What it returns is added to what it is given."""
    x = inputs = keras.Input((8, 8, 1))
    for _ in range(4):
        x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, inputs + layers.Conv2D(1, 3, padding="same")(x))


GRAPHS = {
    "bert": bert,
    "gpt2": gpt2,
    "llama": llama,
    "vit": vit,
    "convnext": convnext,
    "unet": unet,
    "seq2seq": seq2seq,
    "recurrent": recurrent,
    "denoiser": denoiser,
}
# Two layers of three alike are not cut in three.
COUNTS = dict.fromkeys([("recurrent", "memory"), ("recurrent", "time")], (1,))


def batch_for(model, size=3):
    rng = np.random.default_rng(0)
    batch = [
        rng.integers(0, 2, (size, *t.shape[1:])).astype(t.dtype)
        if "int" in t.dtype
        else rng.normal(size=(size, *t.shape[1:])).astype(t.dtype)
        for t in model.inputs
    ]
    return batch[0] if len(batch) == 1 else batch


def shares(model, balance):
    """What each module costs, as a multiple of its fair share."""
    graph = Graph(model._modular.graph)
    reached, costs = graph.ends(), graph_costs(graph.calls, balance)
    found: dict = dict.fromkeys([*graph.boundaries(), OUTPUT], 0)
    for call, cost in zip(graph.calls, costs, strict=True):
        ends = reached[id(call.outputs[0])]
        found[next(end for end in found if end in ends)] += cost
    return {end: cost * len(found) / sum(costs) for end, cost in found.items()}


@pytest.mark.parametrize("balance", ["memory", "time"])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_largest_module_is_near_its_fair_share(name, balance):
    base = GRAPHS[name]()
    for count in COUNTS.get((name, balance), (1, 2, 3)):
        model = e2e.modularize(base, count, balance=balance)
        found = shares(model, balance)
        print(name, balance, count + 1, {k: round(v, 2) for k, v in found.items()})
        assert len(found) == count + 1
        assert max(found.values()) <= 1.5, (count, found)


@pytest.mark.parametrize("balance", ["memory", "parameters", "time"])
@pytest.mark.parametrize("name", ["gpt2", "tied", "llama", "vit"])
def test_transformers_are_cut_between_their_blocks(name, balance):
    keras.backend.clear_session()  # sums are numbered from 0 on
    base = gpt2(tied=True) if name == "tied" else GRAPHS[name]()
    sums = [x.name for x in base.operations if type(x).__name__ == "Add"]
    per_block = len(sums) // 4
    blocks = {sums[n] for n in range(len(sums)) if (n + 1) % per_block == 0}
    for count in (1, 3):
        chosen = e2e.modularize(base, count, balance=balance).boundaries
        assert set(chosen) <= blocks, (count, list(chosen))


def test_sums_and_masks_leave_as_many_cut_points_as_there_are_blocks():
    assert len(e2e.modularize(gpt2(6), 12).boundaries) == 12
    assert len(e2e.modularize(bert(6), 12).boundaries) == 12
    assert list(e2e.modularize(recurrent(), 2).boundaries)[1].startswith("lstm")


def test_an_embedding_at_both_ends_leaves_all_cuts():
    embed = layers.Embedding(WORDS, WIDTH, name="words")
    source, target = (keras.Input((TOKENS,), dtype="int32") for _ in range(2))
    x = encoded = layers.LayerNormalization()(feed_forward(embed(source)))
    for layer_source in (None, encoded):
        x = embed(target) if layer_source is None else x
        x = layers.LayerNormalization()(x + attention(x, 2, source=layer_source))
    scores = ops.matmul(x, ops.transpose(embed.embeddings))
    base = keras.Model([source, target], layers.Dense(WORDS, name="out")(scores))
    for shared in (None, {"words": "first"}):
        model = e2e.modularize(base, 2, shared=shared)
        assert len(model.boundaries) == 2
        assert list(model.shared) == ["words"]


def test_a_residual_block_is_not_cut_inside_for_the_sake_of_balance():
    """Its maps make up nearly all of the costs."""
    inputs = keras.Input((8, 8, 2))
    x = skip = layers.Conv2D(2, 3, padding="same", name="stem")(inputs)
    for n in range(4):
        x = layers.Conv2D(32, 3, padding="same", name=f"wide{n}")(x)
    x = layers.Conv2D(2, 3, padding="same")(x) + layers.Conv2D(2, 1)(skip)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    base = keras.Model(inputs, layers.Dense(2)(layers.Dense(4, name="code")(x)))
    assert list(e2e.modularize(base, 3).boundaries) == ["stem", "pool", "code"]
    with pytest.raises(ValueError, match=r"only 3 cut points .*'stem'.* at most 3"):
        e2e.modularize(base, 4)


def targets_for(model, x):
    shape = np.shape(model(x))
    y = np.random.default_rng(1).random(shape).astype("float32")
    return y / y.sum(-1, keepdims=True)


def trained(model, x, y, **options):
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.Adam(0.01), "mse", **options)
    history = model.fit(x, y, epochs=2, batch_size=2, shuffle=False, verbose=0).history
    return history["loss"], model.get_weights()


def twins(name):
    """Two equal models, also in their layers' names, by which TensorFlow orders sums."""
    made = []
    for _ in range(2):
        keras.backend.clear_session()
        keras.utils.set_random_seed(1)
        made.append(GRAPHS[name]())
    return made


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    # The others differ from these in layers alone.
    ("name", "jit"),
    [("gpt2", True), ("bert", False), ("seq2seq", False), ("unet", False)],
)
def test_end_to_end_they_are_and_train_as_stock_models(name, jit):
    base, twin = twins(name)
    x = batch_for(base, 4)
    model = e2e.modularize(twin, 2, objective=None)
    np.testing.assert_array_equal(base.predict(x, verbose=0), model.predict(x, verbose=0))
    y = targets_for(base, x)
    expected, found = (trained(m, x, y, jit_compile=jit) for m in (base, model))
    assert expected[0] == found[0]
    # Of the models themselves: boundaries change the depth of layers, by which Keras lists
    # the weights of a graph.
    for one, other in zip(base.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    stripped = e2e.strip(model)
    np.testing.assert_array_equal(stripped(x), model(x))


@pytest.mark.parametrize("name", ["gpt2", "bert", "unet"])
def test_locally_each_module_has_the_gradients_of_a_loop_that_stops_them(name):
    import tensorflow as tf

    base = GRAPHS[name]()
    x = batch_for(base)
    y = targets_for(base, x)
    base.layers[-1].activation = keras.activations.linear
    # No dropout, whose masks a loop would have to draw alike.
    for layer in base.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0
    model = e2e.modularize(base, 2, training_mode="local")
    rate = 0.1
    model.compile(keras.optimizers.SGD(rate), "mse")
    heads = {m.name: m.objective.networks[0] for m in model.modules[:-1]}
    before = [v.numpy() for v in base.trainable_variables]
    with tf.GradientTape() as tape:
        stopped, loss = StopsAt(model, heads, y), 0.0
        outputs = stopped(x)
        loss = sum(stopped.losses) + tf.reduce_mean((outputs - y) ** 2)
    gradients = tape.gradient(loss, [v.value for v in base.trainable_variables])
    model.fit(x, y, batch_size=3, shuffle=False, verbose=0)
    for old, variable, gradient in zip(
        before, base.trainable_variables, gradients, strict=True
    ):
        new = old - rate * np.asarray(tf.convert_to_tensor(gradient))
        np.testing.assert_allclose(variable.numpy(), new, rtol=1e-4, atol=1e-6)


class StopsAt:
    """The model call by call; behind each boundary the gradient is stopped by hand."""

    def __init__(self, model, heads, y):
        self.model, self.heads, self.y, self.losses = model, heads, y, []

    def __call__(self, x):
        graph, values = Graph(self.model._modular.graph), {}
        inputs = x if isinstance(x, list) else [x]
        for tensor, value in zip(graph.model.inputs, inputs, strict=True):
            values[id(tensor)] = ops.convert_to_tensor(value)
        for call in graph.calls:
            if call.node.is_input:
                continue
            given = [values[id(t)] for t in call.inputs]
            if isinstance(call.operation, e2e.ModuleBoundary):
                head = self.heads[call.operation.module](given[0])
                self.losses.append(ops.mean((head - self.y) ** 2))
                made = ops.stop_gradient(given[0])
            else:
                made = call.repeat(given)
            values.update(zip(map(id, call.outputs), keras.tree.flatten(made), strict=True))
        return values[id(graph.model.outputs[0])]
