/**
 * Training examples as they are written down: JSON lines in, typed rows out. Must not know tokens; encode.ts makes them.
 * Every row is checked here, so that a mistake in line 7000 is not found after an hour of training.
 */
import type { ChatMessage } from "@peftjs/core"
import { keyOf, PeftError } from "@peftjs/core"
import { type ByteSource, readRange } from "@peftjs/safetensors"

export type Row =
  | { readonly kind: "chat"; readonly prompt: readonly ChatMessage[]; readonly completion: readonly ChatMessage[] }
  | { readonly kind: "messages"; readonly messages: readonly ChatMessage[] }
  | { readonly kind: "completion"; readonly prompt: string; readonly completion: string }
  | { readonly kind: "text"; readonly text: string }
  | {
      readonly kind: "ids"
      readonly ids: readonly number[]
      readonly labels?: readonly number[]
      readonly mask?: readonly number[]
    }

/** Examples in their order, with what to call them in messages. */
export interface Data {
  readonly name: string
  readonly rows: readonly Row[]
}

/** Column sets of a row, the first that is complete counts. Others are left alone. */
const accepted = [["input_ids"], ["messages"], ["prompt", "completion"], ["question", "answer"], ["text"]] as const

/** What the accepted columns are, for messages: "input_ids", "messages", "prompt" + "completion" … */
export const acceptedColumns: string = accepted.map((set) => set.map((c) => `"${c}"`).join(" + ")).join(", ")

/**
 * Reads examples from JSON lines, or checks objects that are already there.
 * Columns: `input_ids` (with `labels` and `attention_mask`), `messages`, `prompt` and `completion` (texts or message lists),
 * `question` and `answer` (a chat of user and assistant), `text`. Blank lines and further columns are left out.
 *
 * @throws E_JSON naming the line, E_DATA_COLUMNS, E_DATA_ROW, E_DATA_EMPTY
 */
export function jsonl(textOrRows: string | readonly unknown[], name = "data"): Data {
  const rows: Row[] = []
  const lines = typeof textOrRows === "string" ? textOrRows.replace(/^\uFEFF/, "").split("\n") : textOrRows
  for (const [index, line] of lines.entries()) {
    const where = `${name}, line ${index + 1}`
    if (typeof textOrRows !== "string") rows.push(parseRow(line, where))
    else if ((line as string).trim() !== "") rows.push(parseRow(parseJson(line as string, where), where))
  }
  if (rows.length > 0) return { name, rows }
  throw new PeftError("E_DATA_EMPTY", `[train] ${name} has no rows; give at least one JSON object per line`)
}

/** Reads a file of JSON lines. Throws as `jsonl` does, and E_READ when it is not UTF-8. */
export async function readJsonl(source: ByteSource): Promise<Data> {
  const data = await readRange(source, 0, source.size)
  let text: string
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(data)
  } catch (cause) {
    throw new PeftError("E_READ", `[train] ${source.name} is not UTF-8 text; save it as UTF-8`, { cause })
  }
  return jsonl(text, source.name)
}

/**
 * Conversations: as `jsonl`, and every row must be one (`messages`, `question` and `answer`, or prompt and completion as messages).
 *
 * @throws E_DATA_COLUMNS naming the first row that is not, and what `jsonl` throws
 */
export function chat(textOrRows: string | readonly unknown[], name = "data"): Data {
  return requireChat(jsonl(textOrRows, name))
}

export function requireChat(data: Data): Data {
  const other = data.rows.findIndex(({ kind }) => kind !== "chat" && kind !== "messages")
  if (other < 0) return data
  throw new PeftError(
    "E_DATA_COLUMNS",
    `[train] ${data.name}: row ${other + 1} is no conversation; give "messages" or "question" + "answer", or read it with jsonl`,
  )
}

/** A number that changes when one of the values does. Not safe against people who want to collide. */
export function fingerprint(values: readonly unknown[]): string {
  const [a, b] = values.reduce<readonly [number, number]>(
    (key, value) => keyOf(key[0], key[1], JSON.stringify(value)),
    [0, 0],
  )
  return [a, b].map((word) => word.toString(16).padStart(8, "0")).join("")
}

function parseJson(line: string, where: string): unknown {
  try {
    return JSON.parse(line)
  } catch (cause) {
    throw new PeftError("E_JSON", `[train] ${where} is not JSON: ${(cause as Error).message}`, { cause })
  }
}

function parseRow(value: unknown, where: string): Row {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new PeftError("E_DATA_ROW", `[train] ${where} is not a JSON object; each line is one example`)
  const row = value as Record<string, unknown>
  const set = accepted.find((columns) => columns.every((c) => row[c] !== undefined && row[c] !== null))
  if (!set) {
    const given =
      Object.keys(row)
        .map((c) => `"${c}"`)
        .join(", ") || "no columns"
    throw new PeftError("E_DATA_COLUMNS", `[train] ${where} has ${given}; accepted are ${acceptedColumns}`)
  }
  const wrong = (column: string, want: string): never => {
    throw new PeftError("E_DATA_ROW", `[train] ${where}: "${column}" must be ${want}`)
  }
  const text = (column: string): string => {
    const found = row[column]
    return typeof found === "string" ? found : wrong(column, "a text")
  }
  const messages = (column: string): ChatMessage[] =>
    isMessages(row[column]) ? row[column] : wrong(column, `a list of at least one { "role", "content" }, both texts`)
  const integers = (column: string, length?: number): number[] => {
    const found = row[column]
    if (!Array.isArray(found) || !found.every(Number.isInteger)) return wrong(column, "a list of whole numbers")
    return length === undefined || found.length === length ? found : wrong(column, `as long as "input_ids" (${length})`)
  }
  switch (set[0]) {
    case "messages":
      return { kind: "messages", messages: messages("messages") }
    case "prompt":
      if (typeof row.prompt === "string")
        return { kind: "completion", prompt: row.prompt, completion: text("completion") }
      return { kind: "chat", prompt: messages("prompt"), completion: messages("completion") }
    case "question":
      return {
        kind: "chat",
        prompt: [{ role: "user", content: text("question") }],
        completion: [{ role: "assistant", content: text("answer") }],
      }
    case "text":
      return { kind: "text", text: text("text") }
    case "input_ids": {
      const ids = integers("input_ids")
      if (ids.length === 0) wrong("input_ids", "a list of at least one token id")
      return {
        kind: "ids",
        ids,
        ...(row.labels == null ? {} : { labels: integers("labels", ids.length) }),
        ...(row.attention_mask == null ? {} : { mask: integers("attention_mask", ids.length) }),
      }
    }
  }
}

function isMessages(value: unknown): value is ChatMessage[] {
  const isMessage = (m: unknown): boolean =>
    typeof m === "object" &&
    m !== null &&
    ["role", "content"].every((k) => typeof (m as Record<string, unknown>)[k] === "string")
  return Array.isArray(value) && value.length > 0 && value.every(isMessage)
}
