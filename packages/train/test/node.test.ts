import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { train } from "../src/index.ts"
import { chat, checkpointFolder, jsonlFile, metricsFile } from "../src/node.ts"
import { recordedRows, valuesOf, withLora } from "./helpers.ts"

let dir = ""
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "peftjs-train-"))
})
afterAll(() => rm(dir, { recursive: true }))

const metrics = (step: number) => ({ step, loss: 1, learning_rate: 0, grad_norm: 1, tokens: 2, input_tokens: 3 })

describe("data files", () => {
  it("are read, and errors name them", async () => {
    const path = join(dir, "rows.jsonl")
    await writeFile(path, '{"question":"a","answer":"b"}\n{"text":"c"}\n')
    expect((await jsonlFile(path)).rows.map(({ kind }) => kind)).toEqual(["chat", "text"])
    await expect(chat(path)).rejects.toThrow(/rows\.jsonl: row 2.*E_DATA_COLUMNS/)
    await expect(jsonlFile(join(dir, "none.jsonl"))).rejects.toMatchObject({ code: "E_FILE_NOT_FOUND" })
    await writeFile(path, "")
    await expect(jsonlFile(path)).rejects.toMatchObject({ code: "E_DATA_EMPTY" })
  })
})

describe("metricsFile", () => {
  const lines = async (path: string): Promise<number[]> =>
    (await readFile(path, "utf8"))
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line).step)

  it("appends, and drops what a resumed run will write again", async () => {
    const path = join(dir, "deep", "metrics.jsonl")
    const write = await metricsFile(path)
    for (const step of [1, 2, 3]) await write(metrics(step))
    expect(await lines(path)).toEqual([1, 2, 3])
    await writeFile(path, '{"step":4,"lo', { flag: "a" })
    await (await metricsFile(path, 2))(metrics(3))
    expect(await lines(path)).toEqual([1, 2, 3])
    await (await metricsFile(path))(metrics(1))
    expect(await lines(path)).toEqual([1])
  })
})

describe("checkpointFolder", () => {
  it("holds the last two checkpoints on disk, from which a run continues", async () => {
    const data = recordedRows()
    const options = { maxSteps: 6, batchSize: 2, learningRate: 0.01 }
    const checkpoints = checkpointFolder(join(dir, "checkpoints"))
    const [plain, first, second] = [await withLora(), await withLora(), await withLora()]
    await train(plain, data, options)
    const controller = new AbortController()
    const onStep = ({ step }: { step: number }): void => (step === 5 ? controller.abort() : undefined)
    await train(first, data, { ...options, checkpoints, saveSteps: 1, onStep, signal: controller.signal })
    expect((await readdir(join(dir, "checkpoints"))).sort()).toEqual(["latest.json", "step-4", "step-5"])
    await train(second, data, { ...options, checkpoints, resume: true })
    expect(await valuesOf(second)).toEqual(await valuesOf(plain))
  })
})
