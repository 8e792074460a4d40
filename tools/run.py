"""Run a module of the checkout in ComfyUI's Python: `python3 -m tools.run training.sample --columns 4`."""

import sys

from tools.process import call
from tools.provision import CHECKOUT, provision, run_command


def main() -> int:
    if len(sys.argv) < 2:
        raise RuntimeError("no module is named; try `python3 -m tools.run training.sample`")
    return call([provision().python, "-m", *sys.argv[1:]], cwd=CHECKOUT)


if __name__ == "__main__":
    run_command(main)
