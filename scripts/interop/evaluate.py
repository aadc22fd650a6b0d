"""The loss on the answers of GSM8K-like rows, computed by PyTorch.

usage: evaluate.py MODEL DATA.jsonl ROWS MAX_LENGTH [ADAPTER …]
prints {"base": loss, ADAPTER: loss …}: each the mean over all answer tokens of the rows, which are cut at MAX_LENGTH tokens
"""
import json
import sys

import torch
from transformers import AutoTokenizer

from oracle import faults, load_adapter, load_base
from tokenise import examples


def response_loss(model, rows: list) -> float:
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            labels = torch.tensor(row["labels"][1:])
            scores = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].float()
            total += torch.nn.functional.cross_entropy(scores, labels, ignore_index=-100, reduction="sum").item()
            count += int((labels != -100).sum())
    return total / count


if __name__ == "__main__":
    folder, data, count, length, *adapters = sys.argv[1:]
    rows = examples(AutoTokenizer.from_pretrained(folder), data, int(count), int(length))
    losses = {"base": response_loss(load_base(folder), rows)}
    for adapter in adapters:
        model, report = load_adapter(load_base(folder), adapter)
        if faults(report):
            sys.exit(f"{adapter}: {faults(report)}")
        losses[adapter] = response_loss(model, rows)
    print(json.dumps(losses))
