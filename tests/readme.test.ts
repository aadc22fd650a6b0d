/** What the README tells people to type, typed: every `peft` line of its shell blocks, on a tiny model. The program is run by scripts/check-consumer.ts. */
import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, describe, expect, it } from "vitest"
import { writeTinyModel } from "../scripts/tiny-model.ts"

const root = fileURLToPath(new URL("..", import.meta.url))
const work = mkdtempSync(join(tmpdir(), "peft-readme-"))
const model = join(work, "model")
const rows = join(work, "rows.jsonl")
writeTinyModel(model)
const row = JSON.stringify({ question: "How many clips?", answer: "Seven." })
writeFileSync(rows, `${row}\n`.repeat(8))
afterAll(() => rmSync(work, { recursive: true, force: true }))

const readme = readFileSync(join(root, "README.md"), "utf8")
const blocks = [...readme.matchAll(/^```sh\n(.*?)^```/gms)].map(([, body]) => body as string)
const commands = blocks
  .flatMap((block) => block.replaceAll(/\n\s+/g, " ").split("\n"))
  .filter((line) => /^(npx )?peft /.test(line))

/** The line as an argument list: comments, "…" and optional parts left out, names of folders and files filled in. */
function argumentsOf(line: string): string[] {
  const places: Record<string, string> = {
    DIR: model,
    "./SmolLM2-135M-Instruct": model,
    "FILE.jsonl": rows,
    "train.jsonl": rows,
    OUT: join(work, "out"),
    out: join(work, "other"),
    "OUT/adapter": join(work, "out/adapter"),
    MERGED: join(work, "merged"),
  }
  const plain = line
    .replace(/^(npx )?peft /, "")
    .replace(/\s#.*$/, "")
    .replaceAll(/\[(--adapter[^\]]*)\]/g, "$1")
  const words =
    plain
      .replaceAll(/\[[^\]]*\]/g, "")
      .replaceAll("…", "")
      .match(/"[^"]*"|\S+/g) ?? []
  const filled = words.map((word) => places[word] ?? word.replaceAll('"', ""))
  const short = { train: ["--max-steps", "2"], generate: ["--max-new-tokens", "4"] }[filled[0] as string] ?? []
  return [...filled, ...short]
}

describe("the README's commands", () => {
  it("are found", () => expect(commands.length).toBeGreaterThan(4))
  for (const line of commands) {
    it(line.slice(0, 60), () => {
      const bin = join(root, "packages/cli/bin/peft.js")
      const { status, stderr } = spawnSync(process.execPath, [bin, ...argumentsOf(line)], {
        encoding: "utf8",
        cwd: work,
      })
      expect(status, stderr).toBe(0)
    })
  }
})
