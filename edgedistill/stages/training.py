"""The stages that teach and train, each a method that returns its result. No torch at import.

compile.py and compare.py put them in order.
"""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from edgedistill.config.recover import MEASURED
from edgedistill.config.teach import OWN_PROMPTS
from edgedistill.config.validation import MOST_TOKENS
from edgedistill.data.seeds import derived_seed
from edgedistill.export import GGUF_NAME
from edgedistill.machine import usable_cores
from edgedistill.mixes import Mix, assign_formats, groups_of, measured_once, mix_bytes
from edgedistill.stages.build import Build, names_of, settings_of
from edgedistill.store.files import file_sha256
from edgedistill.store.marks import StageResult

# What the files of a measured fit hold of a weight: part of the stage's name, so that a folder which lacks something
# isn't read.
KEPT = {"curvature": ["correlation", "diagonal", "scale"], "fisher": ["weight"]}


class Training(Build):
    """A build whose student is taught and trained."""

    def student(self) -> StageResult:
        """The float student that is the teacher as it is."""

        def build(work: Path) -> None:
            from edgedistill.models.load import load_model, save_model

            save_model(load_model(self.teacher), self.teacher, work)

        return self.stage("student", {"layers": self.layers}, [], build, {"teacher": self.teacher_hash})

    def teach(self, asked: StageResult | None, held_out: StageResult | None = None) -> StageResult:
        """The training text; with the teacher's log-probabilities, where a student is distilled.

        Args:
            asked: holds the file that llama.cpp writes with; None: the teacher is that.
            held_out: chats that were written to judge on, none of which may be trained on.
        """
        wanted = self.recipe.teach
        top_k = self.recipe.top_k  # recovery captures the float student's own view of the text
        needed = wanted.tokens + wanted.free_tokens + top_k > 0
        read = {f"text {number}": path for number, path in enumerate(wanted.text or ())}
        if wanted.prompts != OWN_PROMPTS:
            read["prompts"] = wanted.prompts
        outside = {"teacher": self.teacher_hash, **{label: file_sha256(Path(path)) for label, path in read.items()}}

        def build(work: Path) -> None:
            from edgedistill.teach.rounds import longest_prompt, prompt_ids_in
            from edgedistill.teach.stage import teach
            from edgedistill.teach.writers import open_writer

            file = asked.path / GGUF_NAME if asked else self.teacher
            context = max(longest_prompt(wanted) + wanted.max_answer_tokens, (wanted.text_window or 0) + 1)
            never = prompt_ids_in(held_out.path) if held_out else set()
            with (
                open_writer(file, usable_cores(), context, wanted.parallel, work) if needed else nullcontext() as writer
            ):
                teach(writer, self.teacher, self.facts.name, self.recipe, top_k, work, self.progress, never)

        inputs = [*([asked] if asked and needed else []), *([held_out] if held_out else [])]
        # Of files it is the content that counts, wherever they lie; and of the prompts' how it is read.
        files = {
            "text": len(wanted.text or ()),
            **({"prompts": Path(wanted.prompts).suffix} if "prompts" in read else {}),
        }
        # As much is held out for judging as is read.
        settings = {"teach": settings_of(wanted) | files, "top_k": top_k, "judged": self.recipe.measure.tokens}
        return self.stage("teach", settings, inputs, build, outside)

    def held_out(self, asked: StageResult | None) -> StageResult:
        """Chats that the model writes to be judged on, whatever else the run does: another budget of training finds
        them again.

        Args:
            asked: as for `teach`.
        """
        mine = self.recipe.teach
        wanted = mine.model_copy(
            update={
                "prompts": OWN_PROMPTS,
                "prompt_field": None,
                "tokens": self.recipe.measure.tokens,
                "free_tokens": 0,
                "text_tokens": 0,
                "text": None,
                "answers": "teacher",
                "seed": derived_seed(mine.seed, "chats to judge on"),
            }
        )

        def build(work: Path) -> None:
            from edgedistill.teach.rounds import longest_prompt
            from edgedistill.teach.stage import write_held_out
            from edgedistill.teach.writers import open_writer

            file = asked.path / GGUF_NAME if asked else self.teacher
            context = longest_prompt(wanted) + wanted.max_answer_tokens
            recipe = self.recipe.model_copy(update={"teach": wanted})
            with open_writer(file, usable_cores(), context, wanted.parallel, work) as writer:
                write_held_out(writer, self.teacher, self.facts.name, recipe, work, self.progress)

        return self.stage(
            "held-out", {"teach": settings_of(wanted)}, [asked] if asked else [], build, {"teacher": self.teacher_hash}
        )

    def distill(self, taught: StageResult) -> StageResult:
        """The float student."""

        def build(work: Path) -> None:
            from edgedistill.distill.stage import distill
            from edgedistill.signals.shards import load_sources, load_split

            training, validation = load_split(taught.path, "train"), load_sources(taught.path, "validation")
            distill(self.teacher, training, validation, self.layers, self.recipe, work, self.progress)

        settings = {"distill": settings_of(self.recipe.distill), "layers": self.layers}
        return self.stage("distill", settings, [taught], build, {"teacher": self.teacher_hash})

    def capture(self, taught: StageResult, student: StageResult) -> StageResult:
        """The float student's own distribution, and its inputs' importance."""
        # Hidden states in full precision: against q8_0, whose KL is thousandths, rounding the teacher would show.
        compute, seq_len = "float32", self.recipe.recover.seq_len
        keep = ("ids", "log_probs") if self.recipe.recover.teacher_share else ()
        held = json.loads((taught.path / "teach.json").read_text(encoding="utf-8"))["train_tokens"]
        recover = self.recipe.recover
        # A budget beyond the text goes over it again, and needs no other capture.
        budgets = [recover.tokens_of(mix) for mix in self.recipe.mixes]
        tokens = min(held, max(recover.fit_tokens, *budgets))
        chosen_on = [mix.tokens for mix in map(self.recipe.mix, self.recipe.mixes) if mix.unfitted]
        # As many as any budget is validated on, so that another budget finds the same capture.
        validated = max([MOST_TOKENS, *chosen_on])

        def build(work: Path) -> None:
            from edgedistill.data.packing import counting_sources
            from edgedistill.data.spread import spread_documents, spread_sources
            from edgedistill.signals.shards import SOURCE_NAMES, load_sources, load_split
            from edgedistill.teach.capture import capture

            chosen = spread_documents(load_split(taught.path, "train"), tokens, seq_len)
            validation = counting_sources(load_sources(taught.path, "validation"), seq_len, "recover.seq_len")
            validation = spread_sources(validation, validated, seq_len)
            splits = [
                (f"{source}validation", validation[name]) for source, name in SOURCE_NAMES.items() if name in validation
            ]
            capture(
                student.path,
                [("train", chosen), *splits],
                seq_len,
                compute,
                work,
                self.progress,
                keep,
            )

        settings = {
            "seq_len": seq_len,
            "compute": compute,
            "tokens": tokens,
            "validation_tokens": validated,
            "keep": list(keep),
        }
        return self.stage("capture", settings, [taught, student], build)

    def costs(self, student: StageResult, captured: StageResult) -> StageResult | None:
        """What errors of the weights cost, where the fit has that measured; named as the fit is."""
        recover = self.recipe.recover
        if recover.fit not in MEASURED:
            return None

        def build(work: Path) -> None:
            from edgedistill.data.spread import spread_documents
            from edgedistill.recover.curvature import measure_curvature
            from edgedistill.recover.fisher import measure_fisher
            from edgedistill.signals.shards import iter_shards

            chosen = spread_documents(list(iter_shards(captured.path / "train")), recover.fit_tokens, recover.seq_len)
            measure = measure_curvature if recover.fit == "curvature" else measure_fisher
            measure(student.path, chosen, recover.seq_len, recover.compute, self.recipe.teach.seed, work, self.progress)

        settings = {
            "tokens": recover.fit_tokens,
            "seq_len": recover.seq_len,
            "compute": recover.compute,
            "seed": self.recipe.teach.seed,
            "kept": KEPT[recover.fit],
        }
        return self.stage(recover.fit, settings, [student, captured], build)

    def read_costs(self, captured: StageResult, measured: StageResult | None) -> Mapping[str, Any] | None:
        """What `quant.fit.fit_costs` takes, by tensor."""
        from edgedistill.recover.curvature import CurvatureFiles
        from edgedistill.recover.fisher import load_fisher
        from edgedistill.teach.capture import load_importance

        if measured is not None:
            return (
                CurvatureFiles(measured.path) if self.recipe.recover.fit == "curvature" else load_fisher(measured.path)
            )
        return load_importance(captured.path) if self.recipe.recover.fit == "importance" else None

    def fitted(
        self, mixes: list[Mix], student: StageResult, captured: StageResult, costs: StageResult | None
    ) -> list[Mix]:
        """The mixes with all grids chosen: what each grid costs is found once, and each mix to be fitted chooses by
        that.
        """
        waiting = [mix for mix in mixes if mix.unfitted]
        if not waiting:
            return mixes
        once = measured_once(waiting)
        groups = groups_of(self.shape, once)

        foretold = self.recipe.recover.fit == "curvature"

        def judged(tokens: int) -> list[Any]:
            from edgedistill.data.spread import spread_sources
            from edgedistill.signals.shards import load_sources

            sources = load_sources(captured.path, "validation")
            sample = spread_sources(sources, tokens, self.recipe.recover.seq_len)
            return [document for documents in sample.values() for document in documents]

        def measure(work: Path) -> None:
            from edgedistill.recover.sensitivity import measure_sensitivity

            documents = None if foretold else judged(once.tokens)
            measure_sensitivity(
                student.path, documents, self.read_costs(captured, costs), groups, self.recipe, work, self.progress
            )

        def fit(mix: Mix, measured: StageResult, work: Path) -> None:
            from edgedistill.recover.choose import fit_mix
            from edgedistill.recover.sensitivity import read_table

            known, table = self.read_costs(captured, costs), read_table(measured.path)
            fit_mix(student.path, judged(mix.tokens), known, table, self.shape, mix, self.recipe, work, self.progress)

        settings = {"fit": self.recipe.recover.fit, "seq_len": self.recipe.recover.seq_len}
        read = [student, captured, *([costs] if costs else [])]
        choices = {group.name: [f.name for f in group.formats] for group in groups}
        measured = self.stage(
            "sensitivity", {**settings, "tokens": None if foretold else once.tokens, "choices": choices}, read, measure
        )
        found = {mix.name: mix for mix in mixes}
        for mix in waiting:
            own = {**settings, "tokens": mix.tokens, "grids": mix.candidates, "bytes": mix_bytes(self.shape, mix)}
            result = self.stage(f"fit-{mix.name}", own, [*read, measured], partial(fit, mix, measured))
            chosen = json.loads((result.path / "mix.json").read_text(encoding="utf-8"))["grids"]
            found[mix.name] = replace(mix, chosen=chosen)
        return list(found.values())

    def recover(self, mix: Mix, student: StageResult, captured: StageResult, costs: StageResult | None) -> StageResult:
        """The student on its grid."""
        name, formats = mix.name, assign_formats(self.shape, mix)

        def build(work: Path) -> None:
            from edgedistill.recover.stage import recover
            from edgedistill.signals.shards import iter_shards, load_sources

            training = list(iter_shards(captured.path / "train"))
            validation = load_sources(captured.path, "validation")
            recover(
                student.path,
                training,
                validation,
                self.read_costs(captured, costs),
                name,
                formats,
                self.recipe,
                work,
                self.progress,
            )

        settings = settings_of(self.recipe.recover)
        settings |= {"tokens": self.recipe.recover.tokens_of(name), "rate": self.recipe.recover.rate_by_mix.get(name)}
        # Budgets and rates are there already as this mix has them, and the fit's budget is that of the stage that
        # measures costs.
        del settings["tokens_by_mix"], settings["rate_by_mix"], settings["fit_tokens"]
        settings |= {"mix": name, "formats": names_of(formats)}
        return self.stage(f"recover-{name}", settings, [student, captured, *([costs] if costs else [])], build)
