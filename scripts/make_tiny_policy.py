"""Make a tiny policy, of a million parameters or fewer: a character-level Llama that is partly trained on a task.

    python scripts/make_tiny_policy.py --output recipes/countdown_tiny/policy
    python scripts/make_tiny_policy.py --task paths --output recipes/paths_tiny/policy
    python scripts/make_tiny_policy.py --task products --output recipes/tools_tiny/policy
    python scripts/make_tiny_policy.py --task relay --output recipes/relay_tiny/policy

The policy is warm-started on demonstrations of two players (players.py), first of the careful one alone, then for a
short while of both. On Countdown its most likely response is then a hasty one: reinforcement learning has to find out
that the careful opening pays, and to play better than the demonstrations taught. On paths the careful response stays
the most likely one; two samples of three are hasty ones. On products they are turns of a conversation, with a chat
template that has a tool. On relay the players take equal turns for most of the time, and the hasty one nearly all of
them at the end: the policy then names any key, but still knows how to copy the prompt's first. No demonstration uses a
held-out instance of the recipe's task options.
"""

from __future__ import annotations

import argparse
import functools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from players import countdown_pair, paths_pair, products_pair, relay_pair
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlcredit.evaluation.prompts import PromptRenderer
from rlcredit.tasks import TASKS, TaskData

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
CHAT_TAGS = ("<user>", "<assistant>", "<tool>", "<call>", "</call>", "calculator", "expression")
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function.name }}"
    "{% for name, value in call.function.arguments.items() %} {{ name }}={{ value }}{% endfor %}</call>{% endfor %}"
    "{% if m.role == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
RESPONSE_TEMPLATE = {  # how transformers reads a call out of a response
    "defaults": {"role": "assistant"},
    "start_anchor": "<assistant>",
    "fields": {
        "tool_calls": {
            "open_pattern": r"<call>(?P<name>\w+) ",
            "close": "</call>",
            "repeats": True,
            "content": "kv-lines",
            "content_args": {"line_sep": " ", "kv_sep": "="},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": "<eos>", "content": "text"},
    },
}
CHARACTERS = ("\n", *(chr(code) for code in range(ord(" "), ord("~") + 1)))
BATCHES_SORTED = 16
COURSE = {"careful_steps": int, "mixed_steps": int, "mixed_learning_rate": float, "hasty_share": float}


def make_tokenizer(chat: bool = False) -> PreTrainedTokenizerFast:
    """One token a character (printable ASCII and the line break) and one a tag; decoding gives the text back exactly.

    With `chat` there are tokens for the parts of a conversation with a calculator, and its template. The tags are
    added tokens but no special ones: rewards read text decoded without special tokens.
    """
    vocabulary = {token: index for index, token in enumerate(("<pad>", "<eos>", "<unk>", *CHARACTERS))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens(
        [AddedToken(tag, special=False, normalized=False) for tag in (TAGS + CHAT_TAGS if chat else TAGS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
        **({"chat_template": CHAT_TEMPLATE, "response_template": RESPONSE_TEMPLATE} if chat else {}),
    )


def make_policy(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> LlamaForCausalLM:
    """An untrained Llama, two query heads of 16 on each key-value head; six layers of width 128: 1 M parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=5 * width // 2,
        num_hidden_layers=layers,
        num_attention_heads=width // 16,
        num_key_value_heads=width // 32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True)
class Lesson:
    """What a task is taught by.

    Attributes:
        options: the task's; held-out and validation instances are those of its recipes.
        pair: prompt and response of a row, of the hasty or the careful player.
        careful_steps: steps with the careful player alone.
        equal_steps: steps after them, at the same learning rate, in which both players take half of the turns.
        mixed_steps: steps with both players after that.
        mixed_learning_rate: of these.
        hasty_share: share of the hasty player in them. On relay it sets how often the policy is right at the start.
        careful_mark: what responses of the careful player have, and those of the hasty one have not; None where only
            being right tells them apart.
        chat: whether prompts are conversations; then only the first turn is reported.
        max_new_tokens: longer than any response.
        width: of the policy.
        layers: of the policy.
    """

    options: dict
    pair: Callable[[dict, bool, random.Random], tuple[str, str]]
    careful_steps: int
    equal_steps: int = 0
    mixed_steps: int = 250
    mixed_learning_rate: float = 1e-3
    hasty_share: float = 0.55
    careful_mark: str | None = ":"
    chat: bool = False
    max_new_tokens: int = 56
    width: int = 128
    layers: int = 6


LESSONS = {
    "countdown": Lesson(
        {
            "numbers": [3],
            "max_number": 12,
            "max_target": 60,
            "num_train": 3_400,
            "num_test": 512,
            "prompt_style": "compact",
        },
        countdown_pair,
        careful_steps=1_600,
    ),
    "paths": Lesson(
        {"length": [4, 5], "dead_ends": 2, "num_train": 20_000, "num_validation": 256, "num_test": 512},
        paths_pair,
        careful_steps=2_400,
    ),
    "products": Lesson(
        {"digits": 2, "num_train": 6_000, "num_test": 256},
        products_pair,
        careful_steps=600,
        careful_mark="<call>",
        chat=True,
    ),
    "relay": Lesson(
        {"fillers": [8, 24, 64], "num_train": 20_000, "num_validation": 256, "num_test": 512},
        relay_pair,
        careful_steps=100,
        equal_steps=900,
        mixed_steps=150,
        hasty_share=0.88,
        careful_mark=None,
        max_new_tokens=80,
        width=64,
        layers=3,
    ),
}


def demonstration_batches(
    lesson: Lesson,
    rows: list[dict],
    hasty_share: float,
    tokenizer: PreTrainedTokenizerFast,
    rng: random.Random,
    batch_size: int,
) -> Iterator[dict[str, torch.Tensor]]:
    """Endless batches of fresh demonstrations, each of similar lengths so that little of the work is padding."""

    while True:
        chosen = rng.sample(rows, min(len(rows), BATCHES_SORTED * batch_size))
        pairs = [lesson.pair(row, rng.random() < hasty_share, rng) for row in chosen]
        pairs.sort(key=lambda texts: len(texts[0]) + len(texts[1]))
        batches = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
        rng.shuffle(batches)
        yield from (collate(batch, tokenizer) for batch in batches)


def collate(demonstrations: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """Pairs of prompt and response, right-padded: `input_ids`, `attention_mask`, `labels`, all [batch, tokens].

    Labels are -100 on prompts and padding, so only responses, with their end token, are learned.
    """
    prompts, responses = (tokenizer(list(texts))["input_ids"] for texts in zip(*demonstrations, strict=True))
    tokens = [torch.tensor([*p, *r, tokenizer.eos_token_id]) for p, r in zip(prompts, responses, strict=True)]
    labels = [t.masked_fill(torch.arange(len(t)) < len(p), -100) for t, p in zip(tokens, prompts, strict=True)]
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad(tokens, batch_first=True, padding_value=tokenizer.pad_token_id)
    return {
        "input_ids": ids,
        "attention_mask": (ids != tokenizer.pad_token_id).long(),
        "labels": pad(labels, batch_first=True, padding_value=-100),
    }


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates (Jordan et al., 2024) for matrices, in float32.

    Here it needs less than half of AdamW's steps. `torch.optim.Muon` computes in bfloat16, which takes seconds a step
    on a CPU without bfloat16 instructions. The factor 0.2 * sqrt(longer side) gives an update the size of AdamW's
    (Liu et al., arXiv 2502.16982), so one learning rate serves both.
    """

    def __init__(
        self, matrices: Iterable[torch.Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for matrix in group["params"]:
                average = self.state[matrix].setdefault("average", torch.zeros_like(matrix))
                average.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalised(matrix.grad.lerp(average, group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-0.2 * math.sqrt(max(matrix.shape)) * group["lr"])


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with its singular values brought near 1, by five Newton-Schulz steps of the fifth degree."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix  # the smaller Gram matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def make_optimizers(policy: LlamaForCausalLM, learning_rate: float) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    layers = set(policy.model.layers.parameters())
    matrices = [parameter for parameter in policy.parameters() if parameter in layers and parameter.ndim == 2]
    others = [parameter for parameter in policy.parameters() if parameter not in layers or parameter.ndim != 2]
    return Muon(matrices, learning_rate), torch.optim.AdamW(others, learning_rate, betas=(0.9, 0.98), weight_decay=0.0)


def warm_start(
    policy: LlamaForCausalLM,
    batches: Iterable[dict[str, torch.Tensor]],
    steps: int,
    learning_rate: float,
) -> None:
    """Supervised learning on that many batches, with linear warm-up and cosine decay of the learning rate."""
    optimizers = make_optimizers(policy, learning_rate)
    rate = functools.partial(_learning_rate, steps=steps)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    policy.train()
    start = time.perf_counter()
    for step, batch in zip(range(1, steps + 1), batches, strict=False):
        loss = policy(**batch).loss
        policy.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        if step % 100 == 0:
            print(f"step {step}  loss {loss.item():.4f}  {time.perf_counter() - start:.0f} s", flush=True)


def _learning_rate(step: int, steps: int, warm_up: int = 50) -> float:
    """Factor on the learning rate: linear up to `warm_up`, then half a cosine down to a twentieth."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


@torch.no_grad()
def respond(
    policy: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Iterable[str],
    max_new_tokens: int,
    temperature: float = 0.0,
) -> list[str]:
    """One response a prompt, as text without special tokens; greedy at temperature 0."""
    policy.eval()
    inputs = tokenizer(list(prompts), padding=True, return_tensors="pt", return_token_type_ids=False)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    output = policy.generate(**inputs, **sampling, max_new_tokens=max_new_tokens)
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def report(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, task: TaskData, lesson: Lesson) -> None:
    """Print held-out accuracy and the share of careful responses, greedy and sampled."""
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        rows = next(iter(task.tests.values()))
        prompts = PromptRenderer(tokenizer).texts(list(rows["prompt"]))
        responses = respond(policy, tokenizer, prompts, lesson.max_new_tokens, temperature)
        line = f"held-out {name}: accuracy {_share(v.correct for v in task.check(responses, rows.to_list()))}"
        if lesson.careful_mark is not None:
            line += f", careful {_share(lesson.careful_mark in response for response in responses)}"
        print(line, flush=True)


def _share(of: Iterable[float]) -> str:
    return f"{statistics.mean(of):.3f}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=list(LESSONS), default="countdown", help="the task to demonstrate")
    parser.add_argument("--output", type=Path, required=True, help="folder to write the policy to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=64, help="demonstrations a step")
    parser.add_argument("--careful_learning_rate", type=float, default=4e-3)
    for name, kind in COURSE.items():
        parser.add_argument(f"--{name}", type=kind, help=f"in place of the task's {name}")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    rng = random.Random(arguments.seed)
    given = {name: value for name in COURSE if (value := vars(arguments)[name]) is not None}
    lesson = replace(LESSONS[arguments.task], **given)
    task = TASKS[arguments.task](lesson.options)
    rows = task.train.to_list()
    tokenizer = make_tokenizer(lesson.chat)
    policy = make_policy(tokenizer, lesson.width, lesson.layers)
    print(f"{policy.num_parameters():,} parameters")
    for hasty_share, steps, learning_rate in (
        (0.0, lesson.careful_steps, arguments.careful_learning_rate),
        (0.5, lesson.equal_steps, arguments.careful_learning_rate),
        (lesson.hasty_share, lesson.mixed_steps, lesson.mixed_learning_rate),
    ):
        if not steps:
            continue
        batches = demonstration_batches(lesson, rows, hasty_share, tokenizer, rng, arguments.batch_size)
        warm_start(policy, batches, steps, learning_rate)
        report(policy, tokenizer, task, lesson)
    policy.to(torch.bfloat16).save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output, save_jinja_files=False)
    print(f"saved to {arguments.output}; as saved (bfloat16):")
    report(LlamaForCausalLM.from_pretrained(arguments.output, dtype=torch.float32), tokenizer, task, lesson)


if __name__ == "__main__":
    main()
