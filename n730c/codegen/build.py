"""Kernel specs to one flat image: compile each maker's candidate, take the faster, link the winners."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from n730c.artifacts import NONE, Entry, Isa, KernelImage, KernelSpec, Maker, StepOp
from n730c.codegen import tvm
from n730c.codegen.image import compile_c, link
from n730c.codegen.native import LoadedImage, host_isa
from n730c.codegen.render import render, template_folder
from n730c.codegen.select import ChoiceCache, cache_folder, cpu_name, default_maker, faster
from n730c.codegen.tune import measure
from n730c.dtypes import Format

Progress = Callable[[int, int, str], None]  # (done, total, note)


@dataclass(frozen=True)
class Choice:
    """Which maker's kernel a spec got, and the measured seconds of a one-token call (empty: the recorded default)."""

    spec: KernelSpec
    maker: Maker
    seconds: tuple[tuple[Maker, float], ...] = ()

    def __str__(self) -> str:
        times = ", ".join(f"{maker.name} {1e6 * value:.0f} µs" for maker, value in self.seconds)
        return f"{_title(self.spec)}: {self.maker.name}" + (f" ({times})" if times else "")


def _title(spec: KernelSpec) -> str:
    return f"{spec.format.name} {spec.rows} × {spec.cols}"


def symbol(spec: KernelSpec, maker: Maker) -> str:
    """Name of a kernel's entry."""
    return f"linear_{spec.format.name.lower()}_{spec.rows}x{spec.cols}_{maker.name.lower()}"


def makers(spec: KernelSpec, isa: Isa) -> tuple[Maker, ...]:
    """Who can make this kernel. Empty: nobody, the runtime's built-in kernel serves it."""
    if spec.op is not StepOp.LINEAR or spec.format is Format.F32:
        return ()
    return (Maker.TEMPLATE, Maker.TVM) if isa is Isa.AVX2 and tvm.supports(spec) else (Maker.TEMPLATE,)


class Workshop:
    """Compiles and links kernels of one instruction set; intermediate files stay in ``folder``."""

    def __init__(self, specs: Iterable[KernelSpec], isa: Isa, folder: Path) -> None:
        """Compiles the templates' side of ``specs``, all that ``link`` may be asked for. Raises ToolchainError."""
        self.isa, self.folder = isa, folder
        self._bodies: dict[KernelSpec, Path] = {}
        self._templates = folder / "templates.o"
        kernels = [self._parameters(spec, Maker.TEMPLATE) for spec in dict.fromkeys(specs)]
        compile_c(render("linear.c.j2", kernels=kernels), self._templates, isa)

    @staticmethod
    def _parameters(spec: KernelSpec, maker: Maker) -> dict[str, str | int]:
        return {
            "symbol": symbol(spec, maker),
            "template": symbol(spec, Maker.TEMPLATE),
            "body": symbol(spec, Maker.TVM) + "_body",
            "format": spec.format.name,
            "rows": spec.rows,
            "cols": spec.cols,
        }

    def _body(self, spec: KernelSpec) -> Path:
        if spec not in self._bodies:
            name = str(self._parameters(spec, Maker.TVM)["body"])
            tvm.compile_kernel(spec, name, self.folder / f"{name}.o")
            self._bodies[spec] = self.folder / f"{name}.o"
        return self._bodies[spec]

    def link(self, wanted: Iterable[tuple[KernelSpec, Maker]]) -> tuple[bytes, dict[str, int]]:
        """A flat image with these kernels: ``(code, offset of each entry by name)``. Raises ToolchainError.

        TVM's kernels bring the template's along, which serves the calls with several tokens.
        """
        wanted = tuple(dict.fromkeys(wanted))
        objects = [self._templates]
        by_tvm = [spec for spec, maker in wanted if maker is Maker.TVM]
        if by_tvm:
            adapters = self.folder / "adapters.o"
            kernels = [self._parameters(spec, Maker.TVM) for spec in by_tvm]
            compile_c(render("linear_tvm.c.j2", kernels=kernels), adapters, self.isa)
            objects += [adapters, *(self._body(spec) for spec in by_tvm)]
        return link(objects, [symbol(spec, maker) for spec, maker in wanted], self.folder)


def _cache_key(spec: KernelSpec, isa: Isa) -> str:
    """Changes with the CPU, the shape and every source that the kernels are made of."""
    sources = hashlib.sha256()
    for file in sorted(file for file in template_folder().iterdir() if file.is_file()):
        sources.update(file.name.encode() + b"\0" + file.read_bytes())
    return f"{cpu_name()} | {isa.name} | {_title(spec)} | {sources.hexdigest()[:16]}"


def _measurements(
    workshop: Workshop, specs: list[KernelSpec], report: Callable[[str], None]
) -> Mapping[KernelSpec, Mapping[Maker, float]]:
    """Seconds of each maker's kernel, from the cache or by running them here."""
    cache, isa = ChoiceCache(cache_folder()), workshop.isa
    known = {spec: cache.get(_cache_key(spec, isa)) for spec in specs}
    new = [spec for spec in specs if set(known[spec] or ()) != set(makers(spec, isa))]
    if new:
        report("compiling")
        code, offsets = workshop.link((spec, maker) for spec in new for maker in makers(spec, isa))
        try:
            image = LoadedImage(code)
        except OSError:  # a hardened system lets no memory become executable: the defaults serve
            return {}
        with image:
            for spec in new:
                report(f"timing {_title(spec)}")
                able = {maker: image.kernel(offsets[symbol(spec, maker)]) for maker in makers(spec, isa)}
                seconds = measure(spec, able)
                cache.put(_cache_key(spec, isa), seconds)
                known[spec] = seconds
    return {spec: seconds for spec, seconds in known.items() if seconds}


def make_kernels(
    kernels: tuple[KernelSpec, ...], isa: Isa, tune: bool, progress: Progress | None = None
) -> tuple[tuple[KernelImage, ...], tuple[Choice, ...]]:
    """One image for ``isa`` with a kernel for each spec that a maker can serve, and the choices made, with timings.

    ``tune``: time the makers here if this CPU runs ``isa`` (about a second a kernel, remembered in ``cache_folder()``);
    otherwise the recorded defaults are taken. Equal choices give equal bytes. No image at all if no spec can be served.
    Raises ToolchainError if gcc, binutils or TVM is missing or fails.
    """
    served = [spec for spec in dict.fromkeys(kernels) if makers(spec, isa)]
    if not served:
        return (), ()
    done = 0

    def report(note: str) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(min(done, len(served) + 3), len(served) + 3, note)

    with tempfile.TemporaryDirectory(prefix="n730c-") as folder:
        report("templates")
        workshop = Workshop(served, isa, Path(folder))
        contested = [spec for spec in served if len(makers(spec, isa)) > 1]
        seconds = _measurements(workshop, contested, report) if tune and host_isa() >= isa else {}
        choices = {
            spec: Choice(spec, faster(spec, isa, seconds[spec]), tuple(sorted(seconds[spec].items())))
            if spec in seconds
            else Choice(spec, default_maker(spec, isa))
            for spec in served
        }
        report("linking")
        code, offsets = workshop.link((spec, choice.maker) for spec, choice in choices.items())
    made = {spec: Entry(offsets[symbol(spec, choice.maker)], choice.maker) for spec, choice in choices.items()}
    entries = tuple(made.get(spec, Entry(NONE, Maker.NONE)) for spec in kernels)
    return (KernelImage(isa, code, entries),), tuple(choices.values())


def build_images(
    kernels: tuple[KernelSpec, ...], isa: Isa = Isa.AVX2, tune: bool = True, progress: Progress | None = None
) -> tuple[tuple[KernelImage, ...], list[dict[str, str | int]]]:
    """As ``make_kernels``, with the choices as a package's META tells them: plain values for JSON, and no timings, so
    that equal packages stay equal."""
    images, choices = make_kernels(kernels, isa, tune, progress)
    return images, [
        {
            "op": c.spec.op.name,
            "format": c.spec.format.name,
            "rows": c.spec.rows,
            "cols": c.spec.cols,
            "maker": c.maker.name,
        }
        for c in choices
    ]
