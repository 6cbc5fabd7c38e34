"""The small family of errors that a user can cause; the command line prints each as one line."""

from __future__ import annotations


class N730Error(Exception):
    """Base: ``WHAT (expected …, found …). NEXT STEP`` — say all of it in the message."""

    def __init__(self, what: str, *, expected: str = "", found: str = "", hint: str = "") -> None:
        inner = ", ".join(part for part in (expected and f"expected {expected}", found and f"found {found}") if part)
        if not what.endswith((" .", "..")):  # which are folders
            what = what.rstrip(".")
        text = what + (f" ({inner})" if inner else "") + "." + (f" {hint}" if hint else "")
        super().__init__(" ".join(text.split()))


class UnsupportedModel(N730Error):
    """The model holds something that the compiler does not understand, or its files are damaged."""

    def __init__(self, what: str, *, expected: str = "", found: str = "", hint: str = "") -> None:
        hint = hint or "Check the model's files, or take another model."
        super().__init__(what, expected=expected, found=found, hint=hint)


class InvalidIR(N730Error):
    """A graph or a program breaks a rule of its own form: a bug in a pass, never the user's fault."""


class BudgetExceeded(N730Error):
    """No plan fits the memory, the size or the time asked for."""


class PackageError(N730Error):
    """A ``.n730`` file that breaks FORMAT.md. ``code`` is one of the codes listed there (``E_MAGIC`` …)."""

    def __init__(self, code: str, what: str, *, expected: str = "", found: str = "", hint: str = "") -> None:
        self.code = code
        super().__init__(f"{code}: {what}", expected=expected, found=found, hint=hint)


class ToolchainError(N730Error):
    """A compiler, linker or library that a build needs is missing or failed."""


class UsageError(N730Error):
    """An option or a file named on the command line does not fit (exit 1; a malformed line exits 2)."""
