"""Models of keras-hub from small configurations, made without a download."""

from collections.abc import Callable
from typing import Any

import keras
import keras_hub
from _compatibility_case import CLASSES, LENGTH, WORDS
from keras_hub import models

LAYERS, HEADS, WIDTH, SIZE = 4, 2, 16, 32
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*MARKS, "the", "cat", "sat", "a", "dog", "hello", "there", "ab", "cab"]
# What most configurations of transformers have in common.
SMALL = {"vocabulary_size": WORDS, "num_layers": LAYERS, "hidden_dim": WIDTH}
HEADED = {**SMALL, "num_heads": HEADS, "intermediate_dim": 2 * WIDTH}
PLACED = {**HEADED, "max_sequence_length": 16}
QUERIES = {"num_query_heads": HEADS, "num_key_value_heads": 1}
GROUPED = {**SMALL, **QUERIES, "intermediate_dim": 2 * WIDTH}
IMAGE = (SIZE, SIZE, 3)
MIT = {
    "image_shape": (64, 64, 3),
    "num_layers": 2,
    "hidden_dims": [8, 16],
    "layerwise_depths": [2, 2],
    "layerwise_num_heads": [1, 2],
    "layerwise_sr_ratios": [4, 2],
    "layerwise_patch_sizes": [7, 3],
    "layerwise_strides": [4, 2],
    "max_drop_path_rate": 0.1,
}


EFFICIENTNET = {
    "stackwise_kernel_sizes": [3, 3, 3],
    "stackwise_num_repeats": [1, 2, 2],
    "stackwise_input_filters": [8, 8, 16],
    "stackwise_output_filters": [8, 16, 24],
    "stackwise_expansion_ratios": [1, 4, 4],
    "stackwise_squeeze_and_excite_ratios": [0.25, 0.25, 0.25],
    "stackwise_strides": [1, 2, 2],
    "stackwise_block_types": ["v1"] * 3,
    "stackwise_force_input_filters": [0] * 3,
    "stackwise_nores_option": [False] * 3,
    "stackwise_width_coefficients": [1.0] * 3,
    "stackwise_depth_coefficients": [1.0] * 3,
    "input_shape": IMAGE,
}
MOBILENET = {
    "stackwise_expansion": [[16, 16], [32, 32]],
    "stackwise_num_blocks": [2, 2],
    "stackwise_num_filters": [[8, 8], [16, 16]],
    "stackwise_kernel_size": [[3, 3], [5, 5]],
    "stackwise_num_strides": [[2, 1], [2, 1]],
    "stackwise_se_ratio": [[None, None], [0.25, 0.25]],
    "stackwise_activation": [["relu", "relu"], ["hard_swish", "hard_swish"]],
    "stackwise_padding": [[1, 1], [2, 2]],
    "output_num_filters": 32,
    "depthwise_filters": 8,
    "depthwise_stride": 2,
    "depthwise_residual": False,
    "last_layer_filter": 32,
    "image_shape": IMAGE,
    "squeeze_and_excite": 0.5,
}
CSPNET = {
    "stem_filters": 8,
    "stem_kernel_size": 3,
    "stem_strides": 1,
    "stackwise_depth": [1, 2, 2],
    "stackwise_strides": [1, 2, 2],
    "stackwise_num_filters": [8, 16, 32],
    "block_type": "dark_block",
    "stage_type": "dark",
    "image_shape": IMAGE,
}
DENSENET = {"stackwise_num_repeats": [2, 2, 2], "growth_rate": 8, "image_shape": IMAGE}
VGG = {
    "stackwise_num_repeats": [1, 2, 2],
    "stackwise_num_filters": [8, 16, 32],
    "image_shape": (64, 64, 3),
}
VIT = {"image_shape": IMAGE, "patch_size": 8, "num_layers": LAYERS}
VIT |= {"num_heads": HEADS, "hidden_dim": WIDTH}
SWIN = {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
GEMMA = {**GROUPED, "head_dim": 8}
FALCON = {**SMALL, "num_attention_heads": HEADS, "intermediate_dim": 2 * WIDTH}
ALBERT = {**PLACED, "embedding_dim": WIDTH}
ELECTRA = {**PLACED, "embedding_dim": WIDTH, "vocab_size": WORDS}
del ELECTRA["vocabulary_size"]
TEXT = {"Bert": PLACED, "Roberta": PLACED, "DistilBert": PLACED, "DebertaV3": PLACED}
TEXT |= {"Albert": ALBERT, "XLMRoberta": PLACED}
CAUSAL: dict[str, dict] = {
    "GPT2": PLACED,
    "OPT": PLACED,
    "Llama": GROUPED,
    "Llama3": GROUPED,
    "Mistral": GROUPED,
    "Mixtral": {**GROUPED, "num_experts": 2},
    "Gemma": GEMMA,
    "Falcon": FALCON,
    "Phi3": GROUPED,
    "Bloom": HEADED,
    "GPTNeoX": PLACED,
    "Qwen": GROUPED,
    "Qwen3": GEMMA,
}
IMAGES: dict[str, dict] = {
    "ViT": {**VIT, "mlp_dim": 2 * WIDTH},
    "DeiT": {**VIT, "intermediate_dim": 2 * WIDTH},
    "MiT": MIT,
    "SwinTransformer": {**SWIN, "image_shape": IMAGE},
    "DenseNet": DENSENET,
    "EfficientNet": EFFICIENTNET,
    "MobileNet": MOBILENET,
    "VGG": VGG,
    "CSPNet": CSPNET,
}


def backbone(name: str, **config: Any) -> keras.Model:
    """A backbone by the name of its family."""
    return getattr(models, f"{name}Backbone")(**config)


def task(kind: str, name: str, **config: Any) -> keras.Model:
    """A task without a preprocessor."""
    given = {"num_classes": CLASSES} if "Classifier" in kind or "Segmenter" in kind else {}
    made = getattr(models, f"{name}{kind}")
    return made(backbone=backbone(name, **config), preprocessor=None, **given)


def without_class(name: str, **config: Any) -> keras.Model:
    """The graph of an image classifier."""
    made = task("ImageClassifier", name, **config)
    return keras.Model(made.input, made.output)


def bert_on_strings() -> keras.Model:
    """A classifier that takes strings."""
    tokenizer = models.BertTokenizer(vocabulary=PIECES)
    preprocessor = models.BertTextClassifierPreprocessor(tokenizer, sequence_length=12)
    config = {**PLACED, "vocabulary_size": len(PIECES)}
    return models.BertTextClassifier(
        backbone("Bert", **config), CLASSES, preprocessor=preprocessor
    )


def gpt2_on_strings() -> keras.Model:
    """A language model that takes strings."""
    symbols = ["<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz .Ġ", "ab"]
    tokenizer = models.GPT2Tokenizer({s: i for i, s in enumerate(symbols)}, ["a b"])
    config = {**PLACED, "vocabulary_size": len(symbols)}
    return models.GPT2CausalLM(
        backbone=backbone("GPT2", **config),
        preprocessor=models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=16),
    )


def resnet_on_images() -> keras.Model:
    """A classifier that scales and resizes its images."""
    converter = keras_hub.layers.ResNetImageConverter(scale=1 / 255.0, image_size=(32, 32))
    preprocessor = models.ResNetImageClassifierPreprocessor(converter)
    return models.ResNetImageClassifier(resnet(), CLASSES, preprocessor=preprocessor)


def resnet(stages: int = 3, **config: Any) -> keras.Model:
    """A residual network."""
    return models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64] * stages,
        stackwise_num_blocks=[1] * stages,
        stackwise_num_strides=[1, *[2] * (stages - 1)],
        block_type="basic_block",
        **config,
    )


def with_classes(make: Callable[[], keras.Model], output: str | None) -> keras.Model:
    """A backbone with a classifier behind one of its outputs."""
    made = make()
    found = made.output if output is None else made.output[output]
    if len(found.shape) == 3:
        found = keras.layers.GlobalAveragePooling1D()(found)
    outputs = keras.layers.Dense(CLASSES, activation="softmax", name="class")(found)
    return keras.Model(made.input, outputs)


def whisper() -> keras.Model:
    """Speech and the words so far in, the next word out; of fixed sizes."""
    inputs = {
        "encoder_features": keras.Input((16, 10), name="encoder_features"),
        "decoder_token_ids": keras.Input(
            (LENGTH,), name="decoder_token_ids", dtype="int32"
        ),
        "decoder_padding_mask": keras.Input((LENGTH,), name="decoder_padding_mask"),
    }
    made = backbone("Whisper", **HEADED, num_mels=10, max_encoder_sequence_length=16)
    found = made(inputs)["decoder_sequence_output"]
    return keras.Model(inputs, keras.layers.Dense(WORDS, name="word")(found))


def t5() -> keras.Model:
    """A language model from text to text."""
    return task("Seq2SeqLM", "T5", **HEADED)


def pyramid() -> keras.Model:
    """A residual network and its levels, from the last to the first."""
    return models.RetinaNetBackbone(
        image_encoder=resnet(4, image_shape=(64, 64, 3)),
        **{"min_level": 3, "max_level": 5, "use_p5": False, "image_shape": (64, 64, 3)},
    )


def retinanet() -> keras.Model:
    """A feature pyramid, its levels pooled for a class."""
    made = pyramid()
    pooled = [keras.layers.GlobalAveragePooling2D()(x) for x in made.output.values()]
    together = keras.layers.Concatenate()(pooled)
    outputs = keras.layers.Dense(CLASSES, activation="softmax", name="class")(together)
    return keras.Model(made.input, outputs)


def detector() -> keras.Model:
    """A detector, whose loss is a method of its class."""
    return models.RetinaNetObjectDetector(pyramid(), CLASSES)


def segformer() -> keras.Model:
    """A segmenter on the levels of a mix transformer."""
    encoder = models.MiTBackbone(**MIT)
    made = models.SegFormerBackbone(image_encoder=encoder, projection_filters=8)
    return models.SegFormerImageSegmenter(made, CLASSES)


def deeplab() -> keras.Model:
    """A segmenter on two levels of a residual network."""
    made = models.DeepLabV3Backbone(
        image_encoder=resnet(image_shape=(64, 64, 3)),
        projection_filters=8,
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P4",
        upsampling_size=4,
        dilation_rates=[2, 3, 4],
        image_shape=(64, 64, 3),
    )
    return models.DeepLabV3ImageSegmenter(made, CLASSES)


def clip() -> keras.Model:
    """Towers of images and texts, compared with each other."""
    common = {"hidden_dim": WIDTH, "num_layers": 2, "num_heads": HEADS}
    common["intermediate_dim"] = 2 * WIDTH
    return models.CLIPBackbone(
        models.CLIPVisionEncoder(patch_size=8, image_shape=IMAGE, **common),
        models.CLIPTextEncoder(
            WORDS, embedding_dim=WIDTH, max_sequence_length=LENGTH, **common
        ),
        projection_dim=WIDTH,
    )
