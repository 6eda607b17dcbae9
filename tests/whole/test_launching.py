"""The recipes of docs/launching.md, as far as one machine allows.

Their scripts run under bash with stubs in place of the launchers, and what the stubs are given must
parse: by torchrun's own parser, and as a command of ours.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT, free_port, losses, tiny_config
from torch.distributed.run import get_args_parser

from bardlet.commands import COMMANDS, settings
from bardlet.config import FIELDS, to_toml
from bardlet.train import train

RECIPES = ROOT / "recipes" / "launch"
PAGE = (ROOT / "docs" / "launching.md").read_text(encoding="utf-8")
# what schedulers put into the environment of a job on two nodes
ENVIRONMENT = {
    "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7",
    "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NUM_GPUS_PER_NODE": "8", "DSTACK_NODES_NUM": "2", "DSTACK_GPUS_PER_NODE": "8",
    "DSTACK_MASTER_NODE_IP": "10.0.0.1",
}  # fmt: skip
ENDPOINTS = {"slurm": "node1", "jobset": "bardlet-node-0-0.bardlet", "sky": "10.0.0.1",
             "dstack": "10.0.0.1", "by hand": "10.0.0.1"}  # fmt: skip
STUBS = {
    "srun": 'exec "$@"',
    "scontrol": "printf 'node1\\nnode2\\n'",
    "pip": "true",
    "torchrun": "printf '%s\\0' \"$@\" >> calls; echo >> calls",
}


def document(name: str) -> dict[str, Any]:
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))


def script(name: str) -> str:
    """What a recipe has bash run on a node."""
    if name == "slurm":
        return (RECIPES / "slurm.sh").read_text(encoding="utf-8")
    if name == "by hand":
        return PAGE.split("## Two machines by hand")[1].split("```text\n")[1].split("```")[0]
    if name == "jobset":
        (job,) = document(name)["spec"]["replicatedJobs"]
        (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["bash", "-euc"]
        return container["args"][0]
    if name == "sky":
        return "\n".join([document(name)["setup"], document(name)["run"]])
    return "\n".join(document(name)["commands"])


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_recipes_commands_are_torchruns_and_ours(name: str, tmp_path: Path) -> None:
    """A check, and then a run of a preset, by two launchers that meet at the first node."""
    for stub, body in STUBS.items():
        (tmp_path / stub).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        (tmp_path / stub).chmod(0o755)
    environment = {**os.environ, **ENVIRONMENT, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", script(name)], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text(encoding="utf-8").split("\n")[:-1]
    commands = []
    for call in calls:
        parsed = get_args_parser().parse_args(call.split("\0")[:-1])
        assert (parsed.nnodes, parsed.nproc_per_node) == ("2", "8")
        assert parsed.rdzv_backend == "c10d" and parsed.module
        assert parsed.rdzv_endpoint == f"{ENDPOINTS[name]}:29500"
        assert parsed.training_script == "bardlet"
        commands.append(parsed.training_script_args)
    (check, *check_args), (run, preset, *options) = commands
    assert (check, run) == ("launch-check", "train") and check in COMMANDS and run in COMMANDS
    assert preset in settings.preset_names()
    for option in options:
        assert option.removeprefix("--").partition("=")[0] in FIELDS
    assert all(arg.startswith("--out_dir=") for arg in check_args)


def test_recipes_ask_for_the_machines_that_they_use() -> None:
    directives = [line.removeprefix("#SBATCH --") for line in script("slurm").splitlines()
                  if line.startswith("#SBATCH")]  # fmt: skip
    assert {"nodes=2", "ntasks-per-node=1", "gpus-per-node=8", "signal=TERM@60"} <= set(directives)
    jobset = document("jobset")
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 2
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    # the name that the launchers meet at: JobSet's, job, index of the job and of the pod
    names = f"{jobset['metadata']['name']}-{job['name']}-0-0.{jobset['metadata']['name']}"
    assert names == ENDPOINTS["jobset"]
    assert document("sky")["num_nodes"] == document("dstack")["nodes"] == 2
    assert document("sky")["resources"]["accelerators"] == "H100:8"
    assert document("dstack")["type"] == "task"
    for name in ("slurm.sh", "jobset.yaml", "sky.yaml", "dstack.yaml"):
        assert f"recipes/launch/{name}" in PAGE
        assert (RECIPES / name).is_file()


@pytest.mark.slow
def test_two_agents_are_two_nodes(dataset_folder: Path, tmp_path: Path) -> None:
    """Two launchers that meet at a port of this machine check, and train as one process does."""
    single = tiny_config(dataset_folder, tmp_path / "single", batch_size=4,
                         gradient_accumulation_steps=2)  # fmt: skip
    train(single)
    many = tiny_config(dataset_folder, tmp_path / "many", batch_size=4,
                       gradient_accumulation_steps=2)  # fmt: skip
    (tmp_path / "many.toml").write_text(to_toml(many), encoding="utf-8")
    for words in (["launch-check", f"--out_dir={tmp_path}", "--device=cpu", "--json"],
                  ["train", str(tmp_path / "many.toml")]):  # fmt: skip
        port = free_port()
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1",
            "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--local_addr=127.0.0.1",
            "-m", "bardlet", *words,
        ]  # fmt: skip
        agents = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, "OMP_NUM_THREADS": "1"}) for _ in range(2)
        ]  # fmt: skip
        texts = [agent.communicate(timeout=300) for agent in agents]
        assert [agent.returncode for agent in agents] == [0, 0], shlex.join(words) + texts[0][1]
        if words[0] == "launch-check":
            (report,) = [json.loads(out) for out, _ in texts if out]
            assert report["ok"] and report["processes"] == 2
    assert losses(many) == pytest.approx(losses(single), abs=1e-4)
