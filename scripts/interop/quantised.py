"""bitsandbytes' bases on the CPU: quantising, saving and loading them, and computing with them in float32.

Two things of bitsandbytes 0.50.2 are put right, because they would hide what is compared:
- Its AVX-512 dequantisation takes the scale of each row where blocks cross the ends of rows; blocks run over the flattened matrix, so
  the kernel is given the matrix as one long row.
- Without gradients it computes in bfloat16 (4 bits, where the CPU can) or with activations rounded to 8 bits (int8).
It must not know what is checked.
"""
import ctypes

import bitsandbytes as bnb
import torch
from bitsandbytes.backends.cpu import ops as cpu_ops
from transformers import AutoModelForCausalLM, BitsAndBytesConfig


class FlatBlocks:
    """The native library, with 4-bit dequantisation seeing a single row of m * n values."""

    def __init__(self, library):
        self.library = library

    def __getattr__(self, name):
        function = getattr(self.library, name)
        if not (name.startswith("cdequantize_blockwise_cpu_") and ("nf4" in name or "fp4" in name)):
            return function
        return lambda a, absmax, out, blocksize, m, n: function(
            a, absmax, out, blocksize, ctypes.c_longlong(1), ctypes.c_longlong(m.value * n.value)
        )


cpu_ops.lib = FlatBlocks(cpu_ops.lib)


def config_of(type: str, double: bool) -> BitsAndBytesConfig:
    if type == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=type,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32,
    )


def load(folder: str, config: "BitsAndBytesConfig | None" = None, dtype=torch.float32, attention: str = "eager"):
    """A folder that is quantised, or with `config` one that is quantised now."""
    given = {} if config is None else {"quantization_config": config}
    model = AutoModelForCausalLM.from_pretrained(
        folder, device_map="cpu", dtype=dtype, attn_implementation=attention, **given
    )
    return model.eval() if dtype == "auto" else computing_in(dtype, model.eval())


def computing_in(dtype, model):
    """What is not quantised included: a folder that is quantised already keeps its own type, whatever is asked for."""
    for values in (*model.parameters(), *model.buffers()):
        if values.is_floating_point():
            values.data = values.data.to(dtype)
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.compute_dtype = dtype
        if isinstance(module, bnb.nn.Linear8bitLt):
            module.train()
    return model


def held(model) -> dict:
    """What its 4-bit layers take: {"layers", "values", "bytes", "bits_per_value"}; tables that layers share count once."""
    layers = [m.weight for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    tensors = []
    for weight in layers:
        state = weight.quant_state
        tensors += [weight.data, state.absmax, state.code]
        if state.nested:
            tensors += [state.state2.absmax, state.state2.code, state.offset]
    memory = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    values = sum(weight.quant_state.shape.numel() for weight in layers)
    total = sum(memory.values())
    return {"layers": len(layers), "values": values, "bytes": total, "bits_per_value": 8 * total / values}
