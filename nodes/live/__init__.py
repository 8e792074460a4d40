"""A run as small pictures for a browser: knows neither ComfyUI nor the nodes."""
