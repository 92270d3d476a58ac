# %% [markdown]
# # Watch the modules
#
# `ModuleTensorBoard` measures inside the compiled step, every few steps, and writes for TensorBoard. What it measures is at hand, too.

# %%
import keras
import numpy as np

import keras_e2e as e2e

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(10_000, 12)).astype("float32")
facts = (x[:, ::2] * x[:, 1::2] > 0).astype("float32")
y = facts.sum(axis=1) % 2
base = keras.Sequential([
    keras.Input((12,)),
    keras.layers.Dense(128, activation="relu"),
    keras.layers.Dense(6, activation="sigmoid", name="facts"),
    keras.layers.Dense(64, activation="relu"),
    keras.layers.Dense(1, activation="sigmoid", name="odd"),
])
model = e2e.modularize(base, {"facts": e2e.objectives.IntermediateTarget("binary_crossentropy")})
model.compile(keras.optimizers.Adam(0.003), "binary_crossentropy", metrics=["accuracy"])
board = e2e.callbacks.ModuleTensorBoard("logs/auto", update_freq=10)
model.fit(x, {"odd": y, "facts": facts}, epochs=8, batch_size=128, verbose=0, callbacks=[e2e.callbacks.AutoMode(), board])

# %% [markdown]
# `AutoMode` began end to end, saw that `facts` gets no usable signal, and had it trained by its own objective:

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(9, 3))
for ax, quantity in zip(axes, ("skill", "gradient_snr"), strict=True):
    for module, values in board.history[quantity].items():
        ax.plot(board.steps, values, label=module)
    ax.set(title=quantity, xlabel="step")
    ax.legend()

# %% [markdown]
# In TensorBoard: `tensorboard --logdir logs`, the tab "Modules" (extra `dashboard`). As one HTML page for somebody else: `keras-e2e report logs`.
#
# ![The tab Modules](../dashboard.png)
