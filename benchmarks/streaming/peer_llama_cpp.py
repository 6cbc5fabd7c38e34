"""The peer's side of the streaming benchmark; runs in the environment that has llama-cpp-python and gguf.

make FILE TYPE hidden ffn layers heads kv_heads vocab     a GGUF of this Llama shape, all layers alike
bench FILE threads context gen_tokens                     one JSON line with decode tokens/s

Weights are mapped (mmap) and not repacked: the only way in which llama.cpp survives in less memory than the file.
"""

from __future__ import annotations

import json
import resource
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
    made: dict[tuple[int, int], np.ndarray] = {}  # one random matrix a shape: memory and time stay small

    def matrix(name: str, rows: int, cols: int) -> None:
        if (rows, cols) not in made:
            values = random.standard_normal((rows, cols), dtype=np.float32) * np.float32(0.02)
            made[rows, cols] = (
                values.astype(np.float16) if kind == "F16" else gguf.quants.quantize(values, quantization)
            )
        raw = None if kind == "F16" else quantization
        writer.add_tensor(name, made[rows, cols], raw_dtype=raw)

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


def bytes_read() -> int:
    """What this process has read from the disk so far (page faults included), by the kernel's count."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["read_bytes"])


def bench(path: Path, threads: int, context: int, gen_tokens: int) -> None:
    from llama_cpp import Llama, llama_cpp

    defaults = llama_cpp.llama_model_default_params

    def not_repacked():
        params = defaults()
        params.use_extra_bufts = False
        return params

    llama_cpp.llama_model_default_params = not_repacked
    # n_batch: the binding keeps that many rows of logits in memory.
    llm = Llama(str(path), n_ctx=context, n_threads=threads, n_threads_batch=threads, n_batch=16, verbose=False)
    llm.eval([3, 4])  # so that the cap is reached before the clock starts
    before = bytes_read()
    began = time.perf_counter()
    for i in range(gen_tokens):
        llm.eval([5 + i])
    seconds = time.perf_counter() - began
    result = {
        "decode_tokens_per_s": gen_tokens / seconds,
        "disk_bytes_per_token": (bytes_read() - before) / gen_tokens,
        "disk_bytes_per_s": (bytes_read() - before) / seconds,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
    else:
        bench(Path(sys.argv[2]), *map(int, sys.argv[3:]))
