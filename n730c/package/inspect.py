"""What a package holds, as plain values for ``n730c inspect``, and its kernel images as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from n730c.artifacts import NONE, GpuArch
from n730c.files import system_errors, write_whole
from n730c.package.layout import HEADER_BYTES
from n730c.package.read import Package


def describe(package: Package) -> dict[str, Any]:
    """Everything that is worth knowing, fit for JSON. Sizes and offsets in bytes."""
    program = package.program
    matrices = [t for t in program.tensors if not t.is_vector]
    weights = sum(t.rows * t.cols for t in matrices)
    return {
        "path": str(package.path),
        "file_bytes": package.file_bytes,
        "meta": package.meta,
        "vocab": program.vocab,
        "weights": weights,
        "bits_per_weight": program.bits_per_weight,
        "sections": {
            "HEADER": HEADER_BYTES,
            **{kind.name: extent.size for kind, extent in package.extents.items()},
            "segment bytes": sum(s.size for s in program.segments),
        },
        "formats": {
            fmt.name: {"tensors": len(of), "bytes": sum(t.size for t in of)}
            for fmt in sorted({t.format for t in program.tensors})
            if (of := [t for t in program.tensors if t.format == fmt])
        },
        "segments": [
            {"offset": offset, "size": s.size, "tensors": s.tensor_count}
            for s, offset in zip(program.segments, package.segment_offsets, strict=True)
        ],
        "tensors": [
            {
                "name": t.name,
                "format": t.format.name,
                "bits": t.format.bits,
                "rows": t.rows,
                "cols": t.cols,
                "size": t.size,
                "segment": package.tensor_segments[i],
                "offset": package.tensor_offsets[i],
            }
            for i, t in enumerate(program.tensors)
        ],
        "program": {
            "steps": len(program.steps),
            "head_first": program.head_first,
            "buffers": len(program.buffers),
            "caches": [{"kv_heads": c.kv_heads, "head_dim": c.head_dim} for c in program.caches],
        },
        "plans": [
            {
                "ram_bytes": p.ram_bytes,
                "vram_bytes": p.vram_bytes,
                "context": p.context,
                "batch": p.batch,
                "head_batch": p.head_batch,
                "card_batch": p.card_batch,
                "cache_bytes": sum(c.size(p.context, p.batch) for c in program.caches),
                "disk_bytes_per_token": p.disk_bytes_per_token,
                "decode_tokens_per_s": p.decode_tokens_per_s,
                "prefill_tokens_per_s": p.prefill_tokens_per_s,
                "first_token_s": p.first_token_s,
            }
            for p in package.plans
        ],
        "images": [
            {
                "isa": image.isa.name,
                "bytes": len(image.code),
                "entries": sum(entry.offset != NONE for entry in image.entries),
            }
            for image in package.images
        ],
        "kernels": [
            {
                "op": k.op.name,
                "format": k.format.name,
                "rows": k.rows,
                "cols": k.cols,
                "steps": sum(step.kernel == i for step in program.steps),
                "makers": {image.isa.name: image.entries[i].maker.name for image in package.images},
            }
            for i, k in enumerate(program.kernels)
        ],
        "card_kernels": _card_kernels(package.meta),
        "chat_template": bool(package.chat),
    }


def _card_kernels(meta: dict[str, Any]) -> list[dict[str, str]]:
    """Who made the kernels for graphics cards, as META says; nothing where it is not as a build writes it."""
    said = meta.get("gpu_kernels")
    return [
        {"image": str(image).upper(), "symbol": str(kernel.get("symbol")), "maker": str(kernel.get("maker"))}
        for image, kernels in (said.items() if isinstance(said, dict) else ())
        for kernel in (kernels if isinstance(kernels, list) else ())
        if isinstance(kernel, dict)
    ]


def extract(package: Package, folder: Path | str) -> list[Path]:
    """Write every kernel image to ``folder`` (made if missing); returns the files' paths.

    They are called ``kernels.ISA.bin``, those for graphics cards ``kernels.sm_35.cubin`` … and ``kernels.ptx``.
    Raises UsageError if they cannot be written.
    """
    folder = Path(folder)
    written = []
    with system_errors(
        f"cannot write to {folder}",
        expected="a folder with room for the images",
        hint="Name another folder with --extract.",
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for image in package.images:
            ending = "cubin" if isinstance(image.isa, GpuArch) else "bin"
            name = "ptx" if image.isa is GpuArch.PTX else f"{image.isa.name.lower()}.{ending}"
            path = folder / f"kernels.{name}"
            write_whole(path, image.code)
            written.append(path)
    return written
