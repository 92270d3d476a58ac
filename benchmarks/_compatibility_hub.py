"""Models of keras-hub: what `--only=hub` tries.

Tasks where there are some: three with a preprocessor, on strings and images as they come,
the others on numbers.
"""

import functools

import _compatibility_hub_models as made
import keras
import numpy as np
from _compatibility_case import (
    CLASSES,
    EXAMPLES,
    WORDS,
    Case,
    by_itself,
    classes,
    classifying,
    scoring,
    words,
)

TEXTS = ["ab cab", "the cat sat", "a dog", "hello there", "a cat", "the dog sat"]


def strings(model: keras.Model) -> tuple:
    """Strings and their classes."""
    return list(TEXTS), classes_of_examples()


def texts(model: keras.Model) -> tuple:
    """Strings alone, which a language model makes its targets of."""
    return (list(TEXTS),)


def images(model: keras.Model, size: int = 40) -> tuple:
    """Images of another size than the network's, and their classes."""
    x = np.random.default_rng(0).integers(0, 255, (EXAMPLES, size, size, 3))
    return x.astype("float32"), classes_of_examples()


def classes_of_examples() -> np.ndarray:
    """A class for each example."""
    return np.arange(EXAMPLES, dtype="int32") % CLASSES


def pixels(model: keras.Model) -> tuple:
    """Images, and a class for each of their pixels."""
    x = classes(model)[0]
    shape = model.compute_output_shape(x.shape)[:-1]
    return x, np.random.default_rng(1).integers(0, CLASSES, shape).astype("int32")


def masked(model: keras.Model) -> tuple:
    """Inputs with masked places, what stood there, and the weights of these."""
    x = classes(model)[0]
    x["mask_positions"] = x["mask_positions"][:, :2]
    shape = x["mask_positions"].shape
    y = np.random.default_rng(1).integers(0, WORDS, shape).astype("int32")
    return x, y, np.ones(shape, "float32")


def matches(model: keras.Model) -> tuple:
    """Images and texts, and which one of the batch belongs to which."""
    y = np.arange(EXAMPLES, dtype="int32") % 2
    return classes(model)[0], {"vision_logits": y, "text_logits": y}


def _cases() -> dict[str, Case]:
    """All of them by name."""
    of, own = functools.partial, {"compile": by_itself}
    found = {
        "BertTextClassifier on strings": Case(made.bert_on_strings, strings, **own),
        "GPT2CausalLM on strings": Case(made.gpt2_on_strings, texts, **own),
        "ResNetImageClassifier on images": Case(made.resnet_on_images, images, **own),
    }
    for name, config in made.TEXT.items():
        small = of(made.task, "TextClassifier", name, **config)
        found[f"{name}TextClassifier"] = Case(small, classes, **own)
    electra = of(
        made.with_classes, of(made.backbone, "Electra", **made.ELECTRA), "pooled_output"
    )
    found["ElectraBackbone (classes)"] = Case(electra)
    for name in ("Bert", "Roberta"):
        small = of(made.task, "MaskedLM", name, **made.TEXT[name])
        found[f"{name}MaskedLM"] = Case(small, masked, **own)
    for name, config in made.CAUSAL.items():
        found[f"{name}CausalLM"] = Case(
            of(made.task, "CausalLM", name, **config), words, **own
        )
    found["T5Seq2SeqLM"] = Case(made.t5, words, **own)
    found["BartSeq2SeqLM"] = Case(
        of(made.task, "Seq2SeqLM", "Bart", **made.PLACED), words, **own
    )
    for name, config in made.IMAGES.items():
        small = of(made.task, "ImageClassifier", name, **config)
        found[f"{name}ImageClassifier"] = Case(small, classes, **own)
    blocks = [f"transformer_block_{n}" for n in (1, 2, 3)]
    for name in ("ViT", "DeiT"):  # the blocks lie inside one layer
        plain = of(made.without_class, name, **made.IMAGES[name])
        found[f"{name} cut inside its encoder"] = Case(
            plain, classes, scoring, boundaries=blocks
        )
    found["SegFormerImageSegmenter"] = Case(made.segformer, pixels, scoring)
    found["DeepLabV3ImageSegmenter"] = Case(made.deeplab, pixels, scoring)
    found["RetinaNetBackbone (classes)"] = Case(made.retinanet, classes, classifying)
    found["RetinaNetObjectDetector"] = Case(made.detector, classes, by_itself, refused=True)
    found["CLIPBackbone"] = Case(made.clip, matches, scoring)
    found["WhisperBackbone (words)"] = Case(made.whisper, words, scoring)
    return found


CASES = _cases()
