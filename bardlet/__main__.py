"""`python -m bardlet`, which is what torchrun starts."""

import sys

from bardlet.cli import main

sys.exit(main())
