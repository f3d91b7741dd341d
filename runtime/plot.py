"""Draw a layout that exists: `python -m runtime.plot --help` explains the options."""

import sys

from runtime.door import entered

if __name__ == "__main__":
    sys.exit(entered("python -m runtime.plot", "runtime.commands.plot", install="pip install '.[plot]'"))
