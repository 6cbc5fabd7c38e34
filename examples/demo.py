"""Build the small real model of this folder for `gt730`, run it, and show what was promised beside what came out.

make demo        (or: python examples/demo.py [--precision int4] [--prompt TEXT])
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from n730c.runtime import find_runtime

HERE = Path(__file__).parent
PROMPT = 'def read_lines(path):\n    """Return the lines of the file'
SAMPLING = ["--temperature", "0.6", "--top-p", "0.9", "--seed", "2"]  # greedy, so small a model soon repeats itself


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--tokens", type=int, default=110)
    args = parser.parse_args()
    console = Console(stderr=True)
    folder = Path("build/demo")
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / "demo.n730"
    compiler = [sys.executable, "-m", "n730c", "build", str(HERE / "demo-model"), "--target", "gt730"]
    if subprocess.run([*compiler, "--precision", args.precision, "-o", str(package)], check=False).returncode:
        return 1

    runtime = [str(find_runtime())]
    console.rule(f"n730-exec {package} --trust {' '.join(SAMPLING)}")
    print(args.prompt, end="", flush=True)
    run = [*runtime, str(package), "--trust", *SAMPLING, "-n", str(args.tokens), "--prompt", args.prompt]
    if subprocess.run(run, check=False).returncode:
        return 1
    print(flush=True)
    bench = subprocess.run([*runtime, "bench", str(package), "--trust", "--json"], capture_output=True, check=False)
    if bench.returncode:
        sys.stderr.buffer.write(bench.stderr)
        return 1
    facts = json.loads(bench.stdout)

    table = Table(title="what the plan says, what was measured", title_justify="left")
    table.add_column("")
    table.add_column("plan for gt730", justify="right")
    table.add_column("measured on this machine", justify="right")
    table.add_row(
        "decode, tokens/s",
        f"{facts['predicted_decode_tokens_per_s']:,.0f}",
        f"{facts['decode_tokens_per_s']:,.0f}",
    )
    table.add_row(
        "prefill, tokens/s",
        f"{facts['predicted_prefill_tokens_per_s']:,.0f}",
        f"{facts['prefill_tokens_per_s']:,.0f}",
    )
    table.add_row(
        "memory of the whole process, MiB",
        f"at most {facts['planned_ram_bytes'] / 2**20:.1f}",
        f"{facts['peak_rss_bytes'] / 2**20:.1f}",
    )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
