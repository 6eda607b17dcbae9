"""`python -m bardlet`, which is what torchrun starts."""

import os
import sys

from bardlet.cli import main

code = main()
if "TORCHELASTIC_RUN_ID" in os.environ:
    # All is done and written, and threads of gloo may be left: a process that lets go of tensors in
    # them while Python ends has hung or aborted (see release_wrapped in system/distributed.py).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
