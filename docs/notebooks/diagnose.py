# %% [markdown]
# # Diagnose: find the block that is at fault
#
# A small convolutional network on scikit-learn's digits, with a fault planted in its third block: biases so low that hardly a unit is ever
# active. `diagnose` is not told which.

# %%
import keras
from sklearn.datasets import load_digits

import keras_e2e as e2e

keras.utils.set_random_seed(0)
images, labels = load_digits(return_X_y=True)
x, y = images.reshape(-1, 8, 8, 1).astype("float32") / 16, labels


def build():
    stack = [keras.Input((8, 8, 1))]
    for block in range(1, 5):
        stack.append(keras.layers.Conv2D(16, 3, padding="same", activation="relu", name=f"block_{block}"))
    stack += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10, activation="softmax", name="digit")]
    model = keras.Sequential(stack)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


model = build()
planted = model.get_layer("block_3")
planted.set_weights([planted.get_weights()[0], planted.get_weights()[1] - 3])

# %% [markdown]
# Boundaries after each block; the model itself stays as it is.

# %%
blocks = [f"block_{i}" for i in (1, 2, 3)]
diagnosis = e2e.diagnose(model, x, y, boundaries=blocks, verbose=0)
diagnosis

# %% [markdown]
# The same as a dict, for a program:

# %%
{name: (verdict.state, round(verdict.confidence, 2)) for name, verdict in diagnosis.verdicts.items()}

# %% [markdown]
# And beside it the network without the fault:

# %%
healthy = e2e.diagnose(build(), x, y, boundaries=blocks, verbose=0)
{name: verdict.state for name, verdict in healthy.verdicts.items()}
