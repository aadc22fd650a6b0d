"""Quantises a model with bitsandbytes, saves it with transformers, and says how far the files of another quantisation are from it.

usage: quantise.py MODEL JOBS.json     [{"type", "double", "output", "other"}]; other: the same model quantised by someone else
prints [{"tensors", "different", "nested_rel", "missing"}]: how many tensors, those whose bytes differ (not counting the next), the
       largest relative difference of nested scales and offsets, which are rounded sums, and names that only one of the two has
"""
import json
import sys
from pathlib import Path

import torch

from oracle import read_json, read_tensors
from quantised import config_of, load

ROUNDED = (".nested_absmax", ".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")


def numbers(name: str, tensor):
    """The scales, or of a layer's JSON the offset; nothing where the rest of the JSON says something else."""
    if name.endswith(".nested_absmax"):
        return tensor.double(), None
    state = json.loads(bytes(tensor.tolist()))
    return torch.tensor([state.pop("nested_offset", 0.0)], dtype=torch.float64), state


def compare(theirs: dict, ours: dict) -> dict:
    different, apart = [], 0.0
    for name in theirs.keys() & ours.keys():
        a, b = theirs[name], ours[name]
        if name.endswith(ROUNDED):
            (x, said), (y, own) = numbers(name, a), numbers(name, b)
            if said == own and x.shape == y.shape:
                apart = max(apart, ((x - y).abs() / x.abs().clamp_min(1e-30)).max().item())
                continue
        if a.dtype != b.dtype or a.shape != b.shape or not torch.equal(a, b):
            different.append(name)
    missing = sorted(theirs.keys() ^ ours.keys())
    return {"tensors": len(theirs), "different": sorted(different), "nested_rel": apart, "missing": missing}


if __name__ == "__main__":
    folder, jobs = sys.argv[1:]
    out = []
    for job in read_json(jobs):
        model = load(folder, config_of(job["type"], job["double"]), dtype="auto")
        model.save_pretrained(job["output"])
        del model
        files = [Path(job[which]) / "model.safetensors" for which in ("output", "other")]
        out.append(compare(*map(read_tensors, files)))
    print(json.dumps(out))
