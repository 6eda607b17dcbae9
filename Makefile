# The developer's commands; .ci/run runs `check` and the tests in a fresh environment.
.PHONY: check fix test smoke docs learn

check:  ## format, lint and types
	ruff format --check .
	ruff check .
	pyright

fix:  ## mend what ruff can mend
	ruff format .
	ruff check --fix .

test:
	pytest

smoke:  ## prepare, train 20 iterations, sample
	bardlet prepare tinyshakespeare
	bardlet train demo --fresh --max_iters=20 --out_dir=out/smoke
	bardlet sample out/smoke --num_samples=1 --max_new_tokens=100

docs:  ## write docs/cli.md from the commands' own help
	python docs/generate_cli.py

learn:  ## run the walkthrough and write its outputs, pictures and notebooks: minutes
	python docs/learn/build.py
