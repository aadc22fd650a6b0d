"""Is an adapter that went through another program the same adapter to PEFT?

usage: roundtrip.py JOBS.json     [{"base", "before", "after", "input"}]
prints  [{"before", "faults", "max_abs", "effect"}]: faults name every difference of configuration, tensor names, dtypes or
values and every complaint of PEFT; max_abs is the difference of the logits, 0 when nothing changed.
"""
import json
import sys
from pathlib import Path

import torch
from peft import PeftConfig

from oracle import faults, load_adapter, load_base, logits, read_json, read_tensors


def config(folder: str) -> dict:
    """As PEFT understands it; lists that PEFT keeps as sets are sorted. auto_mapping and the version are about the writer."""
    seen = PeftConfig.from_pretrained(folder).to_dict()
    for key in ("peft_version", "auto_mapping"):
        seen.pop(key, None)
    return {k: sorted(v) if isinstance(v, (set, list)) and k in SETS else v for k, v in seen.items()}


SETS = ("target_modules", "exclude_modules", "modules_to_save")


def check(job: dict) -> dict:
    before, after = job["before"], job["after"]
    out = {"before": before, "faults": []}
    was, now = config(before), config(after)
    out["faults"] += [f"config {k}: {was.get(k)!r} became {now.get(k)!r}" for k in sorted(was.keys() | now.keys()) if was.get(k) != now.get(k)]
    lost = read_json(f"{before}/adapter_config.json").keys() - read_json(f"{after}/adapter_config.json").keys()
    out["faults"] += [f"config keys lost: {sorted(lost)}"] if lost else []
    old, new = (read_tensors(Path(f) / "adapter_model.safetensors") for f in (before, after))
    out["faults"] += [f"names lost {sorted(old.keys() - new.keys())} or added {sorted(new.keys() - old.keys())}"] if old.keys() != new.keys() else []
    for name in sorted(old.keys() & new.keys()):
        kept = new[name].dtype in (old[name].dtype, torch.float32)  # PEFT itself widens half precision to float32
        if not kept or not torch.equal(old[name].float(), new[name].float()):
            out["faults"].append(f"{name}: {old[name].dtype} {tuple(old[name].shape)} changed")
    given = read_json(job["input"])
    results = []
    for folder in (before, after):
        model, report = load_adapter(load_base(job["base"]), folder)
        out["faults"] += [f"{folder}: {fault}" for fault in faults(report)]
        results.append(logits(model, given["input_ids"], given.get("attention_mask")))
    bare = logits(load_base(job["base"]), given["input_ids"], given.get("attention_mask"))
    out["max_abs"] = (results[0] - results[1]).abs().max().item()
    out["effect"] = (results[0] - bare).abs().max().item()
    return out


if __name__ == "__main__":
    print(json.dumps([check(job) for job in read_json(sys.argv[1])]))
