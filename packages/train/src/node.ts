/** Node's files for training: data, metrics.jsonl and checkpoints. The only file of this package that imports from Node. */
import { appendFile, readFile, rm } from "node:fs/promises"
import { basename, dirname, join } from "node:path"
import { PeftError } from "@peftjs/core"
import { checkPath, writeText } from "@peftjs/safetensors"
import { nodeFile, nodeFiles } from "@peftjs/safetensors/node"
import type { CheckpointStore } from "./checkpoint.ts"
import type { StepMetrics } from "./metrics.ts"
import { type Data, readJsonl, requireChat } from "./rows.ts"

/** Reads a file of JSON lines. Throws E_FILE_NOT_FOUND, E_NOT_A_FILE, E_READ and what `jsonl` throws. */
export async function jsonlFile(path: string): Promise<Data> {
  return readJsonl(await nodeFile(path))
}

/** Reads a file of conversations: `train(model, chat("train.jsonl"))`. Throws as `jsonlFile` and `chat` do. */
export async function chat(path: string): Promise<Data> {
  return requireChat(await jsonlFile(path))
}

/** A folder on disk for checkpoints. */
export function checkpointFolder(dir: string): CheckpointStore {
  return { ...nodeFiles(dir), remove: (path) => rm(join(dir, checkPath(path)), { recursive: true, force: true }) }
}

/**
 * A writer for metrics.jsonl: each call appends one line, so a run that dies keeps what it had reported.
 *
 * @param after the step a resumed run continues from: lines of later steps, which will come again, are dropped; 0 starts anew
 * @throws E_WRITE
 */
export async function metricsFile(path: string, after = 0): Promise<(metrics: StepMetrics) => Promise<void>> {
  const old = after === 0 ? "" : await readFile(path, "utf8").catch(() => "")
  const kept = old.split("\n").filter((line) => stepOf(line) <= after)
  const folder = dirname(path)
  await writeText(nodeFiles(folder), basename(path), kept.map((line) => `${line}\n`).join(""))
  return async (metrics) => {
    try {
      await appendFile(path, `${JSON.stringify(metrics)}\n`)
    } catch (cause) {
      throw new PeftError("E_WRITE", `[train] cannot write ${path}: ${(cause as Error).message}`, { cause })
    }
  }
}

// A line that a dying process left unfinished is dropped too.
function stepOf(line: string): number {
  try {
    return Number((JSON.parse(line) as StepMetrics).step)
  } catch {
    return Number.POSITIVE_INFINITY
  }
}
