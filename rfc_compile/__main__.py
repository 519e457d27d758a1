"""`python -m rfc_compile` is the command `rfc-compile`."""

import sys

from rfc_compile.tools.cli.main import main

sys.exit(main())
