"""Everything this pack knows of ComfyUI's internals.

layers.py      which self-attention layers a model has, and what they are called
capture.py     reads queries and keys of those layers while the model runs
run.py         one sampling run: capture, guidance, trace
patch.py       puts guidance or recording on a MODEL
adm.py         OpenAI's pixel models as a MODEL
files.py       checkpoints and traces on disk
"""
