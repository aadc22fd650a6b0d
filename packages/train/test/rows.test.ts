import { bytes } from "@peftjs/safetensors"
import { describe, expect, it } from "vitest"
import { chat, jsonl, readJsonl } from "../src/index.ts"
import { fingerprint } from "../src/rows.ts"

const codeOf = (make: () => unknown): string => {
  try {
    make()
    return "nothing thrown"
  } catch (error) {
    return `${(error as { code: string }).code}: ${(error as Error).message}`
  }
}

const turn = (role: string, content: string): { role: string; content: string } => ({ role, content })

describe("jsonl", () => {
  it("reads every kind of row, skipping blank lines and a byte order mark", () => {
    const lines = [
      { messages: [turn("user", "a"), turn("assistant", "b")], source: "x" },
      { prompt: "a", completion: "b" },
      { prompt: [turn("user", "a")], completion: [turn("assistant", "b")] },
      { question: "a", answer: "b" },
      { text: "a" },
      { input_ids: [1, 2], labels: [-100, 2], attention_mask: [1, 1] },
    ].map((row) => JSON.stringify(row))
    const { rows } = jsonl(`\uFEFF${lines.join("\r\n\n")}\n\n`)
    expect(rows.map(({ kind }) => kind)).toEqual(["messages", "completion", "chat", "chat", "text", "ids"])
    expect(rows[3]).toEqual(rows[2])
    expect(rows[5]).toEqual({ kind: "ids", ids: [1, 2], labels: [-100, 2], mask: [1, 1] })
  })

  it("names the line of a syntax error", () => {
    const message = codeOf(() => jsonl('{"text":"a"}\n\n{"text":\n', "train.jsonl"))
    expect(message).toMatch(/^E_JSON: .*train\.jsonl, line 3/)
  })

  it.each([
    ["", "E_DATA_EMPTY"],
    [" \n\n", "E_DATA_EMPTY"],
    ["[1]", "E_DATA_ROW"],
    ["null", "E_DATA_ROW"],
    ['{"instruction":"a","output":"b"}', "E_DATA_COLUMNS"],
    ['{"prompt":"a"}', "E_DATA_COLUMNS"],
    ['{"text":null}', "E_DATA_COLUMNS"],
    ["{}", "E_DATA_COLUMNS"],
    ['{"text":5}', "E_DATA_ROW"],
    ['{"prompt":"a","completion":[]}', "E_DATA_ROW"],
    ['{"messages":[]}', "E_DATA_ROW"],
    ['{"messages":[{"role":"user"}]}', "E_DATA_ROW"],
    ['{"messages":[{"role":"user","content":[{"type":"text"}]}]}', "E_DATA_ROW"],
    ['{"input_ids":[]}', "E_DATA_ROW"],
    ['{"input_ids":[1.5]}', "E_DATA_ROW"],
    ['{"input_ids":[1,2],"labels":[1]}', "E_DATA_ROW"],
    ['{"input_ids":[1,2],"attention_mask":["1","1"]}', "E_DATA_ROW"],
  ])("refuses %s with %s", (text, code) => {
    expect(codeOf(() => jsonl(text))).toMatch(new RegExp(`^${code}: `))
  })

  it("lists what is accepted when no column set is complete", () => {
    const message = codeOf(() => jsonl('{"instruction":"a"}'))
    for (const part of ['"instruction"', '"messages"', '"prompt" + "completion"', '"question" + "answer"', '"text"'])
      expect(message).toContain(part)
  })

  it("reads a file, and refuses one that is not UTF-8", async () => {
    const source = bytes("data.jsonl", new TextEncoder().encode('{"text":"ä"}\n'))
    expect((await readJsonl(source)).rows).toEqual([{ kind: "text", text: "ä" }])
    await expect(readJsonl(bytes("bad", Uint8Array.of(0xff, 0xfe)))).rejects.toMatchObject({ code: "E_READ" })
  })
})

describe("chat", () => {
  it("takes conversations only", () => {
    expect(chat([{ question: "a", answer: "b" }]).rows).toHaveLength(1)
    expect(codeOf(() => chat([{ question: "a", answer: "b" }, { text: "a" }]))).toMatch(/^E_DATA_COLUMNS: .*row 2/)
  })
})

describe("fingerprint", () => {
  it("changes with any row and with their order", () => {
    const of = (...texts: string[]): string => fingerprint(jsonl(texts.map((text) => ({ text }))).rows)
    expect(of("a", "b")).toBe(of("a", "b"))
    expect(new Set([of("a", "b"), of("b", "a"), of("a"), of("a", "c"), of("ab")]).size).toBe(5)
  })
})
