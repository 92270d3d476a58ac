# %% [markdown]
# # Local training: each module by its own loss
#
# One network, three ways of training it, and what each keeps in memory.

# %%
import keras
from sklearn.datasets import load_digits

import keras_e2e as e2e

images, labels = load_digits(return_X_y=True)
x, y = images.reshape(-1, 8, 8, 1).astype("float32") / 16, labels
x_train, y_train, x_test, y_test = x[:1400], y[:1400], x[1400:], y[1400:]


def build():
    keras.utils.set_random_seed(0)
    stack = [keras.Input((8, 8, 1))]
    for block in range(1, 5):
        stack.append(keras.layers.Conv2D(32, 3, padding="same", activation="relu", name=f"block_{block}"))
    return keras.Sequential([*stack, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10, activation="softmax")])


# %% [markdown]
# Three boundaries make four modules. Each gets a head that predicts the class: the default objective.

# %%
model = e2e.modularize(build(), ["block_1", "block_2", "block_3"])
model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"])
model.module_summary()

# %%
for mode in ("end_to_end", "deep_supervision", "local"):
    model = e2e.modularize(build(), ["block_1", "block_2", "block_3"], training_mode=mode)
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, epochs=15, batch_size=64, verbose=0)
    accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    print(f"{mode:18} test accuracy {accuracy:.3f}")

# %% [markdown]
# What a step takes of memory, before it runs:

# %%
print(e2e.estimate_memory(model, batch_size=512))

# %% [markdown]
# What each module can tell by itself, and by a linear probe:

# %%
model.evaluate_modules(x_test, y_test, probe_data=(x_train, y_train), verbose=0)

# %% [markdown]
# An answer that costs one module, and the stock Keras model:

# %%
early = model.early_exit_model("block_1")
plain = e2e.strip(model)
type(plain).__module__, early.count_params(), plain.count_params()
