"""`python -m bardlet`, which is what torchrun starts."""

import os
import sys

from bardlet.cli import main

code = main()
if "TORCHELASTIC_RUN_ID" in os.environ:
    # All is done and written. Python's own end has been seen to hang here, in one of thirty runs
    # and for no known cause: no thread of gloo and no process group of ours is left by then.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
