"""`python -m rfc_compile` is the command `rfc-compile`."""

import sys

from rfc_compile.cli import main

sys.exit(main())
