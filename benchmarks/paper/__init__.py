"""The tables of the paper at toy scale, on the embedded model: `python -m benchmarks.paper`, or `make paper`.

ways.py      a way to sample: everything that decides what is drawn
tables.py    which ways each table compares, what the paper found, and what is claimed of it
draw.py      drawing the samples with the pack's own nodes, resumed and shared
attention.py what the network attends to in scenes whose objects are known: IoU and frequency
score.py     samples -> metrics with intervals, claims -> verdicts
page.py      docs/results.md and its figures
"""
