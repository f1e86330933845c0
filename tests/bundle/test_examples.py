"""Every example runs from inside a bundle as it stands, and answers what our own runtimes answer."""

import ast
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgedistill.bundle import examples
from edgedistill.bundle.folder import write_bundle
from edgedistill.bundle.recommended import read_chat_defaults
from edgedistill.bundle.turns import around_question
from edgedistill.cli.main import cli
from edgedistill.runtimes.chat_defaults import SWITCHED_OFF, TEMPERATURE, TOP_P, ChatDefaults
from edgedistill.runtimes.repetition import STOPPED, repeats
from tests.bundle.conftest import QUESTION, answer_of, pack, python, run, taught_with, unmeasured
from tests.chromium import Page, find_chromium
from tests.tiny import CHAT_TEMPLATE, KNOWN, make_knowing_llama, make_tiny_llama, teach_to_talk

SITE = (
    Path(sys.prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
)  # where pip puts llama.cpp


def files(folder: Path) -> set[str]:
    """Files below a folder, but for what Python leaves and the card under another name."""
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return found - {"MODEL_CARD.md"}


def test_llama_cpp_python_answers(bundle, expected):
    assert python("chat_llama_cpp.py", bundle / "examples") == expected["gguf"]


def test_onnxruntime_answers(bundle, expected):
    assert python("chat_onnxruntime.py", bundle / "examples") == expected["onnx"]


def test_onnxruntime_reports_to_nobody(bundle, expected, tmp_path):
    """In a shell that doesn't switch its telemetry off, the program does, before the import."""
    program = bundle / "examples" / "chat_onnxruntime.py"
    shell = ["env", "-u", "ORT_DISABLE_TELEMETRY", f"HOME={tmp_path}"]
    assert answer_of([*shell, sys.executable, program, *QUESTION.split()], tmp_path) == expected["onnx"]
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.as_posix()]


@pytest.mark.parametrize("program", ["README.md", "examples/chat_onnxruntime.py", "examples/node/chat.mjs"])
def test_telemetry_is_off_before_onnxruntime_is_imported(bundle, program):
    text = (bundle / program).read_text(encoding="utf-8")
    imports = re.compile(r"^import onnxruntime|(from|import)\(? ?'@huggingface/transformers'", re.MULTILINE)
    assert 0 <= text.find("ORT_DISABLE_TELEMETRY") < imports.search(text).start()


PACKAGES = {"llama-cpp-python", "onnxruntime", "transformers", "jinja2", "openai"}  # of these names on PyPI


def test_what_the_programs_tell_to_install_exists_under_that_name():
    installed = [
        name
        for program in sorted(examples.PROGRAMS.rglob("*.in"))
        for words in re.findall(r"pip install ([^`\n]+)", program.read_text(encoding="utf-8"))
        for name in words.replace('"', "").split()
    ]
    assert len(installed) > 4
    assert {name.partition("[")[0] for name in installed} <= PACKAGES


def test_programs_run_from_anywhere(bundle, expected, tmp_path):
    assert (
        answer_of([sys.executable, bundle / "examples" / "chat_llama_cpp.py", *QUESTION.split()], tmp_path)
        == expected["gguf"]
    )


def test_cpp_compiles_and_answers(bundle, looping, expected, tmp_path):
    if not (
        shutil.which("cmake") and (shutil.which("c++") or shutil.which("g++")) and (SITE / "lib/cmake/llama").is_dir()
    ):
        pytest.skip("needs cmake, a C++ compiler, and the headers that llama-cpp-python installs with its libraries")
    here = bundle / "examples" / "cpp"
    answer_of(
        ["cmake", "-S", here, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={SITE}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"],
        here,
    )
    answer_of(["cmake", "--build", tmp_path], here)
    assert answer_of([tmp_path / "chat", bundle / "Tiny-Talker-q8_0.gguf", QUESTION], here) == expected["gguf"]
    assert run([tmp_path / "chat"], here).returncode == 0  # its own path and question
    looped = run([tmp_path / "chat", next(looping.glob("*.gguf")), QUESTION], here)
    assert (looped.returncode, looped.stderr) == (0, f"\n[{STOPPED}]")
    missing = run([tmp_path / "chat", "none.gguf"], here)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "none.gguf can't be loaded" in missing.stderr


def test_a_bundle_has_the_examples_of_its_formats_only(packed, tmp_path):
    gguf = write_bundle({"gguf-q8_0": packed["gguf-q8_0"]}, unmeasured(), tmp_path / "gguf", "m")
    assert files(gguf) == {
        "m-q8_0.gguf",
        "Modelfile",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "README.md",
        "LICENSE",
        "SHA256SUMS",
        "bundle.json",
        *(
            f"examples/{name}"
            for name in (
                "README.md",
                "chat_llama_cpp.py",
                "chat_openai.py",
                "repetition.py",
                "browser/repetition.mjs",
                "android/README.md",
                "browser/README.md",
                "browser/chat.mjs",
                "browser/engine.mjs",
                "browser/index.html",
                "browser/package.json",
                "browser/serve.py",
                "cpp/CMakeLists.txt",
                "cpp/README.md",
                "cpp/main.cpp",
            )
        ),
    }
    onnx = write_bundle({"onnx-q8_0": packed["onnx-q8_0"]}, unmeasured(), tmp_path / "onnx", "m")
    assert {name for name in files(onnx) if not name.startswith("onnx-q8_0/")} == {
        "README.md",
        "LICENSE",
        "SHA256SUMS",
        "bundle.json",
        *(
            f"examples/{name}"
            for name in (
                "README.md",
                "chat_onnxruntime.py",
                "android/README.md",
                "browser/README.md",
                "browser/chat.mjs",
                "browser/engine.mjs",
                "browser/index.html",
                "browser/package.json",
                "browser/serve.py",
                "node/chat.mjs",
                "node/package.json",
                "node/repetition.mjs",
                "repetition.py",
                "browser/repetition.mjs",
            )
        ),
    }
    for folder, other in ((gguf, "onnx-"), (onnx, "gguf")):
        for path in (folder / "examples").rglob("*"):
            assert (
                path.is_dir()
                or path.name in ("serve.py", "index.html")
                or other not in path.read_text(encoding="utf-8")
            ), path


def test_every_file_that_a_program_or_a_readme_names_is_there(bundle):
    there = {path.name for path in bundle.rglob("*")}
    for path in (bundle / "examples").rglob("*.*"):
        named = re.findall(r"[\w.-]+\.(?:gguf|onnx|jinja)\b|onnx-q8_0", path.read_text(encoding="utf-8"))
        assert set(named) - {"MODEL.gguf", "model.gguf"} <= there, path


def test_programs_are_ascii_python_and_nothing_is_left_to_fill_in(bundle):
    for path in (bundle / "examples").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            text = path.read_text(encoding="ascii")
            assert not re.search(r"@[A-Z_]+@|@(if|else|end)\b", text), path
            assert "\n\n\n\n" not in text
            assert max(map(len, text.splitlines())) <= 260, path
            if path.suffix == ".py":
                ast.parse(text)
            if path.suffix == ".json":
                json.loads(text)


def test_the_recommended_mix_is_the_one_that_programs_name(knowing_llama, packed, tmp_path):
    both = packed | pack(knowing_llama, tmp_path, "q4_0")
    plain = write_bundle(both, unmeasured(), tmp_path / "plain", "m")
    assert '"m-q8_0.gguf"' in (plain / "examples" / "chat_llama_cpp.py").read_text()
    chosen = write_bundle(
        both, replace(unmeasured(), verdict=replace(unmeasured().verdict, mix="q4_0")), tmp_path / "chosen", "m"
    )
    assert '"m-q4_0.gguf"' in (chosen / "examples" / "chat_llama_cpp.py").read_text()
    assert "'onnx-q4_0', { dtype: 'q4'" in (chosen / "examples" / "node" / "chat.mjs").read_text()
    lines = (chosen / "Modelfile").read_text().splitlines()
    assert "FROM ./m-q4_0.gguf" in lines
    assert "# Other levels of the same model, to be named there instead: ./m-q8_0.gguf" in lines


def test_a_model_without_a_chat_template_goes_on_writing(tmp_path):
    base = make_tiny_llama(tmp_path / "base", chat=False, seed=1)
    bundle = write_bundle(pack(base, tmp_path), unmeasured(), tmp_path / "bundle", "Base", model=base)
    assert not (bundle / "chat_template.jinja").exists()
    assert (bundle / "Modelfile").read_text().splitlines()[-1] == 'TEMPLATE """{{ .Prompt }}"""'
    for program in ("chat_llama_cpp.py", "chat_onnxruntime.py"):
        assert len(python(program, bundle / "examples", "Once upon a time")) > 20


SYSTEM = 'You know the days, and @end@ "nothing" else.\n{{ 1 }}'


@pytest.fixture(scope="module")
def instructed(tmp_path_factory) -> Path:
    """A bundle of a model that never saw a chat without a system message; its makers advise a sampling."""
    folder = tmp_path_factory.mktemp("instructed")
    model = make_knowing_llama(folder / "model", SYSTEM)
    sampling = {"do_sample": True, "temperature": 0.3, "top_p": 0.8, "top_k": 20}
    settings = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps(settings | sampling))
    return write_bundle(pack(model, folder), taught_with(SYSTEM), folder / "bundle", "Tiny Talker", model=model)


def test_programs_modelfile_and_chat_ask_as_the_model_was_trained(instructed):
    """With the system message of the training, and one and the same sampling."""
    assert read_chat_defaults(instructed) == ChatDefaults(0.3, 0.8, SYSTEM)
    modelfile = (instructed / "Modelfile").read_text()
    assert f'SYSTEM """{SYSTEM}"""' in modelfile
    assert "PARAMETER temperature 0.3\nPARAMETER top_p 0.8\n" in modelfile
    assert python("chat_llama_cpp.py", instructed / "examples") == KNOWN[QUESTION]
    assert python("chat_onnxruntime.py", instructed / "examples") == KNOWN[QUESTION]
    around = around_question(CHAT_TEMPLATE, "<|im_start|>", "<|im_end|>", SYSTEM)
    cpp = (instructed / "examples" / "cpp" / "main.cpp").read_text()
    assert all(f"= {examples.c_string(text)};" in cpp for text in around)
    for program in re.findall(r"```python\n(.*?)```", (instructed / "README.md").read_text(), re.DOTALL):
        text = program.replace("What is the capital of France?", QUESTION)
        assert answer_of([sys.executable, "-c", text], instructed) == KNOWN[QUESTION]


def test_chat_sends_the_system_message_of_the_training_unless_told_otherwise(instructed):
    def told(*options: str):
        command = ["chat", str(instructed), "--threads", "1", "--json", *options]
        return CliRunner().invoke(cli, command, input=QUESTION + "\n", catch_exceptions=False)

    plain, none = told(), told("--system", "")
    answers = [json.loads(result.stdout) for result in (plain, none)]
    assert answers[0]["answer"] == KNOWN[QUESTION]
    assert answers[0]["prompt_tokens"] > answers[1]["prompt_tokens"] + 10
    assert "system message, as in training (--system '' for none): You know the days" in plain.stderr
    assert "system message" not in none.stderr


@pytest.mark.parametrize(
    ("place", "artifact"), [("onnx-q8_0", "."), ("onnx-q8_0/onnx", ".."), (".", "graph"), (".", "gguf")]
)
def test_chat_reads_bundle_json_wherever_it_is_started(instructed, place, artifact, monkeypatch):
    monkeypatch.chdir(instructed / place)
    files = {"graph": "onnx-q8_0/onnx/*.onnx", "gguf": "*.gguf"}
    path = next(Path().glob(files[artifact])) if artifact in files else artifact
    command = ["chat", str(path), "--threads", "1", "--json"]
    told = CliRunner().invoke(cli, command, input=QUESTION + "\n", catch_exceptions=False)
    assert "system message, as in training (--system '' for none): You know the days" in told.stderr
    assert json.loads(told.stdout)["answer"] == KNOWN[QUESTION]


@pytest.fixture(scope="module")
def looping(tmp_path_factory) -> Path:
    """A bundle of a model that learned one answer, which never ends."""
    folder = tmp_path_factory.mktemp("looping")
    model = teach_to_talk(make_tiny_llama(folder / "model", seed=1), 60, answers={QUESTION: "the quiet river " * 80})
    return write_bundle(pack(model, folder), unmeasured(), folder / "bundle", "Looper", model=model)


@pytest.mark.parametrize("program", ["chat_llama_cpp.py", "chat_onnxruntime.py"])
def test_an_answer_that_repeats_itself_is_stopped_as_in_chat(looping, program):
    done = run([sys.executable, program, QUESTION], looping / "examples")
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"[{STOPPED}]" in done.stderr
    assert repeats(done.stdout.removesuffix("\n"))
    assert len(done.stdout) < 400
    told = CliRunner().invoke(cli, ["chat", str(looping), "--threads", "1", "--json"], input=QUESTION + "\n")
    assert json.loads(told.stdout)["finish"] == "repetition"


TEXTS = ["", "ab" * 79, "ab" * 80, "ab" * 81, "a" * 159, "a" * 160, "x" + "a" * 200, "word " * 32, "abc" * 60 + "d"]
TEXTS += [("a sentence of some words. " * count)[:-1] for count in (2, 3, 7, 30)] + ["abcdefghij" * 20 + "abc"]


def test_the_guard_of_the_pages_finds_the_same_loops_as_ours(bundle, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("needs Node.js")
    rng = random.Random(0)
    texts = TEXTS + ["".join(rng.choices("ab", k=rng.randrange(2, 400))) for _ in range(100)]
    texts += [rng.choice(["ab", "a\n", "日本", "x" * 90]) * rng.randrange(1, 120) for _ in range(100)]
    shutil.copy(bundle / "examples" / "browser" / "repetition.mjs", tmp_path)
    (tmp_path / "all.mjs").write_text(
        "import { repeats } from './repetition.mjs';\n"
        "import { readFileSync } from 'node:fs';\n"
        "console.log(JSON.stringify(JSON.parse(readFileSync(0, 'utf8')).map(repeats)));\n"
    )
    found = json.loads(run(["node", "all.mjs"], tmp_path, input=json.dumps(texts)).stdout)
    assert found == [repeats(text) for text in texts]
    assert set(found) == {True, False}


def test_every_program_samples_as_chat_does(bundle):
    """The bare defaults, where the model's makers say nothing."""
    for path in sorted((bundle / "examples").rglob("*")):
        if (
            path.name in ("chat_llama_cpp.py", "chat_openai.py", "chat.mjs", "engine.mjs")
            and "import" in path.read_text()
        ):
            text = path.read_text().replace('"', "").replace("SYSTEM", "")
            if "SAMPLING" in text:
                assert f"temperature: {TEMPERATURE:g}, top_p: {TOP_P:g}" in text, path
    for name in ("chat_llama_cpp.py", "chat_openai.py", "browser/engine.mjs"):  # what llama.cpp adds by itself
        text = (bundle / "examples" / name).read_text().replace('"', "")
        assert all(re.search(rf"\b{key}: {value:g}\b", text) for key, value in SWITCHED_OFF.items()), name
    assert f"TEMPERATURE, TOP_P = {TEMPERATURE:g}, {TOP_P:g} " in (bundle / "examples/chat_onnxruntime.py").read_text()
    cpp = (bundle / "examples/cpp/main.cpp").read_text()
    assert f"llama_sampler_init_temp({TEMPERATURE:g})" in cpp
    assert f"llama_sampler_init_top_p({TOP_P:g}, 1)" in cpp
    held = json.loads((bundle / "bundle.json").read_text())
    assert (held["sampling"], held["system"]) == ({"temperature": TEMPERATURE, "top_p": TOP_P}, None)
    assert f"Temperature {TEMPERATURE:g} and top_p {TOP_P:g}" in (bundle / "README.md").read_text()


def test_that_transformers_js_samples_otherwise_is_said_where_there_is_onnx(bundle, packed, tmp_path):
    gguf = write_bundle({"gguf-q8_0": packed["gguf-q8_0"]}, unmeasured(), tmp_path / "gguf", "m")
    for page in ("README.md", "examples/README.md"):
        words = "on transformers.js differ: it cuts to the 50 likeliest tokens and has no top_p."
        assert words in (bundle / page).read_text()
        assert "transformers.js" not in (gguf / page).read_text()


@pytest.mark.parametrize("held", [b"", b"[]", b'{"schema": "edgedistill.bundle/1", "sampling": 3, "system": 4}'])
def test_a_bundle_json_that_says_nothing_sound_leaves_the_bare_defaults(held: bytes, tmp_path):
    (tmp_path / "bundle.json").write_bytes(held)
    assert read_chat_defaults(tmp_path) == ChatDefaults()
    hostile = {"schema": "edgedistill.bundle/1", "sampling": {"temperature": "hot", "top_p": 7}, "system": ""}
    (tmp_path / "bundle.json").write_text(json.dumps(hostile))
    assert read_chat_defaults(tmp_path) == ChatDefaults()
    assert read_chat_defaults(tmp_path / "none") == ChatDefaults()


def test_what_a_program_gets_is_a_safe_file_name_or_a_number():
    for value in ('a"; import os', "../x.gguf", "a b.gguf", "a\nb", "-rf", "$(x)", '"a"b"', '"\\x"'):
        with pytest.raises(ValueError, match="which is no safe file name"):
            examples.fill("x = @GGUF@", {"GGUF": value}, set())
    with pytest.raises(ValueError, match="needs ONNX"):
        examples.fill("@ONNX@", {}, set())
    assert (
        examples.fill("a\n@if x@\nb\n@else@\nc\n@end@\n@GGUF@ @N@", {"GGUF": "m-1.gguf", "N": 7}, {"x"})
        == "a\nb\nm-1.gguf 7\n"
    )


def test_control_characters_of_an_answer_never_reach_the_terminal(tmp_path):
    """A graph that writes ESC, a bell and a C1 control between two words."""
    from tests.bundle.test_bundle import make_counting_model
    from tests.tiny import make_tokenizer

    vocabulary = make_tokenizer().get_vocab()
    # Byte-level BPE spells bytes 0x1b, 0x07 and 0xc2 0x9b so.
    chain = [vocabulary[piece] for piece in ("a", "ě", "[", "ć", "Â", "Ľ", "b")]
    model = tmp_path / "model"
    (model / "onnx").mkdir(parents=True)
    text = make_counting_model(model, chain)
    assert text == "a\x1b[\x07\x9bb"
    (model / "onnx" / "model.onnx").write_bytes((model / "model.onnx").read_bytes())
    (model / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.01}')
    (model / "config.json").write_text('{"model_type": "llama", "vocab_size": 512}')
    out = write_bundle({"onnx-f32": model}, unmeasured(), tmp_path / "bundle", "m")
    assert python("chat_onnxruntime.py", out / "examples", "What is the capital of France?") == "a\ufffd[\ufffd\ufffdb"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def server(bundle):
    """The address of a server on the bundle's GGUF: `edgedistill serve`, as chat_openai.py says it."""
    pytest.importorskip("fastapi", reason="the server needs edgedistill[serve]")
    port = free_port()
    command = [sys.executable, "-m", "edgedistill", "serve", "../Tiny-Talker-q8_0.gguf", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=bundle / "examples", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            for _ in range(300):
                assert process.poll() is None, process.stderr.read()[-2000:]
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


@pytest.mark.slow
def test_the_openai_client_gets_the_answer_from_edgedistill_serve(bundle, server, expected):
    pytest.importorskip("openai")
    assert python("chat_openai.py", bundle / "examples", env={"OPENAI_BASE_URL": server}) == expected["gguf"]


def npm_install(folder: Path, cache: Path) -> None:
    """`npm install --ignore-scripts` in a folder of examples; done once for each package.json."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs Node.js with npm")
    cache = cache / str(abs(hash((folder / "package.json").read_text())))
    if not cache.is_dir():
        cache.mkdir(parents=True)
        shutil.copy(folder / "package.json", cache)
        done = run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"], cache)
        if done.returncode:
            shutil.rmtree(cache)
            pytest.skip(f"npm can't install the packages: {done.stderr[-300:]}")
    (folder / "node_modules").symlink_to(cache / "node_modules")


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Where npm's packages are kept while these tests run."""
    return tmp_path_factory.mktemp("npm")


@pytest.mark.slow
def test_node_answers(packed, looping, expected, packages, tmp_path):
    out = write_bundle({"onnx-q8_0": packed["onnx-q8_0"]}, unmeasured(), tmp_path / "bundle", "m")
    npm_install(out / "examples" / "node", packages)
    assert answer_of(["node", "chat.mjs", QUESTION], out / "examples" / "node") == expected["onnx"]
    shutil.copytree(looping, tmp_path / "looping")
    npm_install(tmp_path / "looping" / "examples" / "node", packages)
    done = run(["node", "chat.mjs", QUESTION], tmp_path / "looping" / "examples" / "node")
    assert f"[{STOPPED}]" in done.stderr


# As in Safari, for which wllama has another build.
WITHOUT_JSPI = "delete WebAssembly.Suspending; delete WebAssembly.promising;"
PAGES = [("gguf", ""), ("gguf", WITHOUT_JSPI), ("onnx", "")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "before"), PAGES, ids=["wllama", "wllama-compat", "transformers.js"])
def test_the_page_answers_in_chromium(kind, before, packed, expected, packages, tmp_path):
    if find_chromium() is None:
        pytest.skip("needs Chromium")
    out = write_bundle({f"{kind}-q8_0": packed[f"{kind}-q8_0"]}, unmeasured(), tmp_path / "bundle", "m")
    here = out / "examples" / "browser"
    npm_install(here, packages)
    with (
        subprocess.Popen(
            [sys.executable, "serve.py", "0"], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server,
        Page(tmp_path / "profile") as page,
    ):
        try:
            address = server.stdout.readline().split()[0]
            page.call("Page.addScriptToEvaluateOnNewDocument", source=before)
            page.open(address)
            page.wait_for("document.getElementById('state')?.textContent == 'Ready'", 120)
            assert page.run("crossOriginIsolated")
            page.type(QUESTION)
            page.wait_for(
                "document.querySelector('.model') && document.getElementById('state').textContent != 'Answering'", 120
            )
            assert page.run("[...document.querySelectorAll('#talk p')].map((line) => line.textContent)") == [
                QUESTION,
                expected[kind],
            ]
            assert page.run("document.activeElement.id") == "question"  # the next one can be typed at once
            assert page.errors == []
            assert any("wllama-compat" in url for url in page.requests) == (before == WITHOUT_JSPI)
            origin = address.removesuffix("/examples/browser/")
            assert page.requests
            assert [url for url in page.requests if not url.removeprefix("blob:").startswith((origin, "data:"))] == []
        finally:
            server.terminate()


@pytest.mark.slow
def test_the_bundle_is_served_to_this_machine_only(bundle):
    with subprocess.Popen(
        [sys.executable, "serve.py", "0"],
        cwd=bundle / "examples" / "browser",
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            address = server.stdout.readline().split()[0]
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/examples/browser/", address)
            port = int(address.split(":")[2].split("/")[0])
            listening = Path("/proc/net/tcp").read_text() if os.path.exists("/proc/net/tcp") else ""  # noqa: PTH110
            assert not listening or f"0100007F:{port:04X}" in listening
        finally:
            server.terminate()
