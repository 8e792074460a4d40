"""Development commands: `python3 -m tools.<name>` from the checkout, or the Makefile's targets."""
