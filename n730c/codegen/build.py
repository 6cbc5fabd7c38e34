"""Kernel specs to one flat image: compile the candidates, take the fastest of each spec, link the winners."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from n730c.artifacts import NONE, Entry, Isa, KernelImage, KernelSpec, Maker
from n730c.codegen import tvm
from n730c.codegen.candidates import TEMPLATE, Candidate, candidates, recorded
from n730c.codegen.image import compile_c, link
from n730c.codegen.native import LoadedImage, host_isa
from n730c.codegen.render import render, template_folder
from n730c.codegen.select import ChoiceCache, cache_folder, cpu_name, faster
from n730c.codegen.tune import measure

Progress = Callable[[int, int, str], None]  # (done, total, note)


@dataclass(frozen=True)
class Choice:
    """Which candidate a spec got, and the measured seconds, as ``tune.measure`` says (empty: the recorded choice)."""

    spec: KernelSpec
    candidate: Candidate
    seconds: tuple[tuple[Candidate, float], ...] = ()

    def __str__(self) -> str:
        times = ", ".join(f"{candidate} {1e6 * value:.0f} µs" for candidate, value in self.seconds)
        return f"{_title(self.spec)}: {self.candidate}" + (f" ({times})" if times else "")


def _title(spec: KernelSpec) -> str:
    return f"{spec.format.name} {spec.rows} × {spec.cols}"


def symbol(spec: KernelSpec, candidate: Candidate) -> str:
    """Name of a kernel's entry."""
    knobs = f"{candidate.maker.name.lower()}_{candidate.ahead}_{candidate.unroll}"
    return f"linear_{spec.format.name.lower()}_{spec.rows}x{spec.cols}_{knobs}"


class Workshop:
    """Compiles and links kernels of one instruction set; intermediate files stay in ``folder``."""

    def __init__(self, isa: Isa, folder: Path) -> None:
        self.isa, self.folder = isa, folder

    def _template(self, ahead: int, unroll: int, specs: tuple[KernelSpec, ...]) -> Path:
        """One object with the templates' kernels of these knobs."""
        output = self.folder / f"template_{ahead}_{unroll}.o"
        candidate = Candidate(Maker.TEMPLATE, ahead, unroll)
        kernels = [self._parameters(spec, candidate) for spec in specs]
        source = render("linear.c.j2", kernels=kernels)
        # A pragma does not survive the inlining of the loop; at most `unroll` turns, however long one is.
        unrolled = ("-funroll-loops", f"--param=max-unroll-times={unroll}", "--param=max-unrolled-insns=1000")
        compile_c(source, output, self.isa, f"-DN730_AHEAD={ahead}", *(unrolled if unroll > 1 else ()))
        return output

    @staticmethod
    def _parameters(spec: KernelSpec, candidate: Candidate) -> dict[str, str | int]:
        return {
            "symbol": symbol(spec, candidate),
            "template": symbol(spec, TEMPLATE),
            "body": symbol(spec, candidate) + "_body",
            "format": spec.format.name,
            "rows": spec.rows,
            "cols": spec.cols,
        }

    def _body(self, spec: KernelSpec, candidate: Candidate) -> Path:
        name = str(self._parameters(spec, candidate)["body"])
        output = self.folder / f"{name}.o"
        if not output.exists():
            tvm.compile_kernel(spec, name, output, candidate.ahead, candidate.unroll)
        return output

    def link(self, wanted: Iterable[tuple[KernelSpec, Candidate]]) -> tuple[bytes, dict[str, int]]:
        """A flat image with these kernels: ``(code, offset of each entry by name)``. Raises ToolchainError.

        TVM's kernels bring the template's along, which serves the calls with several tokens.
        """
        wanted = tuple(dict.fromkeys(wanted))
        by_tvm = [(spec, candidate) for spec, candidate in wanted if candidate.maker is Maker.TVM]
        by_template = [(spec, candidate) for spec, candidate in wanted if candidate.maker is Maker.TEMPLATE]
        by_template += [(spec, TEMPLATE) for spec, _ in by_tvm]
        by_knobs: dict[tuple[int, int], dict[KernelSpec, None]] = {}
        for spec, candidate in by_template:
            by_knobs.setdefault((candidate.ahead, candidate.unroll), {})[spec] = None
        objects = [self._template(*knobs, tuple(specs)) for knobs, specs in by_knobs.items()]
        if by_tvm:
            adapters = self.folder / "adapters.o"
            kernels = [self._parameters(spec, candidate) for spec, candidate in by_tvm]
            compile_c(render("linear_tvm.c.j2", kernels=kernels), adapters, self.isa)
            objects += [adapters, *(self._body(spec, candidate) for spec, candidate in by_tvm)]
        return link(objects, [symbol(spec, candidate) for spec, candidate in wanted], self.folder)


def _cache_key(spec: KernelSpec, isa: Isa) -> str:
    """Changes with the CPU, the shape and every source that the kernels are made of."""
    sources = hashlib.sha256()
    for file in sorted(file for file in template_folder().iterdir() if file.is_file()):
        sources.update(file.name.encode() + b"\0" + file.read_bytes())
    return f"{cpu_name()} | {isa.name} | {_title(spec)} | {sources.hexdigest()[:16]}"


def _measurements(
    workshop: Workshop, specs: list[KernelSpec], report: Callable[[str], None]
) -> Mapping[KernelSpec, Mapping[Candidate, float]]:
    """Seconds of each candidate's kernel, from the cache or by running them here."""
    cache, isa = ChoiceCache(cache_folder()), workshop.isa
    known = {spec: cache.get(_cache_key(spec, isa)) for spec in specs}
    new = [spec for spec in specs if set(known[spec] or ()) != set(candidates(spec, isa))]
    for spec in new:
        able = candidates(spec, isa)
        report(f"timing {len(able)} candidates for {_title(spec)}")
        code, offsets = workshop.link((spec, candidate) for candidate in able)
        try:
            image = LoadedImage(code)
        except OSError:  # a hardened system lets no memory become executable: the recorded choices serve
            break
        with image:
            seconds = measure(spec, {c: image.kernel(offsets[symbol(spec, c)]) for c in able})
        cache.put(_cache_key(spec, isa), seconds)
        known[spec] = seconds
    return {spec: seconds for spec, seconds in known.items() if seconds}


def make_kernels(
    kernels: tuple[KernelSpec, ...], isa: Isa, tune: bool, progress: Progress | None = None
) -> tuple[tuple[KernelImage, ...], tuple[Choice, ...]]:
    """One image for ``isa`` with a kernel for each spec that has a candidate, and the choices made, with timings.

    ``tune``: time the candidates here if this CPU runs ``isa`` (some seconds a kernel, remembered in
    ``cache_folder()``); otherwise the recorded choices are taken. Equal choices give equal bytes. No image at all if no
    spec can be served.
    Raises ToolchainError if gcc, binutils or TVM is missing or fails.
    """
    served = [spec for spec in dict.fromkeys(kernels) if candidates(spec, isa)]
    if not served:
        return (), ()
    done = 0

    def report(note: str) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(min(done, len(served) + 1), len(served) + 1, note)

    with tempfile.TemporaryDirectory(prefix="n730c-") as folder:
        workshop = Workshop(isa, Path(folder))
        seconds = _measurements(workshop, served, report) if tune and host_isa() >= isa else {}
        choices = {
            spec: Choice(spec, faster(spec, isa, seconds[spec]), tuple(sorted(seconds[spec].items())))
            if spec in seconds
            else Choice(spec, recorded(spec, isa))
            for spec in served
        }
        report("linking")
        code, offsets = workshop.link((spec, choice.candidate) for spec, choice in choices.items())
    made = {
        spec: Entry(offsets[symbol(spec, choice.candidate)], choice.candidate.maker) for spec, choice in choices.items()
    }
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
            "maker": c.candidate.maker.name,
            "prefetch_bytes": c.candidate.ahead,
            "unroll": c.candidate.unroll,
        }
        for c in choices
    ]
