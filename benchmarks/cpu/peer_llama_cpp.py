"""The peer's side of versus_llama_cpp.py; runs in the environment that has llama-cpp-python and gguf.

make FILE hidden ffn layers heads kv_heads vocab      a random F16 GGUF of this Llama shape
quantize FROM TO TYPE                                 as llama-quantize does by default: Q4_0, Q4_K_M, Q8_0, Q2_K
bench FILE threads prompts gen_tokens                 one JSON line: prefill tokens/s of each of the prompts' lengths
                                                      (comma-separated), and decode tokens/s behind the first
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np


def make(path: Path, hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, vocab: int) -> None:
    import gguf

    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{i}>".encode() for i in range(vocab)])
    writer.add_token_scores([0.0] * vocab)
    writer.add_token_types([2, 3, 3] + [1] * (vocab - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def matrix(name: str, rows: int, cols: int) -> None:
        values = random.standard_normal((rows, cols), dtype=np.float32) * np.float32(0.02)
        writer.add_tensor(name, values.astype(np.float16))

    kv = hidden // heads * kv_heads
    matrix("token_embd.weight", vocab, hidden)
    for i in range(layers):
        for name, rows, cols in (
            ("attn_q", hidden, hidden),
            ("attn_k", kv, hidden),
            ("attn_v", kv, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_gate", ffn, hidden),
            ("ffn_up", ffn, hidden),
            ("ffn_down", hidden, ffn),
        ):
            matrix(f"blk.{i}.{name}.weight", rows, cols)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{name}.weight", np.ones(hidden, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(hidden, dtype=np.float32))
    matrix("output.weight", vocab, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, path: Path, kind: str) -> None:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = {"Q4_0": 2, "Q8_0": 7, "Q2_K": 10, "Q4_K_M": 15}[kind]  # LLAMA_FTYPE_MOSTLY_…
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), params)
    if code:
        raise SystemExit(f"llama_model_quantize gave {code}")


def bench(path: Path, threads: int, prompts: list[int], gen_tokens: int) -> None:
    from llama_cpp import Llama

    llm = Llama(
        str(path), n_ctx=1024, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False, logits_all=False
    )
    ids = [3 + i % 1000 for i in range(max(prompts))]
    llm.eval(ids[:8])
    result = {}
    for n in sorted(prompts, reverse=True):
        llm.reset()
        began = time.perf_counter()
        llm.eval(ids[:n])
        result[f"prefill_{n}"] = n / (time.perf_counter() - began)
    began = time.perf_counter()
    for i in range(gen_tokens):
        llm.eval([5 + i])
    result["decode"] = gen_tokens / (time.perf_counter() - began)
    print(json.dumps(result))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "make":
        make(Path(arguments[0]), *map(int, arguments[1:]))
    elif command == "quantize":
        quantize(Path(arguments[0]), Path(arguments[1]), arguments[2])
    else:
        prompts = [int(n) for n in arguments[2].split(",")]
        bench(Path(arguments[0]), int(arguments[1]), prompts, int(arguments[3]))
