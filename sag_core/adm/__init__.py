"""OpenAI's pixel-space diffusion models: guided-diffusion (ADM) and improved-diffusion (IDDPM)."""
