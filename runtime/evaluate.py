"""How good predicted layouts are: `python -m runtime.evaluate --help` explains the options."""

import sys

from runtime.door import entered

if __name__ == "__main__":
    sys.exit(entered("python -m runtime.evaluate", "runtime.commands.evaluate", install="pip install '.[eval]'"))
