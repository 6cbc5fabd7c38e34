"""n730c compiles Hugging Face causal language models for yesterday's PCs."""
