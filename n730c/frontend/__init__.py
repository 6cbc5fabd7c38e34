"""From a Hugging Face folder to the IR: weights, tracing, canonicalization, tokenizer."""
