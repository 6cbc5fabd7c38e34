"""The SensitivityProfile: what each tensor costs at each format, as measured; a file that names its model by hashes."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from n730c.dtypes import Format
from n730c.errors import UsageError
from n730c.files import system_errors, write_whole

_KIND = "n730c sensitivity profile"
_VERSION = 1
_MOST = 1e6  # nats: no divergence of a vocabulary is nearly as large, and sums of such stay finite
SHARE = 0.25  # of what the weights cost: 8-bit inputs may cost so much before the worst of them get 16 bits


@dataclass(frozen=True)
class SensitivityProfile:
    """Expected rise of the mean KL divergence (nats a token) of the model's output when one tensor is rounded.

    ``divergence``: by tensor and format. ``activations``: what 8-bit activations alone cost, whatever the weights;
    ``inputs``: what those of one value that matrices read cost, by its name.
    ``together``: (the sum over all tensors, what was measured with all of them rounded at once), by rising sums:
    errors that meet later in the model amount to more than their sum.
    ``sources``: SHA-256 of the model's files by name; ``text``: SHA-256 of the token ids that it was measured on.
    """

    sources: Mapping[str, str]
    text: str
    tokens: int
    method: str
    activations: float
    divergence: Mapping[str, Mapping[Format, float]]
    together: tuple[tuple[float, float], ...] = ()
    inputs: Mapping[str, float] = field(default_factory=dict)

    def predicted(self, formats: Mapping[str, Format]) -> float:
        """The KL divergence expected when each tensor of the profile has the format given, in nats."""
        return self.expected(sum(by[formats[name]] for name, by in self.divergence.items() if name in formats))

    def expected(self, total: float) -> float:
        """The KL divergence expected of tensors whose divergences have the sum ``total``, in nats."""
        known = [(math.log(parts), both / parts) for parts, both in self.together if parts > 0]
        if not known or total <= 0:
            return self.activations + total
        at = math.log(total)
        below = max((point for point in known if point[0] <= at), default=known[0])
        above = min((point for point in known if point[0] >= at), default=known[-1])
        share = (at - below[0]) / (above[0] - below[0]) if above[0] > below[0] else 0.0
        return self.activations + total * (below[1] + share * (above[1] - below[1]))

    def widened(self, weights: float, how: str = "auto") -> tuple[frozenset[str], float]:
        """The inputs that shall have 16 bits where the weights cost ``weights`` nats, and what the 8 bits of the others
        cost. ``how``: "auto", or "int8" for none and "wide" for all of them."""
        if how != "auto":
            return (frozenset(self.inputs), 0.0) if how == "wide" else (frozenset(), self.activations)
        wide: set[str] = set()
        left = total = sum(self.inputs.values())
        # Together they cost a little more or less than one by one.
        whole = self.activations / total if total > 0 else 0.0
        for name, cost in sorted(self.inputs.items(), key=lambda item: (-item[1], item[0])):
            if whole * left <= SHARE * weights:
                break
            wide.add(name)
            left -= cost
        return frozenset(wide), max(0.0, whole * left) if total > 0 else self.activations

    def to_json(self) -> str:
        return json.dumps(
            {
                "kind": _KIND,
                "version": _VERSION,
                "sources": dict(self.sources),
                "text": self.text,
                "tokens": self.tokens,
                "method": self.method,
                "activations": self.activations,
                "together": self.together,
                "inputs": dict(self.inputs),
                "divergence": {
                    name: {fmt.name.lower(): value for fmt, value in sorted(by.items())}
                    for name, by in self.divergence.items()
                },
            },
            indent=1,
        )

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises UsageError."""
        with system_errors(
            f"cannot write {path}",
            expected="room for the profile",
            hint="Name another file with --profile; the next run goes on behind what was measured.",
        ):
            write_whole(path, self.to_json().encode())


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
        raise ValueError(f"{value!r} is no divergence")
    return float(value)


def _formats(name: str, by: Mapping[str, Any]) -> dict[Format, float]:
    found = {Format[fmt.upper()]: _number(value) for fmt, value in by.items()}
    if not found or not all(fmt.is_integer for fmt in found):
        raise ValueError(f"no formats to choose from for {name}")
    return found


def read_profile(path: Path) -> SensitivityProfile:
    """A profile from a file. Raises UsageError in one line for anything that is not one."""
    hint = "Name a file that --profile wrote, or leave the option out to measure."
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or content.get("kind") != _KIND or content.get("version") != _VERSION:
            raise ValueError("another kind of file")
        divergence = {str(name): _formats(name, by) for name, by in content["divergence"].items()}
        if len({frozenset(by) for by in divergence.values()}) > 1:
            raise ValueError("tensors with different formats to choose from")
        return SensitivityProfile(
            sources={str(k): str(v) for k, v in content["sources"].items()},
            text=str(content["text"]),
            tokens=int(content["tokens"]),
            method=str(content["method"]),
            activations=_number(content["activations"]),
            divergence=divergence,
            together=tuple(sorted((_number(parts), _number(both)) for parts, both in content["together"])),
            inputs={str(name): _number(value) for name, value in content["inputs"].items()},
        )
    except OSError as error:
        raise UsageError(f"cannot read {path}", found=error.strerror or str(error), hint=hint) from error
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        what = " ".join(str(error).split())[:100]
        raise UsageError(f"{path} is no sensitivity profile", expected=_KIND, found=what, hint=hint) from error


def decides_logits(name: str) -> bool:
    """Whether what a model computes depends on this file of its folder."""
    return name in ("config.json", "tokenizer.json") or name.endswith((".safetensors", ".gguf"))


def check_profile(profile: SensitivityProfile, sources: Mapping[str, str], names: Collection[str], path: Path) -> None:
    """Refuse a profile of another model: the files that decide logits must have the same hashes. Raises UsageError.

    ``names``: the tensors that it has to speak of, and no others.
    """
    for name in sorted(profile.sources.keys() | sources.keys()):
        if decides_logits(name) and profile.sources.get(name) != sources.get(name):
            raise UsageError(
                f"{path} is the profile of another model: {name} differs",
                expected=f"SHA-256 {sources.get(name, 'none')[:16]}…",
                found=f"{profile.sources.get(name, 'none')[:16]}…",
                hint="Leave --profile out to measure this one.",
            )
    for name in sorted(profile.divergence.keys() ^ set(names)):
        raise UsageError(
            f"{path} was not made for this model as it is read here: {name}",
            expected="measured" if name in names else "not measured",
            found="measured" if name in profile.divergence else "not measured",
            hint="Leave --profile out to measure again.",
        )
