"""ComfyUI nodes: a schema and a thin `execute` each. What they need of the host is in `host/`."""
