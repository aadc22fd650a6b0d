import { cpSync, existsSync, readFileSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { type Backend, bytesPerElement, type DeviceBuffer } from "@peftjs/core"
import { loadCausalLM } from "@peftjs/models"
import { nodeFiles } from "@peftjs/safetensors/node"
import { jsonl, train } from "@peftjs/train"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import { makeBackend } from "../src/backend.ts"
import type { DryRun } from "../src/dry-run.ts"
import { estimateMemory, fullBatch, mebibytes } from "../src/memory/estimate.ts"
import { headersOnly } from "../src/memory/headers-only.ts"
import { shapeBackend } from "../src/memory/shape-backend.ts"
import { makeTrainable } from "../src/trainable.ts"
import { fixtures, makeWorkplace, peft, peftJson, type Workplace } from "./run-peft.ts"

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 })

let work: Workplace
beforeAll(() => {
  work = makeWorkplace()
})
afterAll(() => work.remove())

const dry = (...args: string[]): Promise<DryRun> => peftJson("train", "--dry-run", "--model", work.model, ...args)

describe.concurrent("peft train --dry-run", () => {
  it("counts what a run counts, site by site, and writes nothing", async () => {
    const output = work.path("never")
    const found = await dry("--data", work.rows, "--output", output)
    const real = await peftJson<{ trainable: number; total: number }>(
      ...["train", "--model", work.model, "--data", work.rows, "--output", work.path("real"), "--max-steps", "1"],
    )
    expect(found).toMatchObject({ dry_run: true, method: "lora", trainable: real.trainable, total: real.total })
    expect(found.trainable_percent).toBeCloseTo((100 * real.trainable) / real.total, 10)
    expect(found.sites.reduce((n, { parameters }) => n + parameters, 0)).toBe(real.trainable)
    expect(found.sites).toHaveLength(14)
    for (const { shape, parameters } of found.sites)
      expect(parameters).toBe(8 * (shape[0] as number) + 8 * (shape[1] as number))
    expect([found.whole, found.unmatched]).toEqual([[], []])
    // The longest of the rows, not --max-length.
    expect(found.batch).toMatchObject({ rows: 4 })
    expect(found.batch?.tokens).toBeLessThan(100)
    expect(existsSync(output)).toBe(false)
  })

  it("names the targets that select nothing, and goes on with the others", async () => {
    const found = await dry("--target-modules", "q_proj,v_porj,nothing_like_it")
    expect(found.sites.map(({ path }) => path)).toEqual([0, 1].map((n) => `model.layers.${n}.self_attn.q_proj`))
    expect(found.unmatched).toEqual([
      { target: "v_porj", hint: expect.stringMatching(/did you mean .*v_proj/) },
      { target: "nothing_like_it", hint: expect.stringContaining("the model has") },
    ])
    const none = await dry("--target-modules", "q_porj")
    expect(none).toMatchObject({ trainable: 0, sites: [], memory_mb: null, unmatched: [{ target: "q_porj" }] })
  })

  it("is one line per kind of layer for people", async () => {
    const { stdout } = await peft("train", "--dry-run", "--model", work.model, "--target-modules", "v_proj,oops")
    expect(stdout).toMatch(/^lora would train [\d,]+ of [\d,]+ parameters \(\d+\.\d\d %\)\n/)
    expect(stdout).toMatch(/^model\.layers\.\*\.self_attn\.v_proj +\[\d+, \d+\] +0–1 +[\d,]+ +[\d,]+$/m)
    expect(stdout).toMatch(/^ {2}oops: the model has /m)
    expect(stdout).toMatch(/^about \d+ MB of memory for 4 rows of 256 tokens$/m)
  })

  it("reads no weights: they may be missing but for their header", async () => {
    const folder = work.path("hollow")
    cpSync(work.model, folder, { recursive: true })
    const file = join(folder, "model.safetensors")
    const [bytes, header] = [readFileSync(file), readFileSync(file).readUInt32LE(0)]
    // A file of the right size with nothing in it.
    truncateSync(file, 8 + header)
    truncateSync(file, bytes.length)
    const hollow = await peftJson<DryRun>("train", "--dry-run", "--model", folder)
    expect(hollow.sites).toHaveLength(14)
  })

  it("full fine-tuning, an adapter to start from, a random model", async () => {
    const full = await dry("--method", "full")
    expect(full.sites).toEqual([])
    expect(full.trainable).toBe(full.total)
    expect(full.whole.map(({ path }) => path)).toContain("model.norm.weight")
    const started = await peftJson<DryRun>(
      ...["train", "--dry-run", "--model", join(fixtures, "models", "llama")],
      ...["--init-adapter", join(fixtures, "adapters", "llama", "lora-qv-r4")],
    )
    expect(new Set(started.sites.map(({ path }) => path.split(".").at(-1)))).toEqual(new Set(["q_proj", "v_proj"]))
    const random = await peftJson<DryRun>("train", "--dry-run", "--init-config", join(work.model, "config.json"))
    expect(random).toMatchObject({ method: "full", total: full.total })
  })

  it("refuses what a run refuses", async () => {
    const data = work.path("broken.jsonl")
    writeFileSync(data, '{"text": }\n')
    const { code, stdout, stderr } = await peft("train", "--dry-run", "--model", work.model, "--data", data)
    expect([code, stdout]).toEqual([1, ""])
    expect(stderr).toMatch(/broken\.jsonl, line 1.*\(E_JSON\)/)
  })
})

it("a run begins with the estimate, and ends with it beside what was measured", async () => {
  const args = ["train", "--model", work.model, "--data", work.rows, "--max-steps", "1", "--output"]
  const { stdout, stderr } = await peft(...args, work.path("said"))
  const parts = "process \\d+, weights \\d+, trainable \\d+, optimizer \\d+, activations \\d+, logits \\d+"
  expect(stderr).toMatch(new RegExp(`^about \\d+ MB of memory for 4 rows of \\d+ tokens: ${parts}$`, "m"))
  expect(stdout).toMatch(/^memory: {2}at most \d+ MB, estimated \d+ MB$/m)
  const { peak_rss_mb, estimated_mb } = await peftJson<Record<string, number>>(...args, work.path("told"))
  expect(estimated_mb).toBeGreaterThan(0.5 * (peak_rss_mb as number))
  expect(estimated_mb).toBeLessThan(1.2 * (peak_rss_mb as number))
})

describe.concurrent("peft estimate", () => {
  const common = ["--model", "", "--method", "qlora", "--batch-size", "2", "--max-length", "32"]
  const estimate = (...args: string[]): Promise<Pick<DryRun, "memory_mb" | "batch">> => {
    return peftJson("estimate", ...common.with(1, work.model), ...args)
  }

  it("says what the dry run says of memory, and reads no data where none is given", async () => {
    const found = await estimate()
    const { memory_mb, batch } = await peftJson<DryRun>("train", "--dry-run", ...common.with(1, work.model))
    expect(found.batch).toEqual({ rows: 2, tokens: 32 })
    expect([found.batch, found.memory_mb?.weights]).toEqual([batch, memory_mb?.weights])
    const people = await peft("estimate", ...common.with(1, work.model), "--data", work.rows)
    expect(people.stdout).toMatch(/^about \d+ MB of memory for 2 rows of 32 tokens\n {2}process +\d+ MB/)
  })

  it("counts the f32 layers that restarts make of a packed base", async () => {
    const restarts = ["--restart-every", "2", "--restart-warmup", "1", "--max-steps", "6"]
    const [plain, found] = await Promise.all([estimate(), estimate(...restarts)])
    expect(plain.memory_mb).not.toHaveProperty("merged")
    const { sites } = await peftJson<DryRun>("train", "--dry-run", ...common.with(1, work.model), ...restarts)
    const values = sites.reduce((n, { shape }) => n + (shape[0] as number) * (shape[1] as number), 0)
    expect(found.memory_mb?.merged).toBe(mebibytes(4 * values))
  })

  it("refuses what a run refuses", async () => {
    const { code, stderr } = await peft("estimate", ...common.with(1, work.model), "--target-modules", "q_porj")
    expect([code, stderr]).toEqual([1, expect.stringMatching(/q_porj.*selects no layer.*\(E_TARGET\)/)])
  })
})

describe("the estimate", () => {
  const estimate = async (method: string, more: { gradientCheckpointing?: boolean; batchSize?: number } = {}) => {
    const backend = shapeBackend(await makeBackend({ backend: "cpu" }))
    const base = await loadCausalLM(headersOnly(nodeFiles(work.model)), { backend })
    const options = { batchSize: 2, gradientAccumulationSteps: 1, maxLength: 64, ...more }
    return estimateMemory({
      ...{ base, backend, options, process: 0, batch: fullBatch(options, base.config) },
      attach: (model) => makeTrainable(model, { method, seed: 0 }, () => {}),
    })
  }

  it("weights as they are stored, what is trained in f32, two averages of AdamW", async () => {
    const { weights, trainable, optimizer } = await estimate("lora")
    expect([weights, trainable, optimizer]).toEqual([4 * 156_480, 4 * 18_496, 8 * 18_496])
    const full = await estimate("full")
    expect([full.trainable, full.optimizer]).toEqual([4 * 156_480, 8 * 156_480])
  })

  it("activations grow with the rows and shrink with checkpointing; logits grow with the rows", async () => {
    const [plain, twice, checkpointed] = await Promise.all([
      estimate("lora"),
      estimate("lora", { batchSize: 4 }),
      estimate("lora", { gradientCheckpointing: true }),
    ])
    expect(twice.activations / plain.activations).toBeCloseTo(2, 0)
    expect(twice.logits).toBeGreaterThan(1.5 * plain.logits)
    expect(checkpointed.activations).toBeLessThan(0.8 * plain.activations)
  })

  it("asks for the same buffers as the backend it stands for", async () => {
    const real = await makeBackend({ backend: "cpu" })
    const counted = { live: 0, peak: 0 }
    const count = (buffer: DeviceBuffer): DeviceBuffer => {
      counted.live += buffer.length * bytesPerElement[buffer.dtype]
      counted.peak = Math.max(counted.peak, counted.live)
      return buffer
    }
    const kernels = Object.fromEntries(
      Object.entries(real.kernels).map(([name, kernel]) => [
        name,
        (...args: unknown[]) => {
          const made = (kernel as (...args: unknown[]) => DeviceBuffer | DeviceBuffer[] | undefined)(...args)
          for (const buffer of made === undefined ? [] : [made].flat()) count(buffer)
          return made
        },
      ]),
    ) as unknown as Backend["kernels"]
    const backend: Backend = {
      ...{ ...real, kernels },
      upload: (data, dtype) => count(real.upload(data, dtype)),
      free(buffer) {
        counted.live -= buffer.length * bytesPerElement[buffer.dtype]
        real.free(buffer)
      },
    }
    const base = await loadCausalLM(nodeFiles(work.model), { backend })
    const model = await makeTrainable(base, { method: "lora", seed: 0 }, () => {})
    const options = { batchSize: 2, maxLength: 64 }
    await train(model, jsonl(fullBatch(options, base.config)), { ...options, maxSteps: 1 })
    const { total } = await estimate("lora")
    // A copy of the hidden states stands between the layers and the head, to tell them apart.
    expect(total / counted.peak).toBeGreaterThan(0.99)
    expect(total / counted.peak).toBeLessThan(1.03)
  })
})
