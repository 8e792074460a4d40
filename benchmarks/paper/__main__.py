"""`python -m benchmarks.paper`: runs in ComfyUI's Python, whichever Python it is called with."""

import sys
from pathlib import Path

from tools.process import call
from tools.provision import CHECKOUT, provision, run_command, tools_environment


def main() -> int:
    host = provision()
    # Links are not followed: a virtual environment's Python is a link to the one it was made from.
    if Path(sys.executable) != Path(host.python):
        return call([host.python, "-m", "benchmarks.paper", *sys.argv[1:]], cwd=CHECKOUT,
                    env=tools_environment(host.tools))
    from benchmarks.paper.command import main as run

    run()
    return 0


if __name__ == "__main__":
    run_command(main)
