"""What the scripts beside this file share: loading a base model and an adapter in real PEFT, strictly and in float32.

It must not know what is checked: it returns what PEFT did and said.
"""
import json
import warnings
from pathlib import Path

import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from safetensors import safe_open
from transformers import AutoModelForCausalLM

transformers.utils.logging.set_verbosity_error()

# What PEFT says of a setting, of adapters of its own making too: nothing about the file.
OF_SETTINGS = (
    "Model has `tie_word_embeddings=True` and a tied layer is part of the adapter",
    "`lora_bias=True` was passed but the targeted layer of type Linear has no bias",
)
transformers.utils.logging.disable_progress_bar()


def load_base(folder: str):
    """float32 is asked for: transformers 5 would keep the stored bf16. Eager attention is the reference arithmetic."""
    if "quantization_config" in read_json(f"{folder}/config.json"):
        # Imported here: only these checks need bitsandbytes.
        from quantised import load

        return load(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def read_tensors(file: Path) -> dict:
    with safe_open(file, "pt") as f:
        return {name: f.get_tensor(name) for name in f.keys()}


def load_adapter(base, folder: str):
    """(PeftModel, report). The report is empty of complaints when `faults(report)` is an empty list.

    PEFT says nothing about tensors it did not use, so the file's names are compared with the ones PEFT would save.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, folder).eval()
    said = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    stored = read_tensors(Path(folder) / "adapter_model.safetensors")
    # What "auto" decides, without its look at a model hub.
    embeddings = any(name in (model.peft_config["default"].target_modules or ()) for name in EMBEDDING_LAYER_NAMES)
    loaded = get_peft_model_state_dict(model, save_embedding_layers=embeddings)
    changed = [k for k in stored.keys() & loaded.keys() if not torch.equal(stored[k].float(), loaded[k].float())]
    report = {
        "tensors": len(stored),
        "missing": sorted(loaded.keys() - stored.keys()),
        "unexpected": sorted(stored.keys() - loaded.keys()),
        "changed": sorted(changed),
        "user_warnings": sorted({m for m in said if not m.startswith(OF_SETTINGS)}),
    }
    return model, report


def faults(report: dict) -> list:
    return [f"{key}: {report[key]}" for key in ("missing", "unexpected", "changed", "user_warnings") if report[key]]


def logits(model, ids: list, mask: "list | None" = None):
    """[batch, seq, vocab] float32."""
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask) if mask else None).logits.float()


def read_json(path: str):
    return json.loads(Path(path).read_text())
