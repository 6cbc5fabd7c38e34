"""The PCs that n730c knows: one TOML file each."""
