"""The peer's side of versus_llama_cpp.py; runs in the environment that has llama-cpp-python and gguf.

make FILE TYPE hidden ffn layers heads kv_heads vocab     a random GGUF of this Llama shape
bench FILE threads prompt_tokens gen_tokens               one JSON line with prefill and decode tokens/s
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np


def make(path: Path, kind: str, hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, vocab: int) -> None:
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

    quantization = getattr(gguf.GGMLQuantizationType, kind)

    def matrix(name: str, rows: int, cols: int) -> None:
        values = random.standard_normal((rows, cols), dtype=np.float32) * 0.02
        if kind == "F16":
            writer.add_tensor(name, values.astype(np.float16))
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, quantization), raw_dtype=quantization)

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


def bench(path: Path, threads: int, prompt_tokens: int, gen_tokens: int) -> None:
    from llama_cpp import Llama

    llm = Llama(
        str(path), n_ctx=1024, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False, logits_all=False
    )
    prompt = [3 + i % 1000 for i in range(prompt_tokens)]
    llm.eval(prompt[:8])
    llm.reset()
    began = time.perf_counter()
    llm.eval(prompt)
    prefilled = time.perf_counter()
    for i in range(gen_tokens):
        llm.eval([5 + i])
    ended = time.perf_counter()
    result = {
        "prefill_tokens_per_s": prompt_tokens / (prefilled - began),
        "decode_tokens_per_s": gen_tokens / (ended - prefilled),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
    else:
        bench(Path(sys.argv[2]), *map(int, sys.argv[3:]))
