"""A GGUF file as transformers reads it, dequantised to float32, saved as a model folder.

usage: gguf_reference.py PACKAGES FILE.gguf FOLDER      PACKAGES: the folder that holds the Python package gguf
prints the number of parameters
"""
import json
import sys
from pathlib import Path

# Before transformers looks for it.
sys.path.append(sys.argv[1])

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM, GgufConfig  # noqa: E402

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

file, folder = Path(sys.argv[2]), sys.argv[3]
model = AutoModelForCausalLM.from_pretrained(
    file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
)
# It is dense now, and may be saved.
model.hf_quantizer = None
model.save_pretrained(folder)
print(json.dumps(sum(p.numel() for p in model.parameters())))
