"""Which layers are read (arXiv 2510.13554, section 5.1; rounding not in the paper)."""

from __future__ import annotations

import math

from transformers import PretrainedConfig

# Model types that cannot be read, and why. docs/families.md lists all others, each compared with its own eager maps.
NO_SOFTMAX = "has no softmax attention to read credit from"
REFUSED = {
    **dict.fromkeys(("falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"), NO_SOFTMAX),
    "blt": "attends to patches of bytes, in several stacks of layers",
    "cpmant": "puts prompt tokens of its own before the sequence",
    "deepseek_v4": "attends to compressed keys, each of which stands for several tokens",
    "diffllama": "attends with the difference of two softmax maps, which is no distribution over tokens",
    **dict.fromkeys(("dory", "hrm_text", "inkling2_loop_text"), "runs its layers several times in one pass"),
    "prophetnet": "predicts several tokens ahead, with more than one map a layer",
    "reformer": "attends within hash buckets",
    "xlnet": "attends in permuted order",
}
# Entries of config.layer_types without softmax attention. A layer of any other kind that shows none is an error.
OTHER_LAYER_TYPES = ("conv", "linear_attention", "mlp", "moe")


def softmax_layers(config: PretrainedConfig) -> list[int]:
    """Indices of the layers with softmax attention, from the config alone (no weights are needed).

    Raises: ValueError, naming the model type, where a model has none, cannot be read or is no decoder.
    """
    text = config.get_text_config()
    name = getattr(text, "model_type", type(text).__name__)
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"model type {name!r} is an encoder-decoder; credit reads decoder-only models")
    # the decoder half of an encoder-decoder counts its own layers
    count = getattr(text, "decoder_layers", None) or getattr(text, "num_hidden_layers", None)
    kinds = getattr(text, "layer_types", None) or [None] * (count or 0)
    without_images = getattr(text, "cross_attention_layers", None) or []  # they run only where there are images
    readable = [i for i, kind in enumerate(kinds) if kind not in OTHER_LAYER_TYPES and i not in without_images]
    if len(set(getattr(text, "num_attention_heads_per_layer", None) or ())) > 1:
        raise ValueError(f"model type {name!r}: its layers have different numbers of query heads; use another model")
    if name in REFUSED or not readable:
        raise ValueError(
            f"model type {name!r} {REFUSED.get(name, NO_SOFTMAX)}; use another model, or credit_strategy: uniform"
        )
    return readable


def spaced(lo: int, hi: int, count: int) -> list[int]:
    """`count` evenly spaced whole numbers from lo to hi, halves rounded up, repeats dropped; for one, the middle."""
    if count == 1:
        return [(lo + hi) // 2]
    numbers = [math.floor(lo + i * (hi - lo) / (count - 1) + 0.5) for i in range(count)]
    return sorted(set(numbers))


def choose_layers(config: PretrainedConfig, layers: str | list[int] | None, count: int) -> list[int]:
    """Layer indices for `credit_layers` and `credit_num_layers`, ascending.

    Args:
        config: the model's config. Thirds are counted over its layers with softmax attention, then mapped back.
        layers: "middle" (default of the paper, and for None), "all", "top", "bottom" (Table 9), or explicit indices.
        count: how many evenly spaced layers of that range; ignored for explicit indices.
    """
    available = softmax_layers(config)
    if isinstance(layers, list):
        if missing := [index for index in layers if index not in available]:
            raise ValueError(
                f"credit_layers: {missing} are not layers with softmax attention of this model; it has "
                f"{available[0]}..{available[-1]}"
            )
        return list(layers)
    last, third = len(available) - 1, len(available) / 3
    lower, upper = math.floor(third), min(math.floor(2 * third), last)
    ranges = {"middle": (lower, upper), "all": (0, last), "bottom": (0, lower), "top": (upper, last)}
    lo, hi = ranges[layers or "middle"]
    return [available[i] for i in spaced(lo, hi, count)]


def layer_thirds(config: PretrainedConfig) -> dict[str, list[int]]:
    """The layers with softmax attention in three parts that do not overlap: from floor(i * L / 3) on [not in the
    paper, whose ranges of Table 9 share their borders]."""
    available = softmax_layers(config)
    cuts = [i * len(available) // 3 for i in range(4)]
    return {name: available[cuts[i] : cuts[i + 1]] for i, name in enumerate(("bottom", "middle", "top"))}
