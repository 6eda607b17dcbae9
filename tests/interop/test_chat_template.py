"""What chat clients make of an exported model: the text, and what stands between texts."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import CHARS, a_run, tiny_config, tiny_model, trained

from bardlet import cli
from bardlet.interop import chat_template, load
from bardlet.interop.gguf import export as gguf
from bardlet.interop.gguf import file as gguf_file
from bardlet.interop.gguf import llamacpp
from bardlet.interop.huggingface import export as huggingface
from bardlet.run.state import DatasetRef, Imported
from bardlet.system.optional_deps import has
from bardlet.train import train

transformers = pytest.importorskip("transformers")

CHATS: list[tuple[list[dict[str, Any]], str, str]] = [  # messages; of texts, of pairs
    ([{"role": "user", "content": "Romeo:"}], "Romeo:", "Romeo:\n"),
    ([{"role": "user", "content": " a\n\n"}], " a\n\n", " a\n\n"),
    ([{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
      {"role": "assistant", "content": "r"}, {"role": "user", "content": "t"}],
     "sqrt", "s\nq\nr<|endoftext|>t\n"),
]  # fmt: skip
PARTS = [{"role": "user", "content": [{"type": "text", "text": "in"}, {"text": " two"}]}]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Runs of texts and of prompts with responses, by whether they are of pairs."""
    folder = tmp_path_factory.mktemp("runs")
    records = [{"ask": f"Question {i}", "say": f"answer {i} it is"} for i in range(60)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    texts = [{"text": f"A text {i} that stands alone."} for i in range(60)]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
    runs = {}
    for pairs, name in ((True, "pairs"), (False, "texts")):
        keys = ["--prompt_key=ask", "--response_key=say"] if pairs else []
        data = folder / "data" / name
        source = str(folder / f"{name}.jsonl")
        assert cli.main(["prepare", source, f"--out={data}", "--tokenizer=byte", *keys]) == 0
        runs[pairs] = folder / "out" / name
        train(tiny_config(data, runs[pairs], max_iters=1, block_size=64))
    return runs


@pytest.mark.parametrize("pairs", [False, True])
def test_transformers_passes_the_content_on(
    pairs: bool, runs: dict[bool, Path], tmp_path: Path
) -> None:
    assert cli.main(["export", str(runs[pairs]), str(tmp_path / "hf")]) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for messages, *expected in [*CHATS, (PARTS, "in two", "in two\n")]:
        for prompt in (False, True):
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompt
            )
            assert text == expected[pairs]


# in a process of its own, since llama.cpp's threads would be in every fork of this one
SERVED = """
import json, sys, xllamacpp
from bardlet.interop.gguf.llamacpp import post
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 64, 1, 1
params.warmup = params.fit_params = False
params.verbosity = 1
server = xllamacpp.Server(params)
address = server.listening_address
chats = json.loads(sys.argv[2])
prompts = [post(address, "/apply-template", {"messages": chat})["prompt"] for chat in chats]
request = {"messages": chats[0], "max_tokens": 1}
used = post(address, "/v1/chat/completions", request)["usage"]["prompt_tokens"]
print(json.dumps([prompts, used]))
"""


@pytest.mark.skipif(not has(llamacpp.PACKAGE), reason="llama.cpp is not installed")
@pytest.mark.parametrize("pairs", [False, True])
def test_llamacpp_passes_the_content_on(
    pairs: bool, runs: dict[bool, Path], tmp_path: Path
) -> None:
    assert cli.main(["export", str(runs[pairs]), str(tmp_path / "o"), "--format=gguf"]) == 0
    chats = [messages for messages, *_ in CHATS]
    done = subprocess.run(
        [sys.executable, "-c", SERVED, str(next((tmp_path / "o").glob("*.gguf"))),
         json.dumps(chats)], capture_output=True, text=True, check=True,
    )  # fmt: skip
    prompts, used = json.loads(done.stdout)
    assert prompts == [expected[pairs] for _, *expected in CHATS]
    assert used == len(CHATS[0][1 + pairs])
    modelfile = (tmp_path / "o" / "Modelfile").read_text(encoding="utf-8")
    template = (
        '"""{{ .Prompt }}\n{{ .Response }}<|endoftext|>"""' if pairs else '"""{{ .Prompt }}"""'
    )
    assert f"TEMPLATE {template}\nPARAMETER temperature 0.8\n" in modelfile


@pytest.mark.parametrize(
    ("pairs", "start", "prompt"),
    [(True, "Question 1", "Question 1\n"), (True, "Question 1 ", "Question 1 "),
     (False, "Question 1", "Question 1")],
)  # fmt: skip
def test_sample_ends_a_prompt_as_prepare_does(
    pairs: bool, start: str, prompt: str, runs: dict[bool, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    args = [str(runs[pairs]), f"--start={start}", "--max_new_tokens=1", "--json"]
    assert cli.main(["sample", *args]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == prompt


def test_a_checkpoint_that_does_not_say_is_known_by_its_dataset(
    runs: dict[bool, Path], tmp_path: Path
) -> None:
    for pairs, run in runs.items():
        state = load.load_model(str(run)).state
        assert state.dataset.pairs is pairs
        silent = dataclasses.replace(state.dataset, pairs=None)
        assert chat_template.of_pairs(silent) is pairs
        assert not chat_template.of_pairs(dataclasses.replace(silent, hash="another"))
    assert not chat_template.of_pairs(DatasetRef(name=str(tmp_path / "gone"), hash="0"))


OWN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json", "gguf"])
def test_an_imported_model_keeps_its_own_template(where: str, tmp_path: Path) -> None:
    own = trained(tiny_model("llama"), CHARS)
    own = dataclasses.replace(
        own, state=dataclasses.replace(own.state, imported=Imported(source="x", chat_template=OWN))
    )
    (tmp_path / "first").mkdir()
    if where == "gguf":
        gguf.write(own, tmp_path / "first", "F32")
    else:
        huggingface.write(own, tmp_path / "first", "float32")
    source = tmp_path / "first"
    if where == "gguf":
        assert "TEMPLATE" not in (source / "Modelfile").read_text(encoding="utf-8")
        source = next(source.glob("*.gguf"))
    if where == "chat_template.jinja":
        (source / "tokenizer_config.json").unlink()
        (source / where).write_text(OWN, encoding="utf-8")
    assert cli.main(["import", str(source), str(tmp_path / "run")]) == 0
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "o"), "--format=gguf"]) == 0
    file = gguf_file.read(next((tmp_path / "o").glob("*.gguf")))
    assert file.metadata["tokenizer.chat_template"] == OWN


def test_a_base_model_of_another_program_passes_on(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", tiny_model("llama"), CHARS)
    assert chat_template.chat_template(load.load_model(str(run))) == chat_template.PASS_ON
