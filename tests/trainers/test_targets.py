"""Sorting `y` and `sample_weight` into the model's own part and the boundaries'."""

import pytest

from keras_e2e.trainers import targets

BOUNDARIES = ["code", "mix"]


def test_what_is_no_dict_is_the_models_own():
    for value in ("array", ["one", "two"], ("one", "two"), None):
        assert targets.split(value, BOUNDARIES, ["out"]) == (value, {})


def test_one_output_gets_its_part_bare():
    y = {"out": "y", "code": "c"}
    assert targets.split(y, BOUNDARIES, ["out"], single=True) == ("y", {"code": "c"})


def test_several_outputs_keep_their_dict():
    y = {"p": "yp", "code": "c", "q": "yq", "mix": "m"}
    own, given = targets.split(y, BOUNDARIES, ["p", "q"])
    assert own == {"p": "yp", "q": "yq"}
    assert given == {"code": "c", "mix": "m"}


def test_a_dict_of_one_output_stays_a_dict():
    own, given = targets.split({"p": "yp", "code": "c"}, BOUNDARIES, ["p"])
    assert own == {"p": "yp"}
    assert given == {"code": "c"}


def test_an_output_may_go_by_its_layers_name():
    y = {"dense_7": "y", "code": "c"}
    assert targets.split(y, BOUNDARIES, ["p"], ["dense_7"], single=True) == (
        "y",
        {"code": "c"},
    )


def test_labels_without_targets_leave_none_for_the_model():
    for single in (True, False):
        split = targets.split({"code": "c"}, BOUNDARIES, ["out"], single=single)
        assert split == (None, {"code": "c"})


def test_an_output_goes_before_a_boundary_of_the_same_name():
    own, given = targets.split({"code": "y"}, BOUNDARIES, ["code"], single=True)
    assert (own, given) == ("y", {})


@pytest.mark.parametrize("what", ["y", "sample_weight"])
def test_an_unknown_name_is_refused_with_the_names_there_are(what):
    with pytest.raises(ValueError) as caught:
        targets.split({"out": 1, "cod": 2}, BOUNDARIES, ["out"], ["dense"], what=what)
    message = str(caught.value)
    assert message.startswith(what)
    for name in ("'cod'", "'out'", "'dense'", "'code'", "'mix'"):
        assert name in message
    assert "under the boundary's name" in message


def test_nothing_given_is_none_for_each_output():
    assert targets.align_to_outputs(None, ["p", "q"]) == [None, None]


def test_align_follows_the_order_of_the_outputs():
    assert targets.align_to_outputs({"q": 2, "p": 1}, ["p", "q"]) == [1, 2]
    assert targets.align_to_outputs([1, 2], ["p", "q"]) == [1, 2]
    assert targets.align_to_outputs((1, 2), ["p", "q"]) == [1, 2]


def test_align_takes_the_layers_names_too():
    assert targets.align_to_outputs({"y": 2, "x": 1}, ["p", "q"], ["x", "y"]) == [1, 2]
    assert targets.align_to_outputs({"q": 2, "x": 1}, ["p", "q"], ["x", "y"]) == [1, 2]


def test_align_leaves_none_where_an_output_has_no_part():
    assert targets.align_to_outputs({"q": 2}, ["p", "q"]) == [None, 2]


def test_align_gives_one_value_to_every_output():
    assert targets.align_to_outputs("weights", ["p", "q"]) == ["weights", "weights"]
    assert targets.align_to_outputs(["weights"], ["p"]) == ["weights"]


def test_align_keeps_a_target_of_value_none_in_its_place():
    assert targets.align_to_outputs([None, 2], ["p", "q"]) == [None, 2]


def test_keys_are_those_of_a_dict_of_outputs():
    assert targets.output_keys({"p": 1, "q": 2}, ["x", "y"]) == ["p", "q"]


def test_keys_are_the_output_names_otherwise():
    assert targets.output_keys(1, ["dense"]) == ["dense"]
    assert targets.output_keys([1, 2], ["x", "y"]) == ["x", "y"]


def test_keys_are_made_up_where_a_model_has_no_names():
    assert targets.output_keys(1, None) == ["outputs"]
    assert targets.output_keys([1, 2], None) == ["output_0", "output_1"]
