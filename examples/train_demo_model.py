"""Train the small real model that the demo, the tests and the default calibration use.

The text is the Python standard library of the interpreter that runs this script: every machine that
can build n730c has it. Whole modules (``HELD_OUT``) are kept back, never trained on, and written beside
the model as ``heldout.txt``, so that the damage done by quantization can be measured.

    python examples/train_demo_model.py --steps 2400            # a Hugging Face folder in examples/demo-model
    python examples/train_demo_model.py --steps 3000 --resume   # go on from the last saved state
    python examples/train_demo_model.py --family qwen2 --corpus documentation --out build/qwen2-docs  # another model

The result is an ordinary checkpoint (grouped-query attention, tied embedding, bf16 safetensors). The other corpus is
the documentation inside the packages that n730c itself needs (NumPy, SciPy, torch): the second model of
benchmarks/quality.
Matrices are optimized with Muon (Jordan et al. 2024), the rest with AdamW; the learning rate warms up,
stays, and decays linearly over the last 30 % of the steps (WSD).
"""

from __future__ import annotations

import argparse
import ast
import math
import os
import sysconfig
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

HELD_OUT = ("statistics.py", "textwrap.py", "shelve.py", "fractions.py", "sched.py", "heapq.py", "colorsys.py")
SKIPPED_DIRS = {"test", "tests", "idle_test", "site-packages", "__pycache__", "lib2to3", "encodings", "pydoc_data"}
CONTEXT = 512  # tokens; the model is trained on sequences of exactly this length
VOCAB = 2048
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# The pattern of Llama 3's tokenizer_config (numbers in runs of at most three digits).
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

MODEL_CARD = """# The demo model

A Llama of {parameters:,} parameters (grouped-query attention, tied embedding, BF16), trained by
`examples/train_demo_model.py` on the Python standard library's sources and docstrings: {tokens_seen:,} tokens in
{args.steps:,} steps.

Perplexity on `heldout.txt` (modules that were never trained on), in windows of the context's length: **{result:.2f}**.
A uniform guess over the vocabulary: {vocab}.

The text of the standard library is copyright of the Python Software Foundation (PSF licence).
This page was written by the script.
"""


def docstrings(source: str) -> list[str]:
    """The docstrings of a module, its classes and functions, in source order."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [text for text in found if text]


def read_corpus(stdlib: Path) -> tuple[list[str], str]:
    """Training documents and the held-out text, in a fixed order."""
    training: list[str] = []
    held_out: list[str] = []
    for folder, dirs, files in os.walk(stdlib):
        dirs[:] = sorted(d for d in dirs if d not in SKIPPED_DIRS)
        for name in sorted(f for f in files if f.endswith(".py")):
            path = Path(folder) / name
            try:
                source = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            if path.parent == stdlib and name in HELD_OUT:
                held_out.append(source)
                continue
            training.append(source)
            prose = "\n\n".join(docstrings(source))
            if prose:
                training.append(prose)
    return training, "\n\n".join(held_out)


def read_documentation(packages: Path) -> tuple[list[str], str]:
    """The docstrings of NumPy, SciPy and torch, a document a module; every 40th is held out."""
    documents = []
    for name in ("numpy", "scipy", "torch"):
        for path in sorted((packages / name).rglob("*.py")):
            if "tests" in path.parts or "testing" in path.parts:
                continue
            try:
                prose = "\n\n".join(docstrings(path.read_text(encoding="utf-8")))
            except UnicodeDecodeError:
                continue
            if len(prose) > 500:
                documents.append(prose)
    held_out = documents[20::40]
    return [d for i, d in enumerate(documents) if i % 40 != 20], "\n\n".join(held_out)[:140_000]


def train_tokenizer(documents: list[str]) -> Tokenizer:
    from tokenizers import Regex

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def config(family: str) -> PretrainedConfig:
    """Every matrix dimension is a multiple of 256, so that peers' 256-wide super-blocks fit too."""
    if family == "qwen2":  # biases on q, k and v; narrower and deeper
        return Qwen2Config(
            vocab_size=VOCAB,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    return LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        attention_dropout=0.0,
    )


@torch.no_grad()
def perplexity(model: PreTrainedModel, ids: np.ndarray) -> float:
    """Perplexity over consecutive windows of CONTEXT tokens, the first token of each not scored."""
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(ids) - 1, CONTEXT):
        window = torch.from_numpy(ids[start : start + CONTEXT].astype(np.int64))[None]
        if window.shape[1] < 2:
            break
        logits = model(window, use_cache=False).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
        count += window.shape[1] - 1
    model.train()
    return math.exp(total / count)


class Muon(torch.optim.Optimizer):
    """Muon in FP32: torch.optim.Muon orthogonalizes in BF16, which CPUs without it emulate five times slower."""

    def __init__(self, params: list[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @staticmethod
    def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
        """Five quintic Newton-Schulz steps towards the nearest semi-orthogonal matrix."""
        wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
        x = wide / (wide.norm() + 1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        return x.T if matrix.shape[0] > matrix.shape[1] else x

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.lerp_(p.grad, 1 - group["momentum"])
                update = self.orthogonalized(p.grad.lerp(velocity, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def learning_rate_factor(step: int, steps: int) -> float:
    warmup, decay = 40, max(1, int(0.3 * steps))
    return min(1.0, (step + 1) / warmup, max(0.02, (steps - step) / decay))


def save(folder: Path, model: PreTrainedModel, tokenizer: Tokenizer, held_out: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    half = AutoModelForCausalLM.from_config(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    (folder / "heldout.txt").write_text(held_out, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo-model")
    parser.add_argument("--family", choices=("llama", "qwen2"), default="llama")
    parser.add_argument("--corpus", choices=("stdlib", "documentation"), default="stdlib")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=4, help=f"sequences of {CONTEXT} tokens a step")
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--adam-lr", type=float, default=2e-3)
    parser.add_argument("--state", type=Path, default=Path("build/demo-model-training.pt"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seed", type=int, default=730)
    parser.add_argument("--bf16", action="store_true", help="multiply in BF16: faster where the CPU has it")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    args.state.parent.mkdir(parents=True, exist_ok=True)
    paths = sysconfig.get_paths()
    if args.corpus == "documentation":
        documents, held_out = read_documentation(Path(np.__file__).parents[1])
    else:
        documents, held_out = read_corpus(Path(paths["stdlib"]))
    cached = args.state.with_suffix(".tokenizer.json")
    if args.resume and cached.exists():
        tokenizer = Tokenizer.from_file(str(cached))
    else:
        tokenizer = train_tokenizer(documents)
        tokenizer.save(str(cached))
    end = tokenizer.token_to_id("<|endoftext|>")
    pieces = [np.asarray([end, *e.ids], dtype=np.int32) for e in tokenizer.encode_batch(documents)]
    held_ids = np.asarray(tokenizer.encode(held_out).ids, dtype=np.int32)
    print(
        f"{len(documents)} documents, {sum(map(len, pieces)):,} tokens; "
        f"held out {len(held_out):,} characters, {len(held_ids):,} tokens"
    )

    model = AutoModelForCausalLM.from_config(config(args.family))
    print(f"{model.num_parameters():,} parameters")
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=args.muon_lr),
        torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    rates = [args.muon_lr, args.adam_lr]
    first = 0
    if args.resume and args.state.exists():
        saved = torch.load(args.state)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first = saved["step"]

    def epoch_stream(epoch: int) -> np.ndarray:
        """All documents in a new order, cut into windows, and the windows shuffled: a batch mixes many files."""
        random = np.random.default_rng(args.seed + epoch)
        stream = np.concatenate([pieces[i] for i in random.permutation(len(pieces))])
        windows = stream[: len(stream) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
        return windows[random.permutation(len(windows))].reshape(-1)

    per_step = args.batch * CONTEXT
    length = sum(map(len, pieces)) // per_step * per_step
    steps_per_epoch = length // per_step
    epoch, stream = -1, np.empty(0, dtype=np.int32)
    began, recent = time.time(), []
    for step in range(first, args.steps):
        if step // steps_per_epoch != epoch:
            epoch = step // steps_per_epoch
            stream = epoch_stream(epoch)
        at = step % steps_per_epoch * per_step
        batch = torch.from_numpy(stream[at : at + per_step].astype(np.int64)).view(args.batch, CONTEXT)
        factor = learning_rate_factor(step, args.steps)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = model(batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        recent.append(loss.item())
        if (step + 1) % 20 == 0:
            speed = (step + 1 - first) * per_step / (time.time() - began)
            left = (args.steps - step - 1) * per_step / speed
            print(
                f"step {step + 1}/{args.steps}  loss {np.mean(recent[-20:]):.3f}  {speed:,.0f} tokens/s  "
                f"{left / 60:.0f} min left",
                flush=True,
            )
        if (step + 1) % 200 == 0 or step + 1 == args.steps:
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step + 1}
            torch.save(state, args.state)
            save(args.out, model, tokenizer, held_out)
    result = perplexity(model, held_ids)
    print(f"held-out perplexity {result:.2f} (uniform over the vocabulary: {VOCAB})")
    save(args.out, model, tokenizer, held_out)
    tokens_seen = args.steps * per_step
    if args.corpus != "stdlib":
        return
    (args.out / "README.md").write_text(MODEL_CARD.format(**locals(), vocab=VOCAB, parameters=model.num_parameters()))


if __name__ == "__main__":
    main()
