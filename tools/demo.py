"""The quickstart: provision a ComfyUI, then run tools/quickstart.py in its Python."""

import time

from tools.process import call
from tools.provision import CHECKOUT, provision, run_command


def main() -> int:
    started = time.monotonic()
    host = provision()
    print(f"ComfyUI: {host.origin}", flush=True)
    seconds = f"{time.monotonic() - started:.3f}"
    return call([host.python, "-m", "tools.quickstart", host.to_json(), seconds], cwd=CHECKOUT)


if __name__ == "__main__":
    run_command(main)
