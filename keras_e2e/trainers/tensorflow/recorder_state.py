"""What the quantities keep between steps, saved with the weights."""

from typing import Any

from keras_e2e.trainers.saved_with_weights import State
from keras_e2e.trainers.tensorflow.recorder import Recorder


class RecorderState:
    """The owner of what a recorder keeps (`SavedWithWeights`).

    Args:
        recorder: The `Recorder`.
    """

    def __init__(self, recorder: Recorder):
        self._recorder = recorder

    def get_state(self) -> State:
        """What is kept, by module and quantity."""
        kept, arrays = [], {}
        for module, quantity, variables in self._kept():
            kept.append([module, quantity.name, len(variables)])
            for number, variable in enumerate(variables):
                arrays[f"{len(kept) - 1}.{number}"] = variable.numpy()
        return State({"kept": kept}, arrays)

    def set_state(self, state: State) -> None:
        """Takes up what was kept by quantities that there are now, too.

        Raises:
            ValueError: If an array has another shape than the quantity keeps.
        """
        saved = {
            (module, quantity): [state.arrays[f"{row}.{i}"] for i in range(count)]
            for row, (module, quantity, count) in enumerate(state.config["kept"])
        }
        changes: list[tuple] = []
        for module, quantity, variables in self._kept():
            arrays = saved.get((module, quantity.name))
            if arrays is None:
                continue
            shapes = [array.shape for array in arrays]
            expected = [tuple(variable.shape) for variable in variables]
            if shapes != expected:
                raise ValueError(
                    f"{quantity.name} keeps arrays of the shapes {expected} of module "
                    f"{module!r}, and {shapes} are saved"
                )
            changes += zip(variables, arrays, strict=True)
        for variable, array in changes:
            variable.assign(array)

    def _kept(self) -> list[tuple[str, Any, list]]:
        """Each quantity, and what it keeps of each module: of "" what it keeps of all."""
        recorder = self._recorder
        return [
            (module, quantity, variables)
            for quantity, lists in zip(recorder.quantities, recorder.kept, strict=True)
            for module, variables in zip(
                [""] if len(lists) == 1 else recorder.module_names, lists, strict=True
            )
        ]
