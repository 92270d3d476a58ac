"""The registry of the conformance tests is complete."""

import inspect

from keras_e2e import diagnostics, objectives
from keras_e2e.objectives import heads, reconstruction

from . import cases


def public_classes(package, base):
    return {
        value
        for name, value in vars(package).items()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value is not base
        and not name.startswith("_")
    }


def test_every_objective_is_in_the_registry():
    registered = {type(case.make()) for case in cases.OBJECTIVES}
    contracts = {objectives.Signal}
    missing = public_classes(objectives, objectives.LocalObjective) - registered - contracts
    assert not missing, f"add {missing} to OBJECTIVES in {cases.__file__}"


def test_every_head_and_source_is_in_the_registry():
    made = [case.make() for case in cases.OBJECTIVES]
    tried = {getattr(objective, "head", None) for objective in made}
    assert set(heads.KINDS) <= tried
    sources = {getattr(objective, "of", None) for objective in made}
    assert set(reconstruction.SOURCES) <= sources


def test_one_case_of_each_class_is_among_the_distinct_ones():
    tried = {type(case.make()) for case in cases.DISTINCT}
    assert tried == {type(case.make()) for case in cases.OBJECTIVES}


def test_every_quantity_is_in_the_registry():
    registered = set(cases.QUANTITIES.values())
    missing = public_classes(diagnostics, diagnostics.Quantity) - registered
    assert not missing, f"add {missing} to QUANTITIES in {cases.__file__}"
    default = {type(quantity) for quantity in diagnostics.default_quantities()}
    assert default <= registered


def test_every_quantity_on_demand_is_in_the_registry():
    registered = {type(make([])) for make in cases.ON_DEMAND.values()}
    missing = public_classes(diagnostics, diagnostics.OnDemand) - registered
    assert not missing, f"add {missing} to ON_DEMAND in {cases.__file__}"


def test_every_quantity_says_what_it_is():
    made = {name: make() for name, make in cases.QUANTITIES.items()}
    made |= {name: make([]) for name, make in cases.ON_DEMAND.items()}
    for name, quantity in made.items():
        assert quantity.name == name
        for said in ("formula", "interpretation", "source"):
            assert getattr(quantity, said), f"{name} has no {said}"
    assert {quantity.schedule for quantity in made.values()} == {None, 200, "on demand"}
