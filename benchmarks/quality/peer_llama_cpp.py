"""The peer's side of quality.py; runs in the environment that has llama-cpp-python and gguf.

make SUBJECT.npz FILE            a GGUF in FP32 of a model (llama, qwen2) that quality.py laid out as arrays
quantize SUBJECT.npz FROM TO TYPE    as llama-quantize --imatrix does; the importance matrix is in the subject: the mean
                                 square of every input of every matrix over the calibration text, which is what the
                                 peer's own tool collects
logits FILE IDS.npy OUT.npy      float32 [windows, tokens, vocab] by the peer's own runtime
size FILE                        one JSON line: bytes of all tensors, of the file, and how many matrices have which type
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import numpy as np

TYPES = {  # LLAMA_FTYPE_MOSTLY_…
    "Q8_0": 7, "Q2_K": 10, "Q3_K_M": 12, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18,
    "IQ2_XS": 20, "IQ3_XXS": 23, "IQ3_S": 26, "IQ2_M": 29, "IQ4_XS": 30,
}  # fmt: skip
_PARTS = {
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
_WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def peer_name(name: str) -> str:
    """The peer's name of a tensor."""
    if name in _WHOLE:
        return _WHOLE[name]
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_PARTS[part]}.{kind}"


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head from rotate-half to interleaved order, which the peer's Llama rotates."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def make(subject: Path, path: Path) -> None:
    import gguf

    arrays = np.load(subject)
    config = json.loads(str(arrays["config"]))
    hidden, heads, kv_heads = (
        config[f"{key}"] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads")
    )
    head_dim = config.get("head_dim") or hidden // heads
    writer = gguf.GGUFWriter(path, config["model_type"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    vocab = config["vocab_size"]
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{i}>".encode() for i in range(vocab)])
    writer.add_token_scores([0.0] * vocab)
    writer.add_token_types([2, 3, 3] + [1] * (vocab - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for key in arrays.files:
        if not key.startswith("weight:"):
            continue
        name, weight = key.removeprefix("weight:"), arrays[key]
        if config["model_type"] == "llama" and ".q_proj." in name:
            weight = interleaved(weight, heads)
        if config["model_type"] == "llama" and ".k_proj." in name:
            weight = interleaved(weight, kv_heads)
        writer.add_tensor(peer_name(name), weight.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(subject: Path, source: Path, path: Path, kind: str) -> None:
    import llama_cpp

    arrays = np.load(subject)
    keys = [key for key in arrays.files if key.startswith("importance:")]
    table = (llama_cpp.llama_model_imatrix_data * (len(keys) + 1))()
    kept = []
    for entry, key in zip(table, keys, strict=False):
        values = np.ascontiguousarray(arrays[key], dtype=np.float32)
        name = peer_name(key.removeprefix("importance:")).encode()
        kept += [values, name]
        entry.name, entry.size = name, values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = TYPES[kind]
    params.imatrix = table
    if code := llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), params):
        raise SystemExit(f"llama_model_quantize gave {code}")


def logits(path: Path, ids_file: Path, out: Path) -> None:
    from llama_cpp import Llama

    ids = np.load(ids_file)
    length = ids.shape[1]
    model = Llama(str(path), n_ctx=length, n_batch=length, verbose=False, logits_all=True)
    rows = []
    for window in ids:
        model.reset()
        model.eval(window.tolist())
        rows.append(np.array(model.scores[:length], dtype=np.float32))
    np.save(out, np.stack(rows))


def size(path: Path) -> None:
    import gguf

    tensors = gguf.GGUFReader(path).tensors
    types: dict[str, int] = {}
    for tensor in tensors:
        if len(tensor.shape) == 2:
            types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    total = sum(int(t.n_bytes) for t in tensors)
    print(json.dumps({"tensor_bytes": total, "file_bytes": path.stat().st_size, "types": types}))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "make":
        make(Path(arguments[0]), Path(arguments[1]))
    elif command == "quantize":
        quantize(Path(arguments[0]), Path(arguments[1]), Path(arguments[2]), arguments[3])
    elif command == "logits":
        logits(Path(arguments[0]), Path(arguments[1]), Path(arguments[2]))
    else:
        size(Path(arguments[0]))
