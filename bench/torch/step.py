"""PyTorch's side of `npm run bench:torch`: training steps with PEFT and bitsandbytes on the rows of `peft bench`, measured as it does.

usage: step.py '{"model", "method", "checkpointing", "dtype", "batch", "tokens", "steps", "threads", "r", "adapter"}'
  method: lora, full or qlora; dtype: fp32 or bf16; adapter: folder to start from, written by the first run that finds none
prints one JSON object with the names that `peft bench --json` uses, and the versions of what ran
"""
import json
import re
import statistics
import sys
import time
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def load(job: dict):
    """The base, with the attention that transformers chooses, which is its fastest."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[job["dtype"]]
    if job["method"] != "qlora":
        return AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype)
    from quantised import config_of, load as load_quantised

    model = load_quantised(job["model"], config_of("nf4", True), dtype, "sdpa")
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def trainable(model, job: dict):
    """The model to train; `all-linear` leaves out the head, as it does in `peft bench`."""
    if job["checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.config.use_cache = False
    if job["method"] == "full":
        return model.train()
    start = Path(job["adapter"])
    if not start.exists():
        torch.manual_seed(0)
        config = LoraConfig(task_type="CAUSAL_LM", r=job["r"], lora_alpha=16, target_modules="all-linear")
        model = get_peft_model(model, config)
        model.save_pretrained(start)
        return model.train()
    return PeftModel.from_pretrained(model, start, is_trainable=True).train()


def rows(batch: int, tokens: int, vocabulary: int) -> torch.Tensor:
    return ((torch.arange(batch * tokens) * 7919 % 40_000 + 5) % vocabulary).reshape(batch, tokens)


def gemm_gflops(size: int = 1024, runs: int = 5) -> float:
    """The median of some products after one to warm up."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        a @ b.T
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[1:]) / 1e9


def peak_rss_mb() -> float:
    found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024


def versions() -> dict:
    out = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    if "bitsandbytes" in sys.modules:
        out["bitsandbytes"] = sys.modules["bitsandbytes"].__version__
    return out


def packed(model, job: dict) -> dict:
    if job["method"] != "qlora":
        return {}
    from quantised import held

    return {"packed": held(model)}


def main(job: dict) -> dict:
    torch.set_num_threads(job["threads"])
    started = time.perf_counter()
    model = trainable(load(job), job)
    ids = rows(job["batch"], job["tokens"], model.config.vocab_size)
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-4, weight_decay=0.0)
    load_s = time.perf_counter() - started
    seconds, processor, losses, rates = [], [], [], []
    for step in range(job["steps"] + 1):
        wall, used = time.perf_counter(), time.process_time()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - wall)
        processor.append(time.process_time() - used)
        rates.append(gemm_gflops())
        print(f"PyTorch step {step + 1}: {seconds[-1]:.2f} s, loss {losses[-1]:.4f}", file=sys.stderr)
    peak = peak_rss_mb()
    return {
        "step_s": statistics.median(seconds[1:]),
        "cpu_step_s": statistics.median(processor[1:]),
        "first_step_s": seconds[0],
        "load_s": load_s,
        "peak_rss_mb": peak,
        "trainable": sum(p.numel() for p in learnt),
        "kernels": f"PyTorch ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)",
        "gemm_gflops": statistics.median(rates),
        "losses": losses,
        **packed(model, job),
        "versions": versions(),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
