"""Tensors of a safetensors file (no half precision), for the harness.

usage: tensors.py FILE NAME …                          prints {NAME: nested list}
       tensors.py FILE --against OTHER [NAME OTHERNAME]
           prints the largest difference from OTHER: of all tensors of FILE, or of NAME from OTHERNAME, whose last positions are
           compared when NAME holds fewer; 1e30 when names or shapes do not fit or something is not a number
"""
import json
import sys

import numpy as np
from safetensors.numpy import load_file


def difference(a, b) -> float:
    if a.shape != b.shape or not np.isfinite(b).all():
        return 1e30
    return float(np.abs(a - b).max(initial=0))


def against(mine: dict, other: dict, names: list) -> float:
    if names:
        a, b = mine[names[0]], other[names[1]]
        return difference(a, b[:, -a.shape[1] :])
    return max(difference(mine[k], other[k]) for k in mine) if mine.keys() <= other.keys() else 1e30


if __name__ == "__main__":
    file, *names = sys.argv[1:]
    if names[0] == "--against":
        print(json.dumps(against(load_file(file), load_file(names[1]), names[2:])))
    else:
        tensors = load_file(file)
        print(json.dumps({name: tensors[name].tolist() for name in names}))
