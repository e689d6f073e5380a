"""Run `fastrnn bench`, keep the results of this machine with their report, and tell the README.

    python benchmarks/record.py [options of fastrnn bench; --full if none is given]

Results go to results/<machine>/, where they may be committed.
"""

import re
import sys
from pathlib import Path

from fastrnn import cli
from fastrnn.bench import report
from fastrnn.bench.results import Results

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- begin of the generated summary -->", "<!-- end of the generated summary -->"


def machine_name(results: Results) -> str:
    """A folder's name for a machine: its processor's, and what it computes with."""
    words = re.findall(r"[a-z0-9]+", results.machine.cpu.lower())
    left_out = {"r", "tm", "cpu", "processor"}
    chosen = [word for word in words if word not in left_out]
    return "-".join([*chosen, results.machine.isa or "plain", f"{results.machine.processors}-cpus"])


def tell_readme(results: Results, written: list[Path]) -> None:
    """Put the summary and a picture between the two marks of the README."""
    before, begin, rest = README.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{README}: expected the two marks, {BEGIN!r} and {END!r}")
    places = [path.relative_to(HERE.parent) for path in written]
    picture = [place for place in places if place.name.endswith("-training-ratios.svg")]
    (page,) = (place for place in places if place.suffix == ".md")
    text = "\n\n".join(
        [
            report.summary(results).strip(),
            *(f"![Training: time of the best other library]({place})" for place in picture),
            f"[All of it]({page}), every contender and every workload.",
        ]
    )
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> int:
    """Measure, then write everything."""
    new = HERE / "results" / "new.json"
    new.parent.mkdir(exist_ok=True)
    code = cli.main(["bench", *(sys.argv[1:] or ["--full"]), "--save", str(new)])
    if code:
        return code
    results = Results.load(new)
    folder = new.parent / machine_name(results)
    folder.mkdir(exist_ok=True)
    kept = new.replace(folder / "results.json")
    written = report.write(results, folder / "report.html")
    tell_readme(results, written)
    print("\n".join(str(path.relative_to(HERE.parent)) for path in (kept, *written)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
