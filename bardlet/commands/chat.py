"""`bardlet chat`: a conversation with a model that was finetuned on conversations."""

from __future__ import annotations

import sys

from bardlet.commands.parser import Parser, add_run, parse
from bardlet.commands.sample import CHOICE, shown
from bardlet.commands.settings import run_named
from bardlet.io.terminal import say


def run(parser: Parser, args: list[str]) -> int:
    add_run(parser)
    parser.add_argument("--system", default="", help="system message that it begins with")
    parser.add_argument("--max_new_tokens", type=int, default=500, help="of an answer, at most")
    for name, (default, text) in CHOICE.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=text)
    parser.add_argument("--seed", type=int, default=1337, help="of the random choices")
    parser.add_argument(
        "--message", action="append",
        help="a message to answer, again for more, in place of asking for them",
    )  # fmt: skip
    parsed = parse(parser, args)
    import json

    from bardlet.serve.dialogue import HELP, Dialogue, converse
    from bardlet.serve.model import load

    model = load(
        run_named(parsed, say), checkpoint=parsed.checkpoint, device=parsed.device,
        dtype=parsed.dtype,
    )  # fmt: skip
    options = {
        "max_new_tokens": parsed.max_new_tokens, "seed": parsed.seed, "stop": [],
        **{name: getattr(parsed, name) for name in CHOICE},
    }  # fmt: skip
    quiet = parsed.json
    write = (lambda text: None) if quiet else shown
    dialogue = Dialogue(model, options, write, parsed.system)
    messages = getattr(parsed, "message", None)
    if messages is None and not sys.stdin.isatty():
        messages = sys.stdin.read().splitlines()
    if messages is None:
        shown(f"{HELP}\n")
        converse(dialogue)
    for message in messages or []:
        if message.startswith("/"):
            dialogue.take(message)
        elif message.strip():
            dialogue.answer(message)
    if quiet:
        print(json.dumps({"messages": dialogue.messages}, ensure_ascii=False))
    return 0
