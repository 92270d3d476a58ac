"""Arguments of objectives: refused when made, NumPy's numbers accepted, functions saved."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e import objectives as o

NAN = float("nan")


def base():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, activation="softmax", name="code"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )


INVALID = {
    "threshold": (lambda: o.ForwardForward(threshold=NAN), "threshold=nan"),
    "overlay": (lambda: o.ForwardForward(overlay="1"), "overlay='1'"),
    "off_diagonal": (lambda: o.BarlowTwins(off_diagonal="a"), "off_diagonal='a'"),
    "variance": (lambda: o.VICReg(variance=NAN), "variance=nan"),
    "temperature": (lambda: o.ViewContrast(temperature=NAN), "temperature=nan"),
    "projection_dim": (lambda: o.VICReg(projection_dim=0), "projection_dim=0"),
    "supcon": (lambda: o.SupervisedContrastive(temperature="t"), "temperature='t'"),
    "label": (lambda: o.InfoPro(label=(1.0, NAN)), "label[1]=nan"),
    "label, one number": (lambda: o.InfoPro(label=1.0), "label=1.0"),
    "reconstruction": (lambda: o.InfoPro(reconstruction=("a", 1)), "'a'"),
    "mean": (lambda: o.Reconstruction(mean=NAN), "mean=nan"),
    "std": (lambda: o.Reconstruction(std="s"), "std='s'"),
    "beta": (lambda: o.PredSim(NAN), "beta=nan"),
    "factor": (lambda: o.Mixture({"sim": NAN}), "factor of 'sim'=nan"),
    "no part": (lambda: o.Mixture({None: 1.0}), "None is not an objective"),
    "weight": (lambda: o.Prediction(weight=True), "weight=True"),
    "seed": (lambda: o.InfoNCE(seed=1.5), "seed=1.5"),
    "seed of a map": (lambda: o.FeedbackAlignment(seed=None), "seed=None"),
    "loss": (lambda: o.IntermediateTarget("zz"), "loss='zz' is not a loss"),
    "loss of a prediction": (lambda: o.Prediction(loss=3), "loss=3 is not a loss"),
    "activation": (lambda: o.Prediction(activation="zz"), "activation='zz'"),
    "units": (lambda: o.IntermediateTarget(head="mlp", units=2.5), "units=2.5"),
    "depth": (lambda: e2e.AugLocal(depth_max=NAN), "depth_max=nan"),
    "momentum": (lambda: e2e.MomentumAuxiliary("a"), "momentum='a'"),
    "module": (lambda: e2e.ModuleBoundary(module=3), "module=3"),
    "noise": (lambda: e2e.ModuleBoundary(noise=True), "noise=True"),
    "seed of noise": (lambda: e2e.ModuleBoundary(noise=0.1, seed="s"), "seed='s'"),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_argument_is_refused_when_it_is_given(name):
    make, said = INVALID[name]
    with pytest.raises(ValueError) as caught:
        make()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "kind", [o.FeedbackAlignment, o.DirectFeedbackAlignment, o.SyntheticGradient]
)
def test_a_signal_has_no_reach(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__}\(reach=3\).*Leave"):
        kind(reach=3)


NUMPY = {
    "InfoNCE": lambda n: o.InfoNCE(num_steps=n(2), num_negatives=n(3), seed=n(4)),
    "FeedbackAlignment": lambda n: o.FeedbackAlignment(seed=n(2)),
    "ForwardForward": lambda n: o.ForwardForward(num_classes=n(3), threshold=n(1)),
    "SupervisedContrastive": lambda n: o.SupervisedContrastive(projection_dim=n(5)),
    "BarlowTwins": lambda n: o.BarlowTwins(projection_dim=n(5), off_diagonal=n(1)),
    "IntermediateTarget": lambda n: o.IntermediateTarget(head="mlp", units=n(3)),
    "Prediction": lambda n: o.Prediction(reach=n(2), weight=n(2)),
    "InfoPro": lambda n: o.InfoPro(label=(n(1), n(2))),
}


@pytest.mark.parametrize("name", NUMPY)
def test_numpy_integers_are_integers(name):
    given, plain = NUMPY[name](np.int64), NUMPY[name](int)
    assert {**given.get_config(), "name": ""} == {**plain.get_config(), "name": ""}
    again = o.deserialize(o.serialize(given))
    assert again.get_config() == given.get_config()


def test_a_boundary_takes_numpy_numbers(tmp_path):
    x = inputs = keras.Input((4,))
    x = layers.Dense(3, name="a")(x)
    boundary = e2e.ModuleBoundary(noise=np.float32(0.5), seed=np.int64(3), name="b")
    model = e2e.ModularModel(inputs, layers.Dense(3, name="out")(boundary(x)))
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras").boundaries["b"]
    assert (again.noise, again.seed) == (0.5, 3)


# Functions


def apart(y, p):
    return keras.ops.mean(keras.ops.abs(y - p), axis=-1)


WITH_FUNCTION = {
    "loss": lambda f: o.Prediction(loss=f),
    "loss on labels": o.IntermediateTarget,
    "metric": lambda f: o.Prediction(metrics=[f]),
    "metric of an output": lambda f: o.Prediction(metrics={"out": [f]}),
    "metric of predsim": lambda f: o.PredSim(metrics=[f]),
    "activation": lambda f: o.Prediction(activation=f),
    "activation on labels": lambda f: o.IntermediateTarget(
        head="mlp", units=3, activation=f
    ),
}


@pytest.mark.parametrize("name", WITH_FUNCTION)
def test_a_lambda_is_refused_as_it_could_not_be_loaded(name):
    with pytest.raises(ValueError, match=r"lambda.*register_keras_serializable"):
        WITH_FUNCTION[name](lambda *given: given[-1])


@pytest.mark.parametrize("name", ["loss", "loss on labels", "metric"])
def test_a_named_function_is_loaded_as_a_stock_loss_is(name, tmp_path):
    """By `custom_objects` where it is not registered, as `compile(loss=...)` asks too."""
    objective = WITH_FUNCTION[name](apart)
    model = e2e.modularize(base(), {"code": objective}, training_mode="local")
    model.compile("sgd", "mse")
    x, target = np.ones((8, 4)), np.full((8, 3), 0.5)
    y = {"out": target, "code": target} if objective.requires_labels else target
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m.keras")
    with pytest.raises(TypeError, match="apart"):
        keras.models.load_model(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras", custom_objects={"apart": apart})
    again.fit(x, y, verbose=0)
