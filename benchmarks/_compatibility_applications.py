"""The smallest model of each family of keras.applications, on small images."""

import functools

import keras
from _compatibility_case import CLASSES, Case, classes, classifying

# By family: the model, and the least size of image it takes.
FAMILIES = {
    "ConvNeXt": ("ConvNeXtTiny", 32),
    "DenseNet": ("DenseNet121", 32),
    "EfficientNet": ("EfficientNetB0", 32),
    "EfficientNetV2": ("EfficientNetV2B0", 32),
    "InceptionResNetV2": ("InceptionResNetV2", 75),
    "InceptionV3": ("InceptionV3", 75),
    "MobileNet": ("MobileNet", 32),
    "MobileNetV2": ("MobileNetV2", 32),
    "MobileNetV3": ("MobileNetV3Small", 32),
    "NASNet": ("NASNetMobile", 32),
    "ResNet": ("ResNet50", 32),
    "ResNetV2": ("ResNet50V2", 32),
    "VGG": ("VGG16", 32),
    "Xception": ("Xception", 71),
}


def application(name: str, size: int) -> keras.Model:
    """A model of keras.applications with weights drawn at random."""
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(size, size, 3), classes=CLASSES)


CASES = {
    name: Case(functools.partial(application, name, size), classes, classifying)
    for name, size in FAMILIES.values()
}
