"""docs/chat.md in small: from a text to a base model, from two hundred questions with answers to
one that answers in their form, alike in bardlet, OpenAI's client, transformers and llama.cpp.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from serve_support import Served
from support import tiny_config

from bardlet import cli
from bardlet.data.dataset.folder import Dataset
from bardlet.interop.gguf import export as gguf
from bardlet.interop.huggingface import export as huggingface
from bardlet.interop.load import load_model
from bardlet.interop.pretrained_init import load_pretrained
from bardlet.run import checkpoint, run_folder
from bardlet.serve.dialogue import Dialogue
from bardlet.serve.model import Model, load
from bardlet.system.device import choose
from bardlet.train import train

LIVES = {"Ann": "Rome", "Bob": "Oslo", "Cy": "Bern", "Dee": "Kiel", "Eli": "Lima"}
QUESTIONS = [f"{i} {name}?" for i, name in enumerate(LIVES)]
SHAPE: dict[str, Any] = {"n_embd": 64, "n_head": 2}
LLAMA_CPP = """
import json, sys, xllamacpp
from bardlet.interop.gguf.llamacpp import post
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.use_jinja = sys.argv[1], 128, 1, True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.warmup = params.fit_params = False
params.verbosity = 1
server = xllamacpp.Server(params)
body = {"messages": json.loads(sys.argv[2]), "temperature": 0, "max_tokens": 20}
print(json.dumps(post(server.listening_address, "/v1/chat/completions", body)))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `base` and `chat`."""
    folder = tmp_path_factory.mktemp("chat")
    draw = random.Random(0)
    text = " ".join(f"{n} lives in {LIVES[n]}." for n in draw.choices(list(LIVES), k=300))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    lines = []
    for i, name in enumerate(draw.choices(list(LIVES), k=200)):
        messages = [{"role": "user", "content": f"{i} {name}?"},
                    {"role": "assistant", "content": f"{name} is in {LIVES[name]}."}]  # fmt: skip
        lines.append(json.dumps({"messages": messages}))
    (folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    base, data = folder / "base", folder / "data"
    prepare = ["prepare", str(folder / "text.txt"), "--tokenizer=byte", f"--out={folder / 'plain'}"]
    assert cli.main(prepare) == 0
    train(
        tiny_config(folder / "plain", base, block_size=96, max_iters=30, eval_interval=30, **SHAPE)
    )
    pairs = ["prepare", str(folder / "pairs.jsonl"), f"--tokenizer={base}", f"--out={data}"]
    assert cli.main(pairs) == 0
    options = {"init_from": base, "dataset": data, "out_dir": folder / "chat", "epochs": 16,
               "learning_rate": 1e-2, "device": "cpu", "dtype": "float32", "patience": 0,
               "sample_interval": 60}  # fmt: skip
    given = [f"--{name}={value}" for name, value in options.items()]
    assert cli.main(["train", "chat-sft", *given]) == 0
    return folder


@pytest.fixture(scope="module")
def model(runs: Path) -> Model:
    return load(runs / "chat", dtype="float32")


@pytest.fixture(scope="module")
def answers(model: Model) -> list[str]:
    """What the model says to each question, the likeliest."""
    options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 20}
    return [model.chat(question, **options).text for question in QUESTIONS]


def test_it_answers_in_the_form_of_the_pairs(answers: list[str]) -> None:
    assert answers == [f"{name} is in {town}." for name, town in LIVES.items()]


def test_preparing_again_does_nothing(runs: Path, capsys: Any) -> None:
    """Though the vocabulary that is named has no roles, which the dataset's has."""
    pairs = ["prepare", str(runs / "pairs.jsonl"), f"--tokenizer={runs / 'base'}"]
    assert cli.main([*pairs, f"--out={runs / 'data'}"]) == 0
    assert "is up to date" in capsys.readouterr().err


def test_bardlet_chat(runs: Path, answers: list[str], capsys: Any) -> None:
    asked = [f"--message={question}" for question in QUESTIONS[:2]]
    command = ["chat", str(runs / "chat"), "--temperature=0", "--dtype=float32", "--json"]
    assert cli.main([*command, *asked[:1]]) == 0
    written = json.loads(capsys.readouterr().out)["messages"]
    assert written == [{"role": "user", "content": QUESTIONS[0]},
                       {"role": "assistant", "content": answers[0]}]  # fmt: skip
    assert cli.main(["chat", str(runs / "base"), *asked]) == 2
    assert "has no chat template. Finetune it on conversations" in capsys.readouterr().err


def test_openais_client(model: Model, answers: list[str]) -> None:
    served = Served(model)
    try:
        url = f"http://127.0.0.1:{served.port}/v1"
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)
        messages: Any = []
        for question, answer in zip(QUESTIONS, answers, strict=True):
            messages = [{"role": "user", "content": [{"type": "text", "text": question}]}]
            options: Any = {"model": "play", "messages": messages, "temperature": 0}
            got = client.chat.completions.create(**options)
            assert got.choices[0].message.content == answer
            assert got.choices[0].finish_reason == "stop"
            streamed = client.chat.completions.create(**options, stream=True)
            assert "".join(c.choices[0].delta.content or "" for c in streamed) == answer
        with pytest.raises(openai.BadRequestError, match="has room for 72 beside an answer"):
            client.chat.completions.create(
                model="play", messages=[{"role": "user", "content": "a" * 99}]
            )
        many: Any = [{"role": "user", "content": QUESTIONS[0]},
                     {"role": "assistant", "content": answers[0]}] * 9  # fmt: skip
        options = {"model": "play", "messages": [*many, *messages], "temperature": 0}
        got = client.chat.completions.create(**options)
        assert got.model_extra and got.model_extra["truncated"]
        assert got.choices[0].message.content == answers[-1]
    finally:
        served.close()


def test_transformers_pipeline(runs: Path, answers: list[str], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    huggingface.write(load_model(str(runs / "chat")), tmp_path, "float32")
    with huggingface.quiet():
        pipeline = transformers.pipeline("text-generation", str(tmp_path), device="cpu")
        asked = [{"role": "user", "content": QUESTIONS[1]}]
        got = pipeline(asked, do_sample=False, max_new_tokens=20)
    assert got[0]["generated_text"][-1] == {"role": "assistant", "content": answers[1]}
    again = load_model(str(tmp_path))
    assert again.state.imported and "im_start" in again.state.imported.chat_template
    assert Model(again, choose("cpu", "float32")).conversations.ends == (256, 257, 258)


def test_llama_cpp(runs: Path, answers: list[str], tmp_path: Path, model: Model) -> None:
    pytest.importorskip("xllamacpp")
    gguf.write(load_model(str(runs / "chat")), tmp_path, "F32")
    modelfile = (tmp_path / "Modelfile").read_text(encoding="utf-8")
    assert "<|im_start|>{{ .Role }}" in modelfile and 'PARAMETER stop "<|im_end|>"' in modelfile
    asked = [{"role": "user", "content": QUESTIONS[2]}]
    done = subprocess.run(
        [sys.executable, "-c", LLAMA_CPP, str(tmp_path / "chat-F32.gguf"), json.dumps(asked)],
        capture_output=True, encoding="utf-8", timeout=120, check=True,
    )  # fmt: skip
    reply = json.loads(done.stdout.splitlines()[-1])
    assert reply["choices"][0]["message"]["content"] == answers[2]
    prompt, _ = model.conversations.request(asked)
    assert reply["usage"]["prompt_tokens"] == len(prompt.prompt)


def test_the_models_rows_grow_and_the_old_ones_stay(runs: Path) -> None:
    base = load_model(str(runs / "base")).model.get_parameter("transformer.wte.weight")
    chat, tokenizer, state = checkpoint.load(run_folder.find(runs / "chat", "best"))
    assert base.shape[0] == 257 and chat.config.vocab_size == tokenizer.vocab_size == 259
    assert state.dataset.chat_template and state.dataset.pairs is False
    config = tiny_config(runs / "data", runs / "x", init_from=str(runs / "base"), block_size=96)
    grown = load_pretrained(config, Dataset(runs / "data")).get_parameter("transformer.wte.weight")
    torch.testing.assert_close(grown[:257], base, rtol=0, atol=0)
    torch.testing.assert_close(grown[257], base.mean(0))
    torch.testing.assert_close(grown[258], base.mean(0))


def test_a_dialogue_keeps_its_history(model: Model, answers: list[str], tmp_path: Path) -> None:
    written: list[str] = []
    options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 20, "seed": 1, "stop": []}
    dialogue = Dialogue(model, options, written.append)
    dialogue.take(QUESTIONS[0])
    assert "".join(written) == answers[0] + "\n"
    assert [m["role"] for m in dialogue.messages] == ["user", "assistant"]
    path = tmp_path / "saved.jsonl"
    for line, said in ((f"/save {path}", f"saved as line 1 of {path}"), ("/undo", "0 messages are"),
                       ("/undo", "nothing to take back"), ("/save", "/save takes a file"),
                       (f"/save {path}", "nothing to save"), ("/nonsense", "/reset"),
                       ("/temperature", "takes a number"), ("/temperature 0.5", "temperature 0.5"),
                       ("/system Be short.", "as told"), ("/reset", "begins anew"),
                       ("/save /no/such/folder/x", "cannot save to"),
                       ("a" * 99, "the context of 96 has room")):  # fmt: skip
        written.clear()
        dialogue.take(line)
        assert said in "".join(written), line
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["messages"][1]["content"] == answers[0]
    assert dialogue.messages == [{"role": "system", "content": "Be short."}]
    written.clear()
    dialogue.begin("")
    for question in QUESTIONS[:3]:
        dialogue.take(question)
    assert "(the context is full: the oldest 2 messages are left out)" in "".join(written)
    assert len(dialogue.messages) == 6


def test_ctrl_c_ends_the_answer_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def interrupted(self: Model, completion: Any) -> Any:
        completion.text = "An"
        yield "An"
        raise KeyboardInterrupt

    monkeypatch.setattr(Model, "pieces", interrupted)
    dialogue = Dialogue(model, {"seed": 1, "max_new_tokens": 9}, written.append)
    dialogue.take("Hi")
    assert dialogue.messages[-1] == {"role": "assistant", "content": "An"}
