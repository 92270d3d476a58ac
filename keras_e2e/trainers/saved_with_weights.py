"""State that travels in the weights file, so that both are of one step.

`keras.callbacks.BackupAndRestore` saves the weights and then, in a file of its own, the
epoch; no callback is asked for its state. What a callback keeps elsewhere is of another
step whenever a crash falls between the two.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from absl import logging

from keras_e2e.utils import compat
from keras_e2e.utils.compat import state as compat_state

# The entries of the weights file: this one says which of the others is what.
INDEX, PLACES = "index", "places"


class State(NamedTuple):
    """What one owner saves.

    Attributes:
        config: Dict that can be written as JSON.
        arrays: Dict of arrays, by name.
    """

    config: dict[str, Any]
    arrays: Mapping[str, np.ndarray] = {}


class Owner(Protocol):
    """What has a state that is saved with the weights."""

    def get_state(self) -> State:
        """Returns the state of now."""

    def set_state(self, state: State) -> None:
        """Takes up a state; raises an error, and changes nothing, if it cannot."""


class SavedWithWeights(compat.Saveable):
    """Saves with a model's weights the state of those who register while `fit` runs.

    Keras finds it among the attributes of the model, and gives it a place of its own in
    the file, which models that have none pass by. Outside of `fit`, and where nobody
    registers, no state is saved, and what a file holds is not looked at.

    A state is handed to its owner when the weights are loaded, or when the owner
    registers if that is later, until the first epoch begins (`settle`): callbacks restore
    weights in `on_train_begin`, in any order. What cannot be taken up is named in a
    warning, and its owner begins anew. Only the places of the boundaries are always saved.
    """

    def __init__(self) -> None:
        self.places: Any = None  # of the boundaries, saved in and outside of `fit`
        self._owners: dict[str, Owner] | None = None
        self._found: Mapping[str, State] | None = None
        self._settled = False
        self._parts: set[str] = set()

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Takes owners while this is open: while `fit` runs."""
        outer = self._owners, self._found, self._settled
        self._owners, self._found, self._settled = {}, None, False
        try:
            yield
        finally:
            self._owners, self._found, self._settled = outer

    @property
    def saves(self) -> bool:
        """Whether there is anything to be saved."""
        return bool(self._owners)

    @property
    def next_epoch(self) -> int | None:
        """The epoch that training goes on with, if a state that was loaded says so."""
        found = [state.config.get("next_epoch") for state in (self._found or {}).values()]
        return next((epoch for epoch in found if isinstance(epoch, int)), None)

    def register(self, name: str, owner: Owner, part: bool = False) -> None:
        """Saves this owner's state from now on, and hands over one that was loaded.

        Args:
            name: String. A name that another owner has gets a number; the order in which
                they register is the same when training resumes.
            owner: The `Owner`. One that registers again keeps its name.
            part: Boolean, whether it is a part of what others save: it takes the place of
                an owner of its name, and nobody is told that it was not saved. Defaults
                to `False`.
        """
        if self._owners is None:
            return  # not in `fit`
        number, unique = 1, name
        while not part and self._owners.get(unique, owner) is not owner:
            number += 1
            unique = f"{name}_{number}"
        self._owners[unique] = owner
        if part:
            self._parts.add(unique)
        self._hand_over(unique)

    def settle(self) -> None:
        """Hands over nothing any more: the first epoch begins."""
        self._found, self._settled = None, True

    def _hand_over(self, name: str) -> None:
        if self._found is None or self._settled or not self._owners:
            return
        if name not in self._found and name in self._parts:
            return
        try:
            if name not in self._found:
                raise ValueError(f"the file has the states of {[*self._found]}")
            self._owners[name].set_state(self._found[name])
        except Exception as error:  # whatever is in a file, training goes on
            logging.warning(
                "%s begins anew: its state could not be restored with the weights (%s: "
                "%s). The weights, and the optimizer's step, are those of the file.",
                *(name, type(error).__name__, error),
            )

    # What Keras calls

    def save_own_variables(self, store: Any) -> None:
        """Writes the states into the weights file."""
        if self.places is not None:
            store[PLACES] = np.frombuffer(json.dumps(self.places).encode(), "uint8")
        arrays: list[np.ndarray] = []
        index = {}
        for name, owner in (self._owners or {}).items():
            state = owner.get_state()
            index[name] = {"config": state.config, "arrays": {}}
            for key, array in state.arrays.items():
                index[name]["arrays"][key] = str(len(arrays))
                arrays.append(array)
        if not index:
            return
        store[INDEX] = np.frombuffer(json.dumps(index, default=_plain).encode(), "uint8")
        for number, array in enumerate(arrays):
            store[str(number)] = array

    def load_own_variables(self, store: Any) -> None:
        """Reads the states from a weights file, in `fit`."""
        if self._owners is None or self._settled:
            return
        try:
            self._found = _read(store)
        except Exception as error:
            logging.warning("The states saved with the weights are damaged: %r.", error)
            self._found = {}
        for name in self._owners:
            self._hand_over(name)


class SeedStates:
    """The owner of the states of a model's random generators (dropout, say).

    Keras saves no random state with the weights.
    """

    def __init__(self, model: Any):
        self._model = model

    def get_state(self) -> State:
        """The states, in the order of the layers."""
        states = compat_state.seed_states(self._model)
        return State({}, {str(i): np.asarray(v) for i, v in enumerate(states)})

    def set_state(self, state: State) -> None:
        """Takes up the states, if they are of as many generators."""
        variables = compat_state.seed_states(self._model)
        if len(state.arrays) != len(variables):
            raise ValueError(
                f"it is of {len(state.arrays)} generators; the model has {len(variables)}"
            )
        for number, variable in enumerate(variables):
            variable.assign(state.arrays[str(number)])


def _plain(value: Any) -> Any:
    """A number of NumPy as one of Python."""
    return np.asarray(value).tolist()


def _read(store: Any) -> dict[str, State]:
    """The states that a weights file holds, by the names of their owners."""
    if INDEX not in set(store.keys()):
        return {}
    index = json.loads(np.asarray(store[INDEX]).tobytes())
    states = {}
    for name, entry in index.items():
        arrays = {key: np.asarray(store[at]) for key, at in entry["arrays"].items()}
        states[name] = State(dict(entry["config"]), arrays)
    return states
