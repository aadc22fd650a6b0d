import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { parseSafetensors } from "@peftjs/safetensors"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import { fixtures, makeWorkplace, metricsIn, peft, peftJson, type Workplace } from "./run-peft.ts"

interface Bench {
  readonly trainable: number
  readonly kernels: string
  readonly losses: readonly number[]
  readonly cpu_step_s: number
  readonly packed?: {
    readonly layers: number
    readonly values: number
    readonly bytes: number
    readonly bits_per_value: number
  }
}

interface Trained {
  steps: number
  loss: number
  train_loss: number
  eval_loss: number
  trainable: number
  total: number
  adapter: string
  model: string
  interrupted: boolean
}
interface Evaluated {
  loss: number
  perplexity: number
  tokens: number
  response_loss: number
}

const llama = join(fixtures, "models", "llama")
const tensorsIn = (file: string): ReturnType<typeof parseSafetensors>["tensors"] =>
  parseSafetensors(readFileSync(file)).tensors

// Every test starts processes, and shares the machine with other tests.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 })

let work: Workplace
let first: Trained
beforeAll(async () => {
  work = makeWorkplace()
  const options = ["--max-steps", "12", "--learning-rate", "1e-2", "--eval-data", work.rows]
  first = await peftJson<Trained>(
    "train",
    "--model",
    work.model,
    "--data",
    work.rows,
    "--output",
    work.path("first"),
    ...options,
  )
})
afterAll(() => work.remove())

describe("train, then use", () => {
  it("reports the run", () => {
    const metrics = metricsIn(work.path("first"))
    const mean = metrics.reduce((sum, { loss }) => sum + loss, 0) / 12
    expect(metrics.map(({ step }) => step)).toEqual(Array.from({ length: 12 }, (_, i) => i + 1))
    expect(Object.keys(metrics[0] ?? {})).toEqual(
      expect.arrayContaining(["step", "loss", "learning_rate", "grad_norm", "tokens"]),
    )
    expect(first).toMatchObject({
      steps: 12,
      interrupted: false,
      trainable: 18_496,
      total: 174_976,
      adapter: work.path("first", "adapter"),
    })
    expect(first.loss).toBe(metrics[11]?.loss)
    expect(first.train_loss).toBeCloseTo(mean, 10)
    expect(first.loss).toBeLessThan((metrics[0]?.loss as number) - 2)
  })

  it("writes PEFT's files and nothing else", () => {
    const config = JSON.parse(readFileSync(work.path("first", "adapter", "adapter_config.json"), "utf8"))
    expect(readdirSync(work.path("first")).sort()).toEqual(["adapter", "metrics.jsonl"])
    expect(readdirSync(work.path("first", "adapter")).sort()).toEqual([
      "README.md",
      "adapter_config.json",
      "adapter_model.safetensors",
    ])
    expect(config).toMatchObject({
      peft_type: "LORA",
      r: 8,
      lora_alpha: 16,
      lora_dropout: 0,
      base_model_name_or_path: work.model,
    })
    expect(tensorsIn(work.path("first", "adapter", "adapter_model.safetensors")).size).toBe(28)
  })

  it("eval: exactly four figures, those of the end of training, lower than without the adapter", async () => {
    const on = ["--model", work.model, "--data", work.rows]
    const [base, adapted] = await Promise.all([
      peftJson<Evaluated>("eval", ...on),
      peftJson<Evaluated>("eval", ...on, "--adapter", first.adapter),
    ])
    expect(Object.keys(adapted)).toEqual(["loss", "perplexity", "tokens", "response_loss"])
    expect(adapted.loss).toBeCloseTo(first.eval_loss, 5)
    expect(adapted.perplexity).toBeCloseTo(Math.exp(adapted.loss), 8)
    expect(adapted.loss).toBeLessThan(base.loss - 2)
    expect(base.tokens).toBe(192)
  })

  it("generate: greedy, the same twice, in words and ids", async () => {
    const args = [
      "generate",
      "--model",
      work.model,
      "--adapter",
      first.adapter,
      "--prompt",
      "What is 2 and 2?",
      "--chat",
    ]
    const [said, again] = await Promise.all([
      peftJson<{ text: string; ids: number[] }>(...args, "--max-new-tokens", "6"),
      peft(...args, "--max-new-tokens", "6"),
    ])
    expect(Object.keys(said)).toEqual(["text", "ids"])
    expect(said.ids.length).toBeGreaterThan(0)
    expect(said.ids.length).toBeLessThanOrEqual(6)
    expect(again.stdout).toBe(`${said.text}\n`)
  })

  it("inspect: a model, an adapter, a bare file", async () => {
    const file = join(first.adapter, "adapter_model.safetensors")
    const [model, adapter, bare] = await Promise.all(
      [work.model, first.adapter, file].map((path) => peftJson<object>("inspect", path)),
    )
    expect(model).toMatchObject({
      kind: "model",
      model_type: "llama",
      parameters: 156_480,
      dtypes: { F32: 156_480 },
      shards: 1,
    })
    expect(adapter).toMatchObject({ kind: "adapter", peft_type: "LORA", r: 8, parameters: 18_496, tensor_count: 28 })
    expect(bare).toMatchObject({ kind: "safetensors", parameters: 18_496, metadata: { format: "pt" } })
  })
})

describe.concurrent("other ways", () => {
  it("logits are those that PyTorch recorded", async () => {
    const adapter = join(fixtures, "adapters", "llama", "lora-rslora")
    const { data: ids, shape } = tensorsIn(join(llama, "inputs.safetensors")).get("input_ids") ?? {}
    const [rows = 0, length = 0] = shape ?? []
    const input_ids = Array.from({ length: rows }, (_, r) =>
      Array.from((ids as BigInt64Array).slice(r * length, (r + 1) * length), Number),
    )
    const input = work.write("logits.json", JSON.stringify({ input_ids }))
    const output = work.path("logits.safetensors")
    await peftJson("logits", "--model", llama, "--adapter", adapter, "--input", input, "--output", output)
    const ours = tensorsIn(output).get("logits")
    const theirs = tensorsIn(join(adapter, "expected.safetensors")).get("plain.logits")
    expect([ours?.dtype, ours?.shape]).toEqual(["F32", theirs?.shape])
    const values = ours?.data as Float32Array
    const differences = Array.from(theirs?.data as Float32Array, (value, i) =>
      Math.abs(value - (values[i] ?? Number.NaN)),
    )
    expect(Math.max(...differences)).toBeLessThan(1e-4)
  })

  it("full fine-tuning writes a model that the others take", async () => {
    const output = work.path("full")
    const options = [
      "--method",
      "full",
      "--max-steps",
      "8",
      "--optimizer",
      "sgd",
      "--sgd-momentum",
      "0.9",
      "--learning-rate",
      "0.05",
    ]
    const { model, trainable, total } = await peftJson<Trained>(
      "train",
      "--model",
      work.model,
      "--data",
      work.rows,
      "--output",
      output,
      ...options,
    )
    expect([trainable, existsSync(join(output, "adapter"))]).toEqual([total, false])
    const { loss } = await peftJson<Evaluated>("eval", "--model", model, "--data", work.rows)
    expect(loss).toBeLessThan(metricsIn(output)[0]?.loss as number)
  })

  it("starts from random weights of a configuration", async () => {
    const output = work.path("scratch")
    const init = [
      "--init-config",
      join(work.model, "config.json"),
      "--method",
      "full",
      "--max-steps",
      "2",
      "--seed",
      "3",
    ]
    const { model } = await peftJson<Trained>("train", ...init, "--data", work.rows, "--output", output)
    const { loss } = await peftJson<Evaluated>("eval", "--model", model, "--data", work.rows)
    expect(loss).toBeCloseTo(Math.log(512), 0)
  })

  it("goes on from an adapter, whose configuration stays as it was spelt", async () => {
    const from = join(fixtures, "adapters", "llama", "lora-regex")
    const data = work.write("ids.jsonl", `${JSON.stringify({ input_ids: [1, 5, 9, 12, 7, 3] })}\n`)
    const output = work.path("continued")
    await peftJson(
      "train",
      "--model",
      llama,
      "--init-adapter",
      from,
      "--data",
      data,
      "--output",
      output,
      "--epochs",
      "2",
    )
    const [before, after] = [from, join(output, "adapter")].map((folder) =>
      JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8")),
    )
    expect(after).toEqual(before)
  })

  it("takes options from a file, and the command line's before it; PEFT's option names; patterns", async () => {
    const config = work.write(
      "run.yaml",
      `model: ${work.model}\ndata: ${work.rows}\nr: 3\nmaxSteps: 5\nlearning_rate: 1e-3\nshuffle: false\ntarget-modules: [q_proj, down_proj]\nmethod-option:\n  use_rslora: true\n  rank_pattern: { down_proj: 2 }\n`,
    )
    const output = work.path("configured")
    const { steps } = await peftJson<Trained>("train", "--config", config, "--output", output, "--max-steps", "2")
    const saved = JSON.parse(readFileSync(join(output, "adapter", "adapter_config.json"), "utf8"))
    expect(steps).toBe(2)
    expect(metricsIn(output)[0]?.learning_rate).toBe(1e-3)
    expect(saved).toMatchObject({
      r: 3,
      lora_alpha: 16,
      use_rslora: true,
      rank_pattern: { down_proj: 2 },
      target_modules: ["down_proj", "q_proj"],
    })
  })

  it("takes a stranger's method by its path", async () => {
    const method = work.write(
      "scale.mjs",
      `const format = { peftType: "SCALE", defaults: { start: 1 }, supported: ["start"], read: ({ start }) => scale({ start }),
         write: (m) => m.config, tensorName: () => "scale" }
       export default function scale({ start = 1 } = {}) {
         return { kind: "site", specVersion: 1, name: "scale", config: { start }, sites: ["linear"], mergeable: true, format,
           init: ({ site, init }) => ({ params: { s: { value: init.tensor(new Float32Array(site.out).fill(start), [site.out]), trainable: true, saved: true } } }),
           forward: (x, next, { s }) => next(x).mul(s) }
       }
       scale.format = format`,
    )
    const output = work.path("scaled")
    const on = ["--model", work.model, "--data", work.rows, "--method", method]
    const { loss } = await peftJson<Trained>(
      "train",
      ...on,
      "--method-option",
      "start=1.25",
      "--output",
      output,
      "--max-steps",
      "6",
      "--learning-rate",
      "0.02",
    )
    const evaluated = await peftJson<Evaluated>("eval", ...on, "--adapter", join(output, "adapter"))
    const config = JSON.parse(readFileSync(join(output, "adapter", "adapter_config.json"), "utf8"))
    expect(config).toMatchObject({ peft_type: "SCALE", start: 1.25 })
    expect(evaluated.loss).toBeLessThan(metricsIn(output)[0]?.loss as number)
    expect(loss).toBeLessThan(metricsIn(output)[0]?.loss as number)
  })

  it("bench: the figures that are promised, and they fit together", async () => {
    const result = await peftJson<Record<string, number>>(
      ...[
        "bench",
        "--model",
        work.model,
        "--method",
        "lora",
        "--r",
        "4",
        "--batch-size",
        "2",
        "--seq-length",
        "16",
        "--steps",
        "2",
      ],
    )
    const { step_s = 0, tokens_per_s, gflops = 0, gemm_gflops = 0, efficiency, losses } = result
    expect(result).toMatchObject({ trainable: 9248, kernels: expect.stringMatching(/^(wasm|reference)/) })
    expect(tokens_per_s).toBeCloseTo(32 / step_s, 6)
    // Two products a weight forward and backward but for what nothing before the first layer wants, and the attention's and the adapter's own.
    const dense = 4 * 156_480 * 32
    expect((1e9 * gflops * step_s) / dense).toBeGreaterThan(0.7)
    expect((1e9 * gflops * step_s) / dense).toBeLessThan(1.2)
    expect(efficiency).toBeCloseTo(gflops / gemm_gflops, 9)
    expect(result.peak_rss_mb).toBeGreaterThan(20)
    expect(losses).toHaveLength(3)
  })

  it("bench: a quantised base, an adapter to start from, and the kernels that were asked for", async () => {
    const size = ["--batch-size", "2", "--seq-length", "16", "--steps", "1"]
    const output = work.path("for-bench")
    const on = ["--model", work.model, "--r", "4"]
    const start = ["--target-modules", "all-linear", "--max-steps", "1", "--output", output]
    await peftJson("train", ...on, "--data", work.rows, ...start)
    const adapter = ["--init-adapter", join(output, "adapter")]
    const method = ["--method", "qlora", "--kernels", "reference"]
    const { packed, ...found } = await peftJson<Bench>("bench", ...on, ...adapter, ...size, ...method)
    expect(found).toMatchObject({ trainable: 9248, kernels: "reference" })
    expect(found.losses).toHaveLength(2)
    expect(found.cpu_step_s).toBeGreaterThan(0)
    expect(packed?.layers).toBe(14)
    const { bytes = 0, values = 1, bits_per_value } = packed ?? {}
    expect(bits_per_value).toBe((8 * bytes) / values)
    // The nested scales and the tables weigh more in layers of a few thousand values.
    expect(bits_per_value).toBeGreaterThan(4.1)
    expect(bits_per_value).toBeLessThan(6)
    const { code, stderr } = await peft("bench", ...on, "--backend", "webgpu", "--kernels", "wasm")
    expect([code, stderr]).toEqual([1, expect.stringMatching(/--kernels wasm .*CPU backend.*E_OPTION/)])
  })

  it("bench --compare: two methods in turn, and their ratios", async () => {
    const size = ["--r", "4", "--batch-size", "2", "--seq-length", "16", "--steps", "2"]
    const method = ["--method", "mora", "--method-option", "type=sharing", "--compare", "lora"]
    const result = await peftJson<Record<string, number>>("bench", "--model", work.model, ...method, ...size)
    expect(result).toMatchObject({ compared_with: "lora", compared_trainable: 9248 })
    expect(result.trainable_ratio).toBeCloseTo(1, 1)
    for (const key of ["step_ratio", "cpu_ratio", "memory_ratio"]) expect(result[key], key).toBeGreaterThan(0.1)
  })

  it("stops at the first loss that is not a number, and keeps the last good adapter", async () => {
    const output = work.path("diverged")
    const options = [
      "--optimizer",
      "sgd",
      "--learning-rate",
      "1e30",
      "--lr-scheduler",
      "constant",
      "--max-grad-norm",
      "0",
      "--save-steps",
      "1",
    ]
    const { code, stdout, stderr } = await peft(
      "train",
      "--model",
      work.model,
      "--data",
      work.rows,
      "--output",
      output,
      ...options,
      "--json",
    )
    expect([code, stdout]).toEqual([1, ""])
    expect(stderr).toContain("(E_LOSS_NOT_FINITE)")
    const saved = join(output, "adapter", "adapter_model.safetensors")
    for (const { data } of tensorsIn(saved).values()) expect((data as Float32Array).every(Number.isFinite)).toBe(true)
    expect(metricsIn(output).every(({ loss }) => Number.isFinite(loss))).toBe(true)
  })

  it("--overwrite replaces the run that was there", async () => {
    const output = work.path("again")
    const args = ["train", "--model", work.model, "--data", work.rows, "--output", output]
    await peftJson(...args, "--max-steps", "3", "--save-steps", "2")
    writeFileSync(join(output, "adapter", "mine.txt"), "")
    await peftJson(...args, "--max-steps", "1", "--overwrite")
    expect(readdirSync(output).sort()).toEqual(["adapter", "metrics.jsonl"])
    expect(readdirSync(join(output, "adapter"))).not.toContain("mine.txt")
    expect(metricsIn(output)).toHaveLength(1)
  })
})
