"""What every modular model offers beside training: evaluation, parts, a summary."""

from typing import Any

import keras

from keras_e2e.models import downstream, early_exit, evaluation
from keras_e2e.models.summary import print_modules
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.module import Module
from keras_e2e.trainers.modular_trainer import ModularTrainer


class ModularBase(ModularTrainer):
    """The base of `ModularModel` and `ModularWrapper`, in front of `keras.Model`."""

    @property
    def modules(self) -> list[Module]:
        """The modules, in order: name, layers, variables, parameters, objective."""
        return list(self._modular.modules)

    @property
    def boundaries(self) -> dict[str, ModuleBoundary]:
        """The boundaries by name, in order."""
        return {m.name: m.boundary for m in self._modular.modules if m.boundary is not None}

    def module_summary(self, print_fn: Any = None) -> None:
        """Prints a table of the modules.

        Args:
            print_fn: called with the table as one string. Defaults to None, which prints
                it to the terminal.
        """
        print_modules(self, print_fn)

    def early_exit_model(self, name: str) -> keras.Model:
        """The stock Keras model that leaves this one early, by a module's head.

        It consists of the layers up to the boundary, of the head's layers and of the
        activation that this model ends with (a softmax, say). Layers and weights are
        shared with this model, so it is as good as the head is now, and goes on changing
        while this model trains. It is not compiled. Nothing of keras_e2e is needed to
        load what it saves. With an objective on intermediate labels
        (`IntermediateTarget`) it predicts those.

        Args:
            name: a boundary's name, as in `model.modules`.

        Returns:
            A Functional model with this model's inputs. For a head of several outputs
            a dict by output name if this model returns a dict, else a list.

        Raises:
            ValueError: an unknown name, or the last module's; an objective without a
                head that predicts outputs or labels; a head that consists of classes
                of keras_e2e; a subclassed model, which shows no graph.

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
        """The stock Keras model of what lies behind a boundary, up to the outputs.

        To train the later modules on what the earlier ones ought to return. Layers and
        weights are shared with this model. It is not compiled.

        Args:
            name: a boundary's name, as in `model.modules`.

        Returns:
            A Functional model whose inputs are a list: those of this model (they may
            enter later modules), then what comes out of the boundary.

        Raises:
            ValueError: an unknown name; a boundary that is crossed more than once; a
                subclassed model, which shows no graph.

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
        verbose: int = 0,
    ) -> dict[str, dict[str, float]]:
        """Loss and metrics of each module's own head, in inference mode.

        Every boundary is evaluated, whatever the training mode, also if its head was
        never trained. Nothing of the model changes. Losses are those of the objectives
        alone, without their weights. Random draws of an objective are the same in each
        batch. Batches run one by one, not compiled.

        Args:
            x: inputs: arrays, a `tf.data.Dataset` or a `keras.utils.PyDataset` (these
                two with targets and weights).
            y: targets, with arrays; labels of a boundary under its name, as in `fit`.
            batch_size: number of examples in a batch, with arrays. Defaults to None, which
                means 32, as in Keras. Losses that compare the examples of a batch depend
                on it.
            sample_weight: weights, with arrays, as in `fit`.
            probe_data: `(x_train, y_train)` or a dataset, to train linear probes on. For
                each boundary and output a linear classifier (or regressor) is trained on
                the frozen activation of these examples and evaluated on `x` and `y`. It
                is given at most 2048 values (larger maps are average-pooled),
                standardized; it ends as the model ends, and is trained with the compiled
                loss by Adam from zero, the same each time. All activations of one boundary
                are held in memory. Defaults to None: no probes.
            probe_epochs: number of passes over `probe_data`. Defaults to 20.
            verbose: 1 shows a progress bar, 0 nothing. Defaults to 0.

        Returns:
            For each module its numbers: `"loss"`, the compiled metrics of a head that
            predicts the model's outputs (`"accuracy"`; with several outputs
            `"<output>_accuracy"`), and `"probe_<metric>"`. The loss is left out where its
            labels are not given, and for objectives without one (signals). For the
            last module these are the task loss and metrics as of `model.evaluate`.

        Raises:
            RuntimeError: a subclassed model whose modules are not known yet.
            ValueError: a model that is not compiled; arrays of different lengths; a
                batch size below 1; a probe for targets that are not given.

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
