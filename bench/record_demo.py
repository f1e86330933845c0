"""Keep what a finished demo measured: runs/demo/report.json -> bench/results/demo.json.

Run    make demo && python bench/record_demo.py runs/demo
Keeps  every row with its records, what each stage took, what was foretold; leaves out texts and curves.
"""

import json
import sys
from pathlib import Path

PARTS = ("schema", "target", "teacher", "student", "on_target", "machine", "judges", "rows", "recovered", "predictions", "teach", "records")


def main() -> None:
    """Write bench/results/demo.json from the run folder named on the command line."""
    run = Path(sys.argv[1])
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    provenance = report["provenance"]
    kept = {name: report[name] for name in PARTS}
    kept["command"] = provenance["command"]
    kept["versions"] = provenance["versions"]
    kept["verify"] = provenance["verify"]
    kept["stages"] = [{name: stage[name] for name in ("name", "seconds", "peak_rss_bytes")} for stage in provenance["stages"]]
    kept["total_seconds"] = sum(stage["seconds"] for stage in provenance["stages"])
    kept["peak_rss_bytes"] = max(stage["peak_rss_bytes"] for stage in provenance["stages"])
    kept["samples"] = report["samples"]
    out = Path(__file__).parent / "results" / "demo.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"{out}: {kept['total_seconds']:.0f} s in all stages, at most {kept['peak_rss_bytes'] / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
