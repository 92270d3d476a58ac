"""Data that `fit` takes as it is.

The rest of the private names stand in `compat`.
"""

from keras.src.trainers.data_adapters.data_adapter import DataAdapter

# `fit` asks a "custom data adapter" for its batches, and makes none of its own around it
# (`get_data_adapter`); Keras exports no name of the class.
OwnData = DataAdapter
