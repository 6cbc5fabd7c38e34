"""The intermediate representation: about twenty ops over [tokens, features] values."""
