"""Everything this pack knows of ComfyUI's internals.

families.py    the host's transformers: their blocks, their token grids
layers.py      which self-attention layers a model has, and what they are called
capture.py     listens to those layers while the model runs
attention.py   one attention call of a layer: its rows, its image tokens, its maps
compiled.py    runs compiled networks as they were written while they are listened to
unmute.py      makes attention that drops the host's options pass them on
conds.py       which branch is guided, and how the maps of its conds are put together
evaluation.py  one evaluation of the model, with or without context windows
sample.py      the picture in what the sampler works on
process.py     how noise and clean samples make a noisy one
run.py         one sampling run: capture, guidance, trace
patch.py       puts guidance or recording on a MODEL
sampler.py     puts guidance on a SAMPLER
view.py        what the live view shows of a run
vision.py      the attention of a vision model that looks at the prediction
presets.py     which recommended settings a MODEL has
adm.py         OpenAI's pixel models as a MODEL
adm_step.py    what OpenAI's samplers and the rest of a run hand each other
pixels.py      what is clamped of pixel models under the host's own samplers
adm_sampler.py OpenAI's samplers as a SAMPLER
classifier.py  a classifier of noisy images
classifier_guidance.py  puts guidance by it on a MODEL or a SAMPLER
compare.py     several runs of the sampler from inside a node
files.py       checkpoints, traces and studies on disk
"""
