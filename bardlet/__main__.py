"""`python -m bardlet`, which is what torchrun starts."""

import os
import sys

from bardlet.cli import main

code = main()
if "TORCHELASTIC_RUN_ID" in os.environ:
    # all is done and written; threads of torch.distributed now and then hang the interpreter's end
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
