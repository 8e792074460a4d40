"""Self-Attention Guidance (SAG, arXiv 2210.00939) as a library: torch, einops and safetensors, no host."""
