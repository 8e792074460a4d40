"""Self-Attention Guidance for ComfyUI (arXiv 2210.00939)."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """ComfyUI's way in; imports happen here so that the package can be read without a host."""
    from .nodes.extension import SAGExtension

    return SAGExtension()
