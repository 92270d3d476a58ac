"""Which module owns a layer or variable that several modules use."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from keras_e2e.utils.compat.reads import variables_read
from keras_e2e.utils.graphs import unique
from keras_e2e.utils.validation import did_you_mean

# From the name of a layer to "first", "last" or the name of a module.
Shared = Mapping[str, str]


class Ownership:
    """The owners of the layers and variables of a model.

    What one module uses it owns. What several use one of them owns: as the user says, else
    the last of them, whose loss is the nearest to the task's. (An embedding whose matrix
    also makes the outputs has to learn to make them; what goes in can be any code that
    tells the tokens apart.)

    Args:
        names: List of the names of the modules, in order.
        shared: Dict from the name of a layer to the module that owns its variables:
            `"first"` or `"last"` of those that use them, or a name. A module's name comes
            first where one is called so. Defaults to `None`, none.
        inherited: Boolean, whether entries that do not fit are left out, rather than
            refused. Defaults to `False`.

    Attributes:
        settled: Dict from those names of `shared` that hold to the module that owns, once
            the owners are settled.
        chosen: Dict from the names of other layers that are shared to the module that owns
            them by default, once the owners are settled.
    """

    def __init__(
        self, names: Sequence[str], shared: Shared | None = None, inherited: bool = False
    ):
        self._names, self._inherited = list(names), inherited
        self._shared = check_shared(shared)
        self._layers: list[tuple[Any, str]] = []
        self._uses: dict[int, tuple[Any, list[tuple[Any, str]]]] = {}
        self._owners: dict[int, str] = {}
        self.settled: dict[str, str] = {}
        self.chosen: dict[str, str] = {}

    def add(self, layer: Any, name: str, variables: Iterable) -> None:
        """Notes that a module uses a layer.

        Args:
            layer: The layer.
            name: String, the name of the module.
            variables: List of those of its variables that the module uses.
        """
        self._layers.append((layer, name))
        for variable in variables:
            self._uses.setdefault(id(variable), (variable, []))[1].append((layer, name))

    def add_calls(self, calls: Sequence[tuple[Any, str]]) -> None:
        """Notes the calls of layers in a graph.

        A layer may use other variables in one call than in another (an embedding and, at
        the other end, a matrix of its own), so those calls are run, for their shapes.

        Args:
            calls: List of pairs, a call and the name of the module that it is in.
        """
        holders: dict[int, set[str]] = {}
        for call, name in calls:
            for variable in call.operation.weights:
                holders.setdefault(id(variable), set()).add(name)
        several = {key for key, names in holders.items() if len(names) > 1}
        for call, name in calls:
            used = held = call.operation.weights
            if any(id(v) in several for v in held):
                read = variables_read(call)
                used = [v for v in held if id(v) not in several or id(v) in read]
            self.add(call.operation, name, used)
        for call, name in calls:
            for variable in call.operation.weights:  # what nothing uses
                if id(variable) not in self._uses:
                    self._uses[id(variable)] = (variable, [(call.operation, name)])

    def settle(self) -> None:
        """Finds the owners, once all uses are noted.

        Raises:
            ValueError: If a name is not that of a shared layer, if an owner is not one of
                the modules that use it, or if two are named for one variable.
        """
        shared = {key: use for key, use in self._uses.items() if len(self._users(key)) > 1}
        layers = unique(layer for _, uses in shared.values() for layer, _ in uses)
        for name, owner in self._shared.items():
            chosen = [layer for layer in layers if layer.name == name]
            if not chosen and not self._inherited and name not in self._in_several():
                known = [layer.name for layer in layers]
                raise ValueError(
                    f"shared names {name!r}, which is not a layer that two modules use."
                    f"{did_you_mean(name, known)} "
                    + (f"Those are {known}." if known else "There is none: leave it out.")
                )
            for key, (_, uses) in shared.items():
                if any(layer is one for layer, _ in uses for one in chosen):
                    self._give(name, owner, key)
        for key, (variable, uses) in shared.items():
            if key not in self._owners:
                owner = self._users(key)[-1]
                name = holder(layer for layer, _ in uses).name
                if self.chosen.get(name, owner) != owner:  # several layers of one name
                    name = variable.path
                self.chosen[name] = self._owners[key] = owner

    def layers(self, name: str) -> tuple:
        """The layers of a module, in the order of their use: those that it owns a part of.

        Args:
            name: String, the name of the module.
        """
        used = [layer for layer, user in self._layers if user == name]
        return tuple(unique(layer for layer in used if self._is_owned(layer, name)))

    def borrowed(self, name: str) -> tuple:
        """The variables that a module uses and another one owns.

        Args:
            name: String, the name of the module.
        """
        return tuple(
            variable
            for key, (variable, uses) in self._uses.items()
            if any(user == name for _, user in uses) and self.owner(variable) != name
        )

    def foreign(self, name: str) -> tuple:
        """The variables of a module's layers that another one owns, used or not.

        Args:
            name: String, the name of the module.
        """
        held = unique(v for layer in self.layers(name) for v in layer.weights)
        return tuple(v for v in held if self.owner(v) != name)

    def owner(self, variable: Any) -> str:
        """The name of the module that owns a variable."""
        key = id(variable)
        return self._owners.get(key) or self._users(key)[0]

    def _is_owned(self, layer: Any, name: str) -> bool:
        weights = [v for v in getattr(layer, "weights", []) if id(v) in self._uses]
        return not weights or any(self.owner(v) == name for v in weights)

    def _users(self, key: int) -> list[str]:
        """The names of the modules that use a variable, in order."""
        users = {name for _, name in self._uses[key][1]}
        return [name for name in self._names if name in users]

    def _in_several(self) -> set[str]:
        """The names of layers that several modules call, each for variables of its own."""
        modules: dict[int, set[str]] = {}
        for layer, name in self._layers:
            modules.setdefault(id(layer), set()).add(name)
        return {layer.name for layer, _ in self._layers if len(modules[id(layer)]) > 1}

    def _give(self, name: str, owner: str, key: int) -> None:
        """Makes a module the owner of a variable of the layer of this name."""
        users = self._users(key)
        found = {"first": users[0], "last": users[-1], **{u: u for u in users}}.get(owner)
        path = self._uses[key][0].path
        if found is None:
            if self._inherited:
                return
            raise ValueError(
                f"shared={{{name!r}: {owner!r}}}: {owner!r} is not a module that uses "
                f"{path!r}.{did_you_mean(owner, users)} Expected 'first', 'last' or one of "
                f"{users}."
            )
        if self._owners.setdefault(key, found) != found:
            layers = {layer.name for layer, _ in self._uses[key][1]}
            other = next(given for given in self.settled if given in layers)
            raise ValueError(
                f"shared gives {path!r} to two modules: by {other!r} to "
                f"{self._owners[key]!r}, by {name!r} to {found!r}. "
                "Name one of its layers only."
            )
        # Several layers may have one name, and be used by different modules.
        self.settled[name] = found if self.settled.get(name, found) == found else owner


def check_shared(shared: Any) -> dict[str, str]:
    """The argument `shared` as a dict.

    Raises:
        TypeError: If it is something else than a dict of names, or None.
    """
    if shared is None:
        return {}
    names = isinstance(shared, Mapping) and all(
        isinstance(name, str) for pair in shared.items() for name in pair
    )
    if not names:
        raise TypeError(
            f"shared={shared!r}; expected a dict from the name of a layer that several "
            "modules use to the module that trains it: 'first', 'last' or its name."
        )
    return dict(shared)


def holder(layers: Iterable[Any]) -> Any:
    """Of layers that have a variable among their weights the one that made it, likely."""
    return min(layers, key=lambda layer: len(layer.weights))


def borrowed_from(modules: Iterable[Any]) -> dict[str, frozenset[str]]:
    """From the name of each module to those of the modules whose variables it uses.

    Args:
        modules: List of the `Module`s.
    """
    modules = list(modules)
    if not any(module.borrowed for module in modules):
        return {module.name: frozenset() for module in modules}
    owners = {id(v): module.name for module in modules for v in module.variables}
    return {
        module.name: frozenset(owners[id(v)] for v in module.borrowed if id(v) in owners)
        for module in modules
    }


def owned_by(modules: Iterable[Any], name: str, owners: Container[str]) -> str:
    """The argument `shared` by which a module owns what it uses of some others.

    Args:
        modules: List of the `Module`s.
        name: String, the name of the module.
        owners: The names of the others.
    """
    modules = list(modules)
    ids = {id(v) for m in modules if m.name in owners for v in m.variables}
    borrowed = [v for m in modules if m.name == name for v in m.borrowed if id(v) in ids]
    layers = [layer for module in modules for layer in module.layers]
    names = [
        holder(x for x in layers if any(v is variable for v in x.weights)).name
        for variable in borrowed
    ]
    return f"shared={dict.fromkeys(names, name)}"
