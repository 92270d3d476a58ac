"""Short names of objectives, and the way of every objective into a config and back."""

import json
from typing import get_args

import keras
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e import objectives
from keras_e2e.objectives import (
    BarlowTwins,
    DirectFeedbackAlignment,
    FeatureBank,
    FeedbackAlignment,
    ForwardForward,
    InfoNCE,
    InfoPro,
    IntermediateTarget,
    LocalObjective,
    Mixture,
    Prediction,
    PredSim,
    Reconstruction,
    SimilarityMatching,
    SupervisedContrastive,
    SyntheticGradient,
    Transport,
    VICReg,
    ViewContrast,
)

KINDS = {
    "pred": Prediction,
    "prediction": Prediction,
    "intermediate_target": IntermediateTarget,
    "sim": SimilarityMatching,
    "predsim": PredSim,
    "supcon": SupervisedContrastive,
    "transport": Transport,
    "feature_bank": FeatureBank,
    "infopro": InfoPro,
    "reconstruction": Reconstruction,
    "barlow_twins": BarlowTwins,
    "vicreg": VICReg,
    "infonce": InfoNCE,
    "view_contrast": ViewContrast,
    "forward_forward": ForwardForward,
    "synthetic_gradient": SyntheticGradient,
    "feedback_alignment": FeedbackAlignment,
    "direct_feedback_alignment": DirectFeedbackAlignment,
}


def base():
    return keras.Sequential(
        [
            keras.Input((6, 2)),
            layers.Dense(4, name="a"),
            layers.Flatten(name="b"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )


@pytest.mark.parametrize("alias", KINDS)
def test_an_alias_stands_for_its_objective(alias):
    objective = objectives.get(alias)
    assert type(objective) is KINDS[alias]
    assert objective is not objectives.get(alias)
    assert type(e2e.ModuleBoundary(alias).objective) is KINDS[alias]
    for model in (
        e2e.modularize(base(), {"a": alias}),
        e2e.modularize(base(), ["a", "b"], objective=alias) if alias != "infonce" else None,
    ):
        if model is not None:
            found = [b.objective for b in model.boundaries.values()]
            assert {type(o) for o in found} == {KINDS[alias]}
            assert len(set(map(id, found))) == len(found)


def test_every_objective_has_an_alias():
    exported = [getattr(objectives, name) for name in objectives.__all__]
    kinds = {
        kind
        for kind in exported
        if isinstance(kind, type)
        and issubclass(kind, LocalObjective)
        and kind not in (LocalObjective, Mixture, objectives.Signal)
    }
    assert kinds == set(KINDS.values())


def test_other_spellings():
    assert objectives.get(None) is None
    own = Reconstruction()
    assert objectives.get(own) is own
    mixture = objectives.get({"sim": 0.99, "pred": 0.01})
    assert type(mixture) is Mixture
    assert [type(part) for part in mixture.parts] == [SimilarityMatching, Prediction]
    assert mixture.factors == (0.99, 0.01)
    model = e2e.modularize(base(), {"a": {"sim": 1, "reconstruction": 0.5}, "b": "pred"})
    kinds = [type(b.objective) for b in model.boundaries.values()]
    assert kinds == [Mixture, Prediction]


USES = {
    "get": objectives.get,
    "ModuleBoundary": lambda x: e2e.ModuleBoundary(x, name="bound"),
    "modularize": lambda x: e2e.modularize(base(), {"a": x}),
    "modularize a list": lambda x: e2e.modularize(base(), ["a"], objective=x),
    "Mixture": lambda x: Mixture({x: 1.0}),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("alias", "near"),
    [("predsimm", "'predsim'"), ("Sim", "'sim'"), ("vic_reg", "'vicreg'"), ("zzz", "")],
)
def test_an_unknown_alias_is_refused_and_the_nearest_named(use, alias, near):
    with pytest.raises(ValueError) as caught:
        USES[use](alias)
    message = str(caught.value)
    assert f"Unknown objective {alias!r}" in message
    assert ("Did you mean" in message) == bool(near)
    assert near in message.split("The aliases")[0]
    assert "'barlow_twins'" in message
    if use == "ModuleBoundary":
        assert "'bound'" in message


@pytest.mark.parametrize("given", [3, ["sim"], True, False, Prediction, print], ids=str)
def test_anything_else_is_refused(given):
    with pytest.raises(TypeError) as caught:
        e2e.ModuleBoundary(given, name="bound")
    for phrase in ["'bound'", "LocalObjective", "'predsim'", "None for", repr(given)]:
        assert phrase in str(caught.value)


# Configs

NOISE = {"name": "noise", "seed": 2}
SCHEDULE = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.1)
NON_DEFAULT = {
    "prediction": lambda: Prediction(
        "mlp", output_name="out", loss="mse", activation="tanh", weight=0.5, reach="all"
    ),
    "prediction, own head": lambda: Prediction(
        keras.Sequential([layers.Flatten(), layers.Dense(3)], name="own"), weight=SCHEDULE
    ),
    "target": lambda: IntermediateTarget(
        "mse", head="mlp", units=3, per_position=True, reach=2
    ),
    "sim": lambda: SimilarityMatching(
        output_name="out", num_classes=3, weight=2.0, name="mine"
    ),
    "supcon": lambda: SupervisedContrastive(
        "linear",
        projection_dim=5,
        temperature=0.5,
        output_name="out",
        num_classes=3,
        reach=2,
    ),
    "predsim": lambda: PredSim(
        0.7, head="mlp", output_name="out", num_classes=3, weight=0.5
    ),
    "infopro": lambda: InfoPro(
        "cross_entropy",
        reconstruction=(3.0, 1.0),
        label=(0.5, 1.5),
        head="gap_linear",
        mean=[0.5, 0.25],
        std=0.5,
        output_name="out",
        reach=2,
    ),
    "reconstruction": lambda: Reconstruction(
        "model_input",
        head="mlp",
        loss="binary_crossentropy",
        corrupt=layers.Dropout(0.5, name="spoil"),
        mean=[0.5, 0.25],
        std=2,
        weight=SCHEDULE,
    ),
    "barlow_twins": lambda: BarlowTwins(
        layers.GaussianNoise(0.3, **NOISE),
        head="linear",
        projection_dim=5,
        off_diagonal=0.1,
    ),
    "vicreg": lambda: VICReg(
        keras.Sequential([layers.GaussianNoise(0.3, **NOISE)], name="augment"),
        invariance=1.0,
        variance=2.0,
        covariance=3.0,
        weight=0.1,
    ),
    "view_contrast": lambda: ViewContrast(
        layers.GaussianNoise(0.3, **NOISE), temperature=0.5, projection_dim=5
    ),
    "infonce": lambda: InfoNCE(
        num_steps=2, num_negatives=3, seed=4, reach="all", weight=SCHEDULE
    ),
    "forward_forward": lambda: ForwardForward(
        threshold=1.0, overlay=2.0, output_name="out", num_classes=3, seed=4, weight=0.5
    ),
    "synthetic_gradient": lambda: SyntheticGradient(
        conditional=False, head="linear", weight=0.5
    ),
    "feedback_alignment": lambda: FeedbackAlignment(seed=3, weight=SCHEDULE),
    "direct_feedback_alignment": lambda: DirectFeedbackAlignment(seed=3, weight=0.5),
    "transport": lambda: Transport(Prediction("mlp"), tau=0.5, weight=2.0, reach=2),
    "feature_bank": lambda: FeatureBank(
        8, head="linear", output_name="out", loss="mse", activation="tanh", reach=2
    ),
    "mixture": lambda: Mixture({"sim": 0.5, BarlowTwins(projection_dim=3): 2}, weight=0.5),
    "mixture in a mixture": lambda: Mixture(
        {Mixture({"sim": 0.5, InfoPro(std=[0.5, 1.0]): 0.0}): 0.25, PredSim(0.5): 2.0},
        reach=2,
    ),
}


def test_every_objective_goes_through_a_config():
    assert {type(make()) for make in NON_DEFAULT.values()} == {*KINDS.values(), Mixture}


@pytest.mark.parametrize("case", NON_DEFAULT)
def test_a_config_makes_an_equal_objective(case):
    objective = NON_DEFAULT[case]()
    config = objective.get_config()
    again = type(objective).from_config(config)
    assert again.get_config() == config
    # As a saved model keeps it: through JSON.
    saved = json.dumps(keras.saving.serialize_keras_object(objective), sort_keys=True)
    loaded = keras.saving.deserialize_keras_object(json.loads(saved))
    assert type(loaded) is type(objective)
    assert json.dumps(keras.saving.serialize_keras_object(loaded), sort_keys=True) == saved
    for given in (again, loaded):
        assert given.reach == objective.reach
        assert type(given.weight) is type(objective.weight)
        if case != "forward_forward":  # which knows its output once it is built
            assert list(given.extra_inputs()) == list(objective.extra_inputs())


@pytest.mark.parametrize("alias", KINDS)
def test_the_defaults_too(alias):
    config = objectives.get(alias).get_config()
    assert "weight" not in config and "reach" not in config
    assert KINDS[alias].from_config(config).get_config() == config


@pytest.mark.parametrize("case", NON_DEFAULT)
def test_a_built_objective_has_the_config_that_it_had(case):
    make = NON_DEFAULT[case]
    objective = make()
    e2e.modularize(base(), {"a": objective})

    def plain(config):
        """Without what building a layer adds, and without counted names."""
        if isinstance(config, dict):
            added = ("build_config", "build_input_shape", "name")
            return {k: plain(v) for k, v in config.items() if k not in added}
        if not isinstance(config, list | tuple):
            return config
        kinds = [isinstance(v, dict) and v.get("class_name") for v in config]
        pairs = zip(config, kinds, strict=True)
        return [plain(v) for v, kind in pairs if kind != "InputLayer"]

    found, expected = (
        plain(keras.saving.serialize_keras_object(o)) for o in (objective, make())
    )
    assert found == expected


# The registry


def test_the_type_of_aliases_is_what_is_registered():
    assert set(get_args(objectives.Alias)) == set(objectives.ALIASES) == set(KINDS)


@pytest.mark.parametrize("alias", KINDS)
def test_serialized_and_deserialized(alias):
    objective = objectives.get(alias)
    config = json.loads(json.dumps(objectives.serialize(objective)))
    for again in (objectives.deserialize(config), objectives.get(config)):
        assert type(again) is KINDS[alias]
        assert again.get_config() == objective.get_config()


def test_no_objective_and_aliases_are_deserialized_too():
    assert objectives.serialize(None) is None
    assert objectives.deserialize(None) is None
    assert type(objectives.deserialize("sim")) is SimilarityMatching


def test_an_objective_of_a_users_is_deserialized_by_custom_objects():
    class Own(LocalObjective):
        pass

    config = objectives.serialize(Own(weight=0.5))
    with pytest.raises(TypeError, match="Own"):
        objectives.deserialize(config)
    again = objectives.deserialize(config, {"Own": Own})
    assert type(again) is Own and again.weight == 0.5


def test_the_config_of_something_else_is_refused():
    config = keras.saving.serialize_keras_object(layers.Dense(3))
    with pytest.raises(ValueError, match=r"config of a LocalObjective.*Dense"):
        objectives.deserialize(config)
