"""Checkpoints that store each expert by itself, seen as the model sees them: all experts of a layer in one tensor.

Which names belong together is transformers' own table; of its operations only stacking experts and joining gate and up
are understood, which is all that models with experts of the usual kind need.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from transformers import conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter, WeightRenaming

from n730c.dtypes import Format
from n730c.errors import UnsupportedModel
from n730c.frontend.checkpoint import Array, Checkpoint, Entry, RawTensor

_Parts = tuple[tuple[str, ...], ...]  # names of one expert's tensors, expert by expert


@dataclass(frozen=True)
class StackedCheckpoint(Checkpoint):
    """``inner`` under the model's names. ``stacks``: tensors [experts, rows, cols] that are stored in parts."""

    inner: Checkpoint
    aliases: Mapping[str, str]
    stacks: Mapping[str, _Parts]

    @property
    def name(self) -> str:
        return self.inner.name

    def format(self, name: str) -> Format:
        return self.inner.format(self._stored(name))

    def raw(self, name: str) -> RawTensor:
        if name in self.stacks:
            return RawTensor(Format.F32, self.tensor(name))
        return self.inner.raw(self._stored(name))

    def tensor(self, name: str) -> Array:
        if name not in self.stacks:
            return self.inner.tensor(self._stored(name))
        return np.stack([self._expert(name, e) for e in range(self.shape(name)[0])])

    def rows(self, name: str, rows: slice) -> Array:
        """Rows of one expert are read without the others."""
        if name not in self.stacks or rows.start is None:
            return super().rows(name, rows)
        height = self.shape(name)[1]
        expert = rows.start // height
        if rows.stop > (expert + 1) * height:
            return super().rows(name, rows)
        return self._expert(name, expert)[rows.start - expert * height : rows.stop - expert * height]

    def equal(self, a: str, b: str) -> bool:
        return a not in self.stacks and b not in self.stacks and self.inner.equal(self._stored(a), self._stored(b))

    def sha256(self) -> dict[str, str]:
        return self.inner.sha256()

    def _stored(self, name: str) -> str:
        self.shape(name)  # raises if there is none
        return self.stacks[name][0][0] if name in self.stacks else self.aliases.get(name, name)

    def _expert(self, name: str, expert: int) -> Array:
        """f32[rows, cols]"""
        return np.concatenate([self.inner.tensor(part) for part in self.stacks[name][expert]])


def stacked(checkpoint: Checkpoint) -> Checkpoint:
    """``checkpoint`` under the names of its model, if that has experts; else itself. Raises UnsupportedModel."""
    rules = conversion_mapping.get_checkpoint_conversion_mapping(checkpoint.config.get("model_type")) or []
    merges = [rule for rule in rules if isinstance(rule, WeightConverter) and _merges_experts(rule)]
    if not merges:
        return checkpoint
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    entries: dict[str, Entry] = {}
    aliases: dict[str, str] = {}
    found: dict[str, dict[int, dict[int, str]]] = {}  # stack → expert → source → stored name
    for stored, entry in checkpoint.entries.items():
        name = stored
        for rule in renamings:
            for source, target in zip(rule.source_patterns, rule.target_patterns, strict=False):
                name = re.sub(source, target, name)
        place = _place(merges, name)
        if place is None:
            entries[name], aliases[name] = entry, stored
        else:
            stack, expert, source = place
            found.setdefault(stack, {}).setdefault(expert, {})[source] = stored
    stacks = {}
    for stack, experts in found.items():
        stacks[stack], entries[stack] = _stack(checkpoint, stack, experts)
    return StackedCheckpoint(
        checkpoint.folder, checkpoint.config, checkpoint.generation, entries, checkpoint, aliases, stacks
    )


def _merges_experts(rule: WeightConverter) -> bool:
    kinds = [type(operation) for operation in rule.operations]
    return kinds in ([MergeModulelist], [MergeModulelist, Concatenate])


def _place(merges: list[WeightConverter], name: str) -> tuple[str, int, int] | None:
    """The stack that a stored tensor is part of, its expert, and which of the parts it is."""
    for rule in merges:
        for source, pattern in enumerate(rule.source_patterns):
            match = re.search(re.escape(pattern).replace(r"\*", r"(\d{1,6})") + "$", name)
            if match:
                target = rule.target_patterns[0]
                return name[: match.start()] + target, int(match[1]), source
    return None


def _stack(checkpoint: Checkpoint, stack: str, experts: dict[int, dict[int, str]]) -> tuple[_Parts, Entry]:
    sources = max(len(parts) for parts in experts.values())
    parts: list[tuple[str, ...]] = []
    first = checkpoint.entries[experts[min(experts)][min(experts[min(experts)])]]
    for expert in range(max(experts) + 1):
        names = experts.get(expert, {})
        if sorted(names) != list(range(sources)):
            raise UnsupportedModel(
                f"{stack}: expert {expert} is not whole",
                expected=f"{sources} tensors an expert",
                found=", ".join(names.values()) or "none",
                hint="Fetch the missing file.",
            )
        for name in names.values():
            entry = checkpoint.entries[name]
            if entry.shape != first.shape or len(entry.shape) != 2:
                raise UnsupportedModel(
                    f"tensor {name}: shape", expected=str(list(first.shape)), found=str(list(entry.shape))
                )
        parts.append(tuple(names[source] for source in range(sources)))
    rows, cols = first.shape
    shape = (len(parts), rows * sources, cols)
    return tuple(parts), replace(first, shape=shape)
