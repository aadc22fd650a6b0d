"""Loads adapters in real PEFT and compares their logits with those written by `peft logits`.

usage: load_adapter.py JOBS.json        [{"base", "adapter", "input", "logits"}]; adapter may be null (the bare base)
prints  [{"adapter", "faults", "max_abs", "effect", "tensors"}]: max_abs over positions whose mask is 1, effect = how far
the adapter moves the logits from the base's (an adapter that does nothing proves nothing).
"""
import json
import sys

import torch

from oracle import faults, load_adapter, load_base, logits, read_json, read_tensors


def check(job: dict) -> dict:
    given = read_json(job["input"])
    ids, mask = given["input_ids"], given.get("attention_mask")
    seen = torch.tensor(mask).bool() if mask else torch.ones(len(ids), len(ids[0]), dtype=torch.bool)
    model = load_base(job["base"])
    bare = logits(model, ids, mask)[seen]
    out = {"adapter": job["adapter"], "faults": [], "effect": None, "tensors": 0}
    expected = bare
    if job["adapter"]:
        model, report = load_adapter(model, job["adapter"])
        expected = logits(model, ids, mask)[seen]
        out |= {"faults": faults(report), "tensors": report["tensors"], "effect": (expected - bare).abs().max().item()}
    ours = read_tensors(job["logits"])
    if list(ours) != ["logits"] or ours["logits"].dtype != torch.float32 or ours["logits"].shape[:2] != seen.shape:
        found = {k: (str(v.dtype), tuple(v.shape)) for k, v in ours.items()}
        out["faults"].append(f"{job['logits']} holds {found}, not one F32 `logits` [{seen.shape[0]}, {seen.shape[1]}, vocab]")
        return out
    if not torch.isfinite(ours["logits"][seen]).all():
        out["faults"].append("the logits are not finite")
        return out
    return out | {"max_abs": (ours["logits"][seen] - expected).abs().max().item()}


if __name__ == "__main__":
    print(json.dumps([check(job) for job in read_json(sys.argv[1])]))
