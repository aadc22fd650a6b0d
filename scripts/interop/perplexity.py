"""Perplexity of models on rows of token ids, computed by PyTorch in float32.

usage: perplexity.py ROWS.jsonl MODEL …      rows: {"input_ids"}; every token but a row's first is predicted
prints {MODEL: perplexity}
"""
import json
import math
import sys
from pathlib import Path

import torch

from oracle import load_base


def perplexity(model, rows: list) -> float:
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row["input_ids"]])
            scores = model(input_ids=ids).logits[0, :-1].float()
            total += torch.nn.functional.cross_entropy(scores, ids[0, 1:], reduction="sum").item()
            count += ids.shape[1] - 1
    return math.exp(total / count)


if __name__ == "__main__":
    file, *models = sys.argv[1:]
    rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
    print(json.dumps({folder: perplexity(load_base(folder), rows) for folder in models}))
