"""Token ids and completion labels of GSM8K-like rows by the transformers chat template with its default system prompt.

usage: tokenise.py MODEL DATA.jsonl ROWS [--max-length L]      prints [{"input_ids", "labels"}]
       tokenise.py MODEL TEXT.txt --text CHARS                 prints {"input_ids", "attention_mask"}: natural text, two rows,
                                                               the second shorter and padded on the right
       tokenise.py MODEL TEXT.txt --windows ROWS --max-length L   prints [{"input_ids", "labels"}]: the text's first tokens, L a row
"""
import argparse
import json
from pathlib import Path

from transformers import AutoTokenizer


def examples(tokenizer, data: str, count: int, max_length: "int | None" = None) -> list:
    out = []
    for line in Path(data).read_text().splitlines()[:count]:
        row = json.loads(line)
        turns = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
        prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        assert whole.startswith(prompt)
        ids = tokenizer(whole, add_special_tokens=False).input_ids
        start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
        labels = [-100] * start + ids[start:]
        out.append({"input_ids": ids[:max_length], "labels": labels[:max_length]})
    return out


def natural_text(tokenizer, file: str, chars: int) -> dict:
    text = Path(file).read_text()
    rows = [tokenizer(part, add_special_tokens=False).input_ids for part in (text[:chars], text[chars : chars + chars // 2])]
    length = max(map(len, rows))
    pad = tokenizer.pad_token_id or 0
    return {
        "input_ids": [row + [pad] * (length - len(row)) for row in rows],
        "attention_mask": [[1] * len(row) + [0] * (length - len(row)) for row in rows],
    }


def windows(tokenizer, file: str, count: int, length: int) -> list:
    # So many characters hold that many tokens.
    ids = tokenizer(Path(file).read_text()[: 12 * count * length], add_special_tokens=False).input_ids
    rows = [ids[i * length : (i + 1) * length] for i in range(count)]
    assert len(rows[-1]) == length
    return [{"input_ids": row, "labels": row} for row in rows]


if __name__ == "__main__":
    args = argparse.ArgumentParser()
    args.add_argument("model")
    args.add_argument("data")
    args.add_argument("rows", type=int, nargs="?")
    args.add_argument("--max-length", type=int)
    args.add_argument("--text", type=int)
    args.add_argument("--windows", type=int)
    given = args.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    if given.text:
        print(json.dumps(natural_text(tokenizer, given.data, given.text)))
    elif given.windows:
        print(json.dumps(windows(tokenizer, given.data, given.windows, given.max_length)))
    else:
        print(json.dumps(examples(tokenizer, given.data, given.rows, given.max_length)))
