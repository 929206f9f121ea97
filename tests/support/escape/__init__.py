"""Small hostile programs. The folder is carried to wherever they are to run: standard library only.

`python3 -m escape FACTS ID...` runs the probes with these ids and prints what came of each.
"""
