"""The public names and their signatures are those of `api.txt`.

A change of the API is a change of that file, which a reviewer sees. After a change that is
meant, and a line of it in CHANGELOG:

    python -m tests.test_api
"""

import inspect
import pathlib
import re
import types

import keras_e2e as e2e

SNAPSHOT = pathlib.Path(__file__).with_name("api.txt")
ROOMS = [
    "callbacks",
    "diagnostics",
    "ensembles",
    "objectives",
    "regimes",
    "rewards",
    "tasks",
]


def signature(thing):
    """A signature without annotations, which a type checker looks after."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    plain = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    text = str(found.replace(parameters=plain, return_annotation=found.empty))
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def members(cls):
    """The public methods and properties that classes of ours give a class."""
    found = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("keras_e2e"):
            continue
        for name, member in vars(base).items():
            if name.startswith("_") or isinstance(member, type):
                continue
            if isinstance(member, property):
                found[name] = "property"
            elif isinstance(member, types.FunctionType | classmethod | staticmethod):
                found[name] = signature(getattr(cls, name))
    return found


def lines(path, thing):
    """What the snapshot says of one public thing."""
    if isinstance(thing, type) and thing.__module__.startswith("keras_e2e"):
        yield f"{path}{signature(thing)}"
        for name, shown in sorted(members(thing).items()):
            yield f"    .{name}{': ' if shown == 'property' else ''}{shown}"
    elif callable(thing) and not isinstance(thing, types.ModuleType):
        yield f"{path}{signature(thing)}"
    else:
        yield f"{path}: {type(thing).__name__}"


def public(path, room):
    """The public names of a module, with what they stand for."""
    for name in sorted(room.__all__):
        thing = getattr(room, name)
        if not isinstance(thing, types.ModuleType):
            yield from lines(f"{path}.{name}", thing)


def api():
    """The text of the snapshot."""
    found = list(public("keras_e2e", e2e))
    for room in ROOMS:
        found += public(f"keras_e2e.{room}", getattr(e2e, room))
    found += public("keras_e2e.objectives.heads", e2e.objectives.heads)
    return "\n".join(found) + "\n"


def test_the_api_is_that_of_the_snapshot():
    assert api() == SNAPSHOT.read_text(), (
        "The public API has changed. If that is meant, write it into CHANGELOG.md and run "
        "`python -m tests.test_api`."
    )


def test_every_public_thing_has_a_docstring():
    for room in [e2e, *(getattr(e2e, name) for name in ROOMS), e2e.objectives.heads]:
        for name in room.__all__:
            thing = getattr(room, name)
            if isinstance(thing, type | types.FunctionType | types.ModuleType):
                assert thing.__doc__, name


if __name__ == "__main__":
    SNAPSHOT.write_text(api())
