"""The text of each token, for tokenizers that spread a character over several tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlcredit.analysis.token_texts import token_texts

TEXT = "Es ist 答答案是 12 é🙂 fin"
WORDS = ["Es", "ist", "12", "fin", "a", "b", "\ufffd"]


def byte_fallback(*, strips: bool) -> PreTrainedTokenizerFast:
    """Llama 2's and Mistral's kind (they take the first space away), and Gemma's (it does not)."""
    vocabulary = [
        "<s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *WORDS,
        *(f"\u2581{word}" for word in WORDS),
        "\u2581",
    ]
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    parts += [decoders.Strip(" ", 1, 0)] if strips else []
    tokens = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(tokens, [], unk_token="<s>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2's, Qwen's and Llama 3's kind: every byte is a token here."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    tokenizer = Tokenizer(models.BPE({letter: byte for byte, letter in letters.items()}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZERS = {
    "Llama 2": byte_fallback(strips=True),
    "Gemma": byte_fallback(strips=False),
    "byte level": byte_level(),
}


def tokens_of(tokenizer: PreTrainedTokenizerFast, text: str | bytes) -> list[int]:
    """Words as tokens where there are such, everything else as bytes."""
    data = text.encode() if isinstance(text, str) else text
    if "<0x00>" not in tokenizer.get_vocab():
        return list(data)
    ids = []
    for number, part in enumerate(data.split(b" ")):
        word = "\u2581" * bool(number) + part.decode(errors="replace")
        if part.decode(errors="ignore").encode() == part and word in tokenizer.get_vocab():
            ids.append(tokenizer.convert_tokens_to_ids(word))
        else:
            ids += [tokenizer.convert_tokens_to_ids("\u2581")] * bool(number)
            ids += [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in part]
    return ids


@pytest.mark.parametrize("name", TOKENIZERS)
def test_each_token_has_its_own_text(name):
    tokenizer = TOKENIZERS[name]
    prompt, ids = tokens_of(tokenizer, "a b"), tokens_of(tokenizer, f"b {TEXT}")[1:]
    texts = token_texts(tokenizer, prompt, ids)
    assert "".join(texts) == f" {TEXT}" and len(texts) == len(ids)
    letters = [text.strip() for text in texts if text.strip() and not text.isascii()]
    assert letters == ["答", "答", "案", "是", "é", "🙂"]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", ["a \ufffd b", "\ufffd", "\ufffd\ufffd答\ufffd", "答\ufffd案 \ufffd"])
def test_a_real_replacement_character_stays(name, text):
    tokenizer = TOKENIZERS[name]
    ids = tokens_of(tokenizer, text)
    assert "".join(token_texts(tokenizer, tokens_of(tokenizer, "a"), ids)) == text


def test_a_token_that_is_a_replacement_character_keeps_it():
    tokenizer = TOKENIZERS["Gemma"]
    ids = tokens_of(tokenizer, "a \ufffd b")
    assert token_texts(tokenizer, [], ids) == ["a", " \ufffd", " b"]


@pytest.mark.parametrize("name", ["Llama 2", "Gemma"])
def test_a_prompt_in_bytes_is_no_part_of_the_text(name):
    """Sixteen tokens before the response lies the middle of a character."""
    tokenizer = TOKENIZERS[name]
    texts = token_texts(tokenizer, tokens_of(tokenizer, "答案" * 9), tokens_of(tokenizer, "是的"))
    assert texts == ["", "", "是", "", "", "的"]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_texts_are_together_the_text_of_the_response(name, data):
    tokenizer = TOKENIZERS[name]
    piece = st.sampled_from(["a", " b", " ist", "答", "案", "🙂", "\ufffd", " "]).map(str.encode)
    piece |= st.binary(min_size=1, max_size=2)
    ids = tokens_of(tokenizer, b"a" + b"".join(data.draw(st.lists(piece, max_size=40))))
    if len(ids) == 1:  # a word of the vocabulary
        return
    prompt, ids = ids[:1], ids[1:]
    texts = token_texts(tokenizer, prompt, ids)
    whole = tokenizer.decode([*prompt, *ids])
    assert len(texts) == len(ids) and whole.endswith("".join(texts))
    assert tokenizer.decode(prompt).startswith(whole[: len(whole) - len("".join(texts))])
