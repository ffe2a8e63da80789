"""`python -m stressvm` is the command `stressvm`."""

import sys

from stressvm.cli import main

if __name__ == "__main__":
    sys.exit(main())
