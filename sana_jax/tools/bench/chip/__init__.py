"""Quick benchmark suite of an accelerator, as one command.

`stages` lists the stages in order of value; `runner` runs each in its own
process, with a time budget; the other files implement them.
"""
