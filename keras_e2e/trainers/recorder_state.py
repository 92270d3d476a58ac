"""What the quantities keep between steps, saved with the weights."""

from typing import Any

from keras_e2e.diagnostics.quantity import Quantity
from keras_e2e.trainers.recorder import Recorder
from keras_e2e.trainers.saved_with_weights import SeedStates, State
from keras_e2e.utils.graphs import strategy_scope


def prepare_recorder(
    model: Any, quantities: list[Quantity], kind: type[Recorder]
) -> Recorder:
    """Gives a model a recorder of these quantities, saved with its weights.

    Args:
        model: The modular model.
        quantities: List of the `Quantity` objects; those of other callers stay.
        kind: The backend's class of recorder.
    """
    model._refuse_unknown_modules("instrument()")
    state = model._modular
    shapes = {
        m.name: [tuple(v.shape) for v in state.trained_variables(m)] for m in state.modules
    }
    before = state.recorder
    wanted = quantities if before is None else before.with_added(quantities)
    if before is None or before.shapes != shapes or wanted != before.quantities:
        with strategy_scope(model):
            state.recorder = kind(shapes, wanted)
        if before is not None:
            state.recorder.carry_asked(before)
        state.steps.forget_instrumented()
    state.recorder.ask(quantities)
    state.saved.register("quantities", RecorderState(state.recorder), part=True)
    state.saved.register("seeds", SeedStates(model), part=True)
    return state.recorder


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
