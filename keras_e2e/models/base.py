"""What every modular model offers besides training: evaluation, parts, a summary."""

import functools
import os
from typing import Any, Literal

import keras

from keras_e2e.models import downstream, early_exit, evaluation
from keras_e2e.models.summary import print_modules
from keras_e2e.models.weights import load_weights
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.module import Module
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.trainers.saved_with_weights import SavedWithWeights
from keras_e2e.trainers.strategies import refuse_loop_over_replicas, refuse_other_scope
from keras_e2e.utils import compat
from keras_e2e.utils.backups import mend_backup, replaced_at_once
from keras_e2e.utils.compat.quantization import filtered


class ModularBase(ModularTrainer):
    """The common base of `ModularModel` and `ModularWrapper`.

    It stands in front of `keras.Model` among the bases of both, and holds what they offer
    besides training. `isinstance(model, ModularBase)` asks whether a model is modular.
    """

    @property
    def _saved_with_weights(self) -> SavedWithWeights:
        """For Keras, which saves what it finds among the attributes of a model."""
        return self._modular.saved

    @functools.wraps(keras.Model.fit)
    def fit(self, *args, **kwargs):
        refuse_other_scope(self)  # before Keras builds the optimizer
        refuse_loop_over_replicas(self)
        with self._modular.saved.open():
            return super().fit(*args, **kwargs)

    @functools.wraps(keras.Model.save_weights)
    def save_weights(self, filepath, overwrite=True, **kwargs):
        # In place, as Keras writes, a crash would leave half a file and lose the last one.
        whole = isinstance(filepath, str | os.PathLike) and not kwargs
        if not self._modular.saved.saves or not whole or not overwrite:
            return super().save_weights(filepath, overwrite=overwrite, **kwargs)
        with replaced_at_once(filepath, ".weights.h5") as path:
            return super().save_weights(path)

    @functools.wraps(keras.Model.load_weights)
    def load_weights(self, filepath, skip_mismatch=False, **kwargs):
        self._load_weights(super().load_weights, filepath, skip_mismatch, **kwargs)
        epoch = self._modular.saved.next_epoch
        if epoch is not None:
            mend_backup(filepath, epoch)

    def _load_weights(self, load, filepath, skip_mismatch, **kwargs):
        """Loads weights, also those of a stock model; `load` is the method of Keras."""
        load_weights(self, load, filepath, skip_mismatch, **kwargs)

    def quantize(self, mode=None, config=None, filters=None, **kwargs):
        """As `keras.Model.quantize`, but heads stay as they are: only training uses them.

        Args:
            mode: As in Keras.
            config: As in Keras.
            filters: As in Keras.
            **kwargs: As in Keras.

        Example:

        >>> import keras, keras_e2e as e2e
        >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
        ...                          keras.layers.Dense(3, name="score")])
        >>> model = e2e.modularize(base, ["code"])
        >>> model.quantize("int8", filters="code|score")
        >>> {v.dtype for v in model.modules[0].head_variables}
        {'float32'}
        """
        placed = getattr(self, "_placed", None)
        left_out = {id(placed)}
        for boundary in self.boundaries.values():
            left_out |= {id(boundary), *map(id, compat.all_layers(boundary))}
        super().quantize(mode, config, filtered(filters, left_out), **kwargs)

    @property
    def modules(self) -> list[Module]:
        """List of the `Module`s, in order: name, layers, variables, objective.

        Each ends in the boundary whose name it has, the last one in the model's outputs.
        """
        return list(self._modular.modules)

    @property
    def boundaries(self) -> dict[str, ModuleBoundary]:
        """Dict from name to `ModuleBoundary`, in the order of the modules."""
        return {m.name: m.boundary for m in self._modular.modules if m.boundary is not None}

    def module_summary(
        self, print_fn: Any = None, *, batch_size: int | None = None
    ) -> None:
        """Prints a table of the modules: layers, objective, parameters, head.

        Args:
            print_fn: Function that is called with the table as one string. Defaults to
                `None`, which prints to the terminal.
            batch_size: Integer, the number of examples in a batch. With it the table also
                tells, on TensorFlow, the memory of each module's activations, and of a
                step (`estimate_memory`). Defaults to `None`.

        Raises:
            RuntimeError: If a batch size is given and the backend is not TensorFlow.
            ValueError: If a batch size is given and is below 1 or does not fit the model,
                or if the model leaves sizes open.

        Example:

        >>> import keras, keras_e2e as e2e
        >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
        ...                          keras.layers.Dense(3, name="score")])
        >>> lines = []
        >>> e2e.modularize(base, ["code"]).module_summary(print_fn=lines.append)
        >>> "Prediction" in lines[0]
        True
        """
        print_modules(self, print_fn, batch_size)

    def early_exit_model(self, name: str) -> keras.Model:
        """Returns a stock Keras model that ends in the head of one module.

        A head is the small network of a local objective, from the module's activation to
        a prediction. The early-exit model consists of the layers up to the boundary, the
        head's layers and the activation that this model ends with (a softmax, say).
        Layers and weights are shared with this model, so it is as good as the head is
        now, and goes on changing while this model trains. It is not compiled. Nothing of
        keras_e2e is needed to load what it saves. With an objective on intermediate
        labels (`IntermediateTarget`) it predicts those.

        Args:
            name: String, the name of a boundary, as in `model.boundaries`.

        Returns:
            A Functional model with this model's inputs. If the head predicts several
            outputs, it returns a dict by output name where this model returns a dict,
            else a list.

        Raises:
            ValueError: If `name` is not the name of a boundary, if its objective has no
                head that predicts outputs or labels, if the head is made of classes of
                keras_e2e, if the boundary is crossed more than once, or if this model
                wraps a subclassed model, which has no graph.

        Example:

        >>> import keras, numpy as np, keras_e2e as e2e
        >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
        ...                          keras.layers.Dense(3, activation="softmax")])
        >>> early = e2e.modularize(base, ["code"]).early_exit_model("code")
        >>> early(np.ones((5, 8))).shape == (5, 3)
        True
        """
        return early_exit.early_exit_model(self, name)

    def downstream_model(self, name: str) -> keras.Model:
        """Returns a stock Keras model of what follows a boundary, up to the outputs.

        With it the later modules can be trained on the activations that the earlier ones
        ought to return. Layers and weights are shared with this model. It is not compiled.

        Args:
            name: String, the name of a boundary, as in `model.boundaries`.

        Returns:
            A Functional model whose inputs are a list: those of this model (they may
            enter later modules), then the activation at the boundary.

        Raises:
            ValueError: If `name` is not the name of a boundary, if the boundary is
                crossed more than once, or if this model wraps a subclassed model, which
                has no graph.

        Example:

        >>> import keras, numpy as np, keras_e2e as e2e
        >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
        ...                          keras.layers.Dense(3, activation="softmax")])
        >>> later = e2e.modularize(base, ["code"]).downstream_model("code")
        >>> later([np.ones((5, 8)), np.ones((5, 4))]).shape == (5, 3)
        True
        """
        return downstream.downstream_model(self, name)

    def evaluate_modules(
        self,
        x: Any = None,
        y: Any = None,
        *,
        batch_size: int | None = None,
        sample_weight: Any = None,
        probe_data: Any = None,
        probe_epochs: int = 20,
        verbose: int | Literal["auto"] = "auto",
    ) -> dict[str, dict[str, float]]:
        """Returns loss and metrics of each module's own head, in inference mode.

        Every boundary is evaluated, whatever the training mode, also if its head was
        never trained. It has no side effects: no weight, statistic or seed is updated.
        Losses are those of the objectives alone, without their weights. Random draws of an
        objective are the same in each batch. Batches run one by one, not compiled.

        Args:
            x: Inputs: arrays, a `tf.data.Dataset` or a `keras.utils.PyDataset` (these
                two with targets and weights).
            y: Targets, with arrays; labels of a boundary under its name, as in `fit`.
            batch_size: Integer, the number of examples in a batch, with arrays. Losses
                that compare the examples of a batch depend on it. Defaults to `None`,
                which means 32, as in Keras.
            sample_weight: Weights, with arrays, as in `fit`.
            probe_data: Tuple `(x_train, y_train)` or a dataset, to train linear probes on.
                For each boundary and output a linear classifier (or regressor), the
                probe, is trained on the activation of these examples, with the model
                frozen, and evaluated on `x` and `y`. It is given at most 2048 values
                (larger maps are average-pooled), standardized; it ends in the model's
                last activation and is trained with the compiled loss by Adam from zero,
                the same each time. All activations of one boundary are held in memory.
                Defaults to `None`, no probes.
            probe_epochs: Integer, the number of passes over `probe_data`. Defaults to 20.
            verbose: 0 for nothing, 1 for a progress bar, 2 for a line now and then, or
                `"auto"`: 1 in a terminal or a notebook, else 2. Defaults to `"auto"`.

        Returns:
            Dict from module to a dict of its numbers: `"loss"`, the compiled metrics of a
            head that predicts the model's outputs (`"accuracy"`; with several outputs
            `"<output>_accuracy"`), those of `IntermediateTarget(metrics=)` on labels of the
            module's own, and `"probe_<metric>"`. The loss is left out where its
            labels are not given, and for objectives without a loss
            (`objectives.Signal`). For the last module these are the task loss and
            metrics, as `model.evaluate` returns them.

        Raises:
            RuntimeError: If the modules of a subclassed model are not known yet.
            ValueError: If the model is not compiled, if arrays have different lengths, if
                `batch_size` is below 1 or `verbose` unknown, or if a probe has no targets.

        Example:

        >>> import keras, numpy as np, keras_e2e as e2e
        >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
        ...                          keras.layers.Dense(3, activation="softmax", name="y")])
        >>> model = e2e.modularize(base, ["code"])
        >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> x, y = np.ones((6, 8), "float32"), np.array([0, 1, 2, 0, 1, 2])
        >>> numbers = model.evaluate_modules(x, y)
        >>> {name: sorted(found) for name, found in numbers.items()}
        {'code': ['accuracy', 'loss'], 'y': ['accuracy', 'loss']}
        """
        return evaluation.evaluate_modules(
            self,
            x,
            y,
            batch_size=batch_size,
            sample_weight=sample_weight,
            probe_data=probe_data,
            probe_epochs=probe_epochs,
            verbose=verbose,
        )
