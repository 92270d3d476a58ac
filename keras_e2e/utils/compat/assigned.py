"""Private names of Keras that noting what code assigns takes."""

from typing import Any

import keras

from keras_e2e.utils.compat.recompute import forget_losses


class Assignments(keras.StatelessScope):
    """A scope in which variables read as they are, and what they are assigned is noted.

    Stands for `Variable._value`: in a plain scope, too, a variable that was given no value
    reads as itself, but penalties of weights ask the scope and would find none.
    """

    def __init__(self) -> None:
        super().__init__(collect_losses=True)
        self._variables: dict[int, keras.Variable] = {}

    def add_update(self, update: tuple) -> None:
        self._variables[id(update[0])] = update[0]
        super().add_update(update)

    def get_current_value(self, variable: Any) -> Any:
        value = super().get_current_value(variable)
        return variable._value if value is None else value

    def take(self, model: keras.Model) -> list[tuple[keras.Variable, Any]]:
        """The variables that were assigned, each with its last value.

        Args:
            model: The model that ran in the scope; it forgets the penalties of that run.
        """
        forget_losses(model, self.losses)
        return [(v, self.get_current_value(v)) for v in self._variables.values()]
