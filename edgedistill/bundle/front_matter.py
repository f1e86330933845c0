"""The front matter of a model card: what Hugging Face's hub reads of it.

There is no model-index: it names data sets of the hub, and the texts that we judge on are none.
Source: https://huggingface.co/docs/hub/model-cards
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgedistill.bundle.harmless import word
from edgedistill.bundle.names import split_key
from edgedistill.results.report import Report

# The licences that the hub's front matter may name; another is given as "other" with its name.
# Source: https://huggingface.co/docs/hub/repositories-licenses
HUB_LICENSES = frozenset(
    """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc
    cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0
    cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
    eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc intel-research lppl-1.3c ms-pl
    apple-ascl apple-amlr mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl
    lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3
    llama4 gemma""".split()
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def front_matter(report: Report, placed: Mapping[str, Path]) -> dict[str, Any]:
    """What the hub reads. The base model is named only where its name can be one of the hub's."""
    as_is, kinds = report.student.as_is, sorted({split_key(key)[0] for key in placed})
    licence = word(report.provenance.license)
    front: dict[str, Any] = {"license": licence if licence in HUB_LICENSES else "other" if licence else "unknown"}
    if front["license"] == "other":
        front |= {"license_name": licence, "license_link": "LICENSE"}
    origin = report.student.start or report.teacher
    names = (origin.source or "", origin.name or "")
    base = next((name for name in names if HUB_ID.fullmatch(name)), None)
    if base:
        front |= {"base_model": base, "base_model_relation": "quantized" if as_is else "finetune"}
    front |= {"pipeline_tag": "text-generation", "library_name": "gguf" if "gguf" in kinds else "onnx"}
    trained = any(row.kind == "recovered" for row in report.rows)
    how = [] if as_is else ["distillation"]
    front["tags"] = ["edgedistill", *how, *(["quantization-aware-training"] if trained else []), *kinds]
    return front
