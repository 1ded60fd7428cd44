"""The first minutes on an accelerator: what it does, as one command.

`stages` lists what is measured, in order of value; `runner` runs each in a
process of its own, with a budget; the other files are the stages.
"""
