# %% [markdown]
# # Few labels: a module that the task does not reach
#
# Four digits, one label: is the count of odd ones odd? End to end no usable signal reaches the encoder that reads them. How many images
# of known class does it take?

# %%
import keras

import keras_e2e as e2e
from keras_e2e import regimes, tasks


def accuracy(regime, labeled):
    task = tasks.parity(k=4, n=10_000, labeled=labeled)
    model = e2e.modularize(task.build(0), {"symbols": e2e.objectives.IntermediateTarget(task.cuts["symbols"].loss)})
    model.compile(keras.optimizers.Adam(1e-3), task.loss, metrics=task.metrics)
    regimes.train(model, regime, task.train.x, task.train.targets(), steps=1200, verbose=0)
    return model.evaluate(task.test.x, task.test.targets(), verbose=0, return_dict=True)["accuracy"]


# %% [markdown]
# None, two of each class, all of the 1,293. What is not known is missing: a label of -1.

# %%
{
    "end to end": accuracy("end_to_end", None),
    "deep supervision, 20 images labeled": accuracy("deep_supervision", 20),
    "deep supervision, all labeled": accuracy("deep_supervision", None),
}

# %% [markdown]
# One seed. [Where end-to-end training ends](../limits.md#a-few-labels-are-enough) has ten seeds of each.
