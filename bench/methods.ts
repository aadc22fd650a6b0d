/**
 * `npm run bench:methods`: what methods cost beside LoRA. One layer with the widths of SmolLM2-135M and a thirtieth of its vocabulary, so that
 * a step takes a fraction of a second; the methods take their steps in turn, and the fastest tenth counts, which is the machine undisturbed.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { cpu } from "@peftjs/backend-cpu/node"
import { adapt, type Model, trainables } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { initCausalLM } from "@peftjs/models/node"
import { mora } from "@peftjs/mora"
import { jsonl, train } from "@peftjs/train"
import { inTurn } from "../packages/cli/src/in-turn.ts"

const [batch, tokens, vocabulary, steps] = [4, 256, 1638, Number(process.argv[2] ?? 40)]
const config = {
  ...{ model_type: "llama", hidden_size: 576, intermediate_size: 1536, num_hidden_layers: 1, vocab_size: vocabulary },
  ...{ num_attention_heads: 9, num_key_value_heads: 3, rms_norm_eps: 1e-5, rope_theta: 100_000, hidden_act: "silu" },
  ...{ tie_word_embeddings: true, max_position_embeddings: 8192 },
}
const methods = {
  lora: lora({ r: 8, alpha: 16 }),
  "mora, sharing": mora({ r: 8, type: "sharing" }),
  "mora, rotation": mora({ r: 8, type: "rotation" }),
}

const folder = mkdtempSync(join(tmpdir(), "peftjs-bench-"))
writeFileSync(join(folder, "config.json"), JSON.stringify(config))
const backend = await cpu()
const base = await initCausalLM(join(folder, "config.json"), { backend, seed: 0, name: "one layer" })
rmSync(folder, { recursive: true })
const data = jsonl(
  Array.from({ length: batch }, (_, b) => {
    const ids = Array.from({ length: tokens }, (_, t) => ((b * tokens + t) * 7919) % vocabulary)
    return { input_ids: ids, labels: ids }
  }),
  "made-up rows",
)

interface Run {
  readonly name: string
  readonly model: Model
  /** Milliseconds of each step, by the clock and of processor time. */
  readonly wall: number[]
  readonly cpu: number[]
}
const runs = Object.entries(methods).map(
  ([name, method]): Run => ({ name, model: adapt(base, method, { targetModules: "all-linear" }), wall: [], cpu: [] }),
)
await inTurn(runs, async ({ model, wall, cpu }, next) => {
  let [started, used] = [performance.now(), process.cpuUsage()]
  await train(model, data, {
    ...{ maxSteps: steps, batchSize: batch, maxLength: tokens, learningRate: 1e-4, shuffle: false },
    async onStep() {
      wall.push(performance.now() - started)
      const { user, system } = process.cpuUsage(used)
      cpu.push((user + system) / 1000)
      await next()
      ;[started, used] = [performance.now(), process.cpuUsage()]
    },
  })
})

const fastest = (values: readonly number[]): number =>
  values.slice(1).sort((a, b) => a - b)[Math.floor(values.length / 10)] as number
const [first] = runs as [Run]
console.log(`kernels ${backend.info.kernels}, ${steps} steps of ${batch} rows of ${tokens} tokens`)
console.table(
  runs.map(({ name, model, wall, cpu }) => ({
    method: name,
    parameters: trainables(model).reduce((n, { tensor }) => n + tensor.size, 0),
    "step, ms": Math.round(fastest(wall)),
    "to lora": Number((fastest(wall) / fastest(first.wall)).toFixed(3)),
    "processor, ms": Math.round(fastest(cpu)),
    "processor, to lora": Number((fastest(cpu) / fastest(first.cpu)).toFixed(3)),
  })),
)
