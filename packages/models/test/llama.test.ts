/** Llama against transformers: logits in every padding, hidden states, loss and all gradients. */

import { readFileSync } from "node:fs"
import { cpu } from "@peftjs/backend-cpu"
import type { Model, Tensor } from "@peftjs/core"
import { bindModel, engineOf, free, hold, trainables, unfreeze, valueAndGradients } from "@peftjs/core"
import { memoryFiles, openSafetensors, serializeSafetensors } from "@peftjs/safetensors"
import { nodeFile } from "@peftjs/safetensors/node"
import { beforeAll, describe, expect, test } from "vitest"
import { loadCausalLM as loadFrom } from "../src/index.ts"
import { loadCausalLM } from "../src/node.ts"
import { type Case, difference, folder, inputOf, json, logitsOf, take, tensors } from "./fixtures.ts"

type Stats = { shape: number[]; sum: number; abs_sum: number; l2: number; max_abs: number; first: number; last: number }
const names = ["llama", "llama-tied", "llama3-rope"]
const runs = names.flatMap((name) => (["reference", "auto"] as const).map((kernels) => ({ name, kernels })))

describe.each(runs)("$name, $kernels kernels", ({ name, kernels }) => {
  const expected = json(`models/${name}/expected.json`)
  const values = tensors(`models/${name}/expected.safetensors`)
  const inputs = tensors(`models/${name}/inputs.safetensors`)
  const { logits_abs, hidden_abs, loss_abs, grad_rel_to_max } = expected.tolerance
  let model: Model
  beforeAll(async () => {
    model = await loadCausalLM(folder(`models/${name}`), { backend: await cpu({ kernels }) })
  })

  const cases = (["plain", "right", "left", "left_pos"] as Case[]).filter((c) => values.has(`${c}.logits`))
  test("has the cases", () => expect(cases.length).toBeGreaterThanOrEqual(2))

  test.each(cases)("logits, %s", async (name) => {
    const input = inputOf(inputs, name)
    const logits = await logitsOf(model, input)
    const width = model.config.vocab_size as number
    expect(difference(logits, values.get(`${name}.logits`) as Float32Array, { mask: input.mask, width })).toBeLessThan(
      logits_abs,
    )
  })

  test("hidden states", async () => {
    const states: Tensor[] = []
    const kept = (t: Tensor): Tensor => {
      states.push(hold(t))
      return t
    }
    const watched = bindModel({
      ...model.definition,
      hidden: (input, run) =>
        kept(
          model.definition.hidden(input, {
            ...run,
            embedding: (path, ids) => kept(run.embedding(path, ids)),
            block: (body) => kept(run.block(body)),
          }),
        ),
    })
    await logitsOf(watched, inputOf(inputs, "plain"))
    // transformers lists the last layer's output after the norm only.
    free(states.splice(-2, 1)[0] as Tensor)
    expect(states).toHaveLength(expected.hidden_states.length)
    for (const [k, state] of states.entries()) {
      const got = await take(state)
      const whole = values.get(`plain.hidden_states.${k}`)
      if (whole) expect(difference(got, whole)).toBeLessThan(hidden_abs)
      compare(got, expected.hidden_states[k], hidden_abs)
    }
  })

  test("loss", async () => {
    const mean = async (input: Case, labels: Int32Array): Promise<number[]> => {
      const losses = await take(model.losses(inputOf(inputs, input), labels))
      const sum = losses.reduce((a, b) => a + b, 0)
      return [sum / losses.length, sum]
    }
    const [plain] = await mean("plain", inputs.get("input_ids") as Int32Array)
    const [right, sum] = await mean("right", inputs.get("right.labels") as Int32Array)
    const { plain_labels_equal_input_ids, right_num_items_in_batch: counted } = expected.loss
    expect(Math.abs((plain as number) - plain_labels_equal_input_ids)).toBeLessThan(loss_abs)
    expect(Math.abs((right as number) - expected.loss.right)).toBeLessThan(loss_abs)
    expect(Math.abs((sum as number) / counted.num_items_in_batch - counted.loss)).toBeLessThan(loss_abs)
  })

  test.each([false, true])("gradients of all parameters, checkpointing %s", async (gradientCheckpointing) => {
    const engine = engineOf(model.backend)
    const full = unfreeze(model)
    const labels = inputs.get("right.labels") as Int32Array
    const { value, gradients } = valueAndGradients(engine, () =>
      full.losses(inputOf(inputs, "right"), labels, { training: true, gradientCheckpointing }).mean(),
    )
    free(value)
    const stats: Record<string, Stats> = expected.grad_stats_right
    const all = trainables(full)
    expect(all.map((t) => t.name).sort()).toEqual(Object.keys(stats).sort())
    let squares = 0
    for (const { name, tensor } of all) {
      const gradient = await take(gradients.get(tensor) as Tensor)
      const { max_abs } = stats[name] as Stats
      const whole = values.get(`right.grad.${name}`)
      if (whole) expect(difference(gradient, whole) / max_abs, name).toBeLessThan(grad_rel_to_max)
      compare(gradient, stats[name] as Stats, grad_rel_to_max * max_abs)
      squares += gradient.reduce((a, b) => a + b * b, 0)
    }
    expect(Math.sqrt(squares) / expected.grad_norm_right_all_parameters).toBeCloseTo(1, 4)
  })
})

/** Statistics of values that may each differ by `abs`. */
function compare(values: Float32Array, stats: Stats, abs: number): void {
  const n = values.length
  expect(n).toBe(stats.shape.reduce((a, b) => a * b, 1))
  const sum = (f: (x: number) => number): number => values.reduce((a, x) => a + f(x), 0)
  expect(Math.abs(sum((x) => x) - stats.sum)).toBeLessThan(n * abs)
  expect(Math.abs(sum(Math.abs) - stats.abs_sum)).toBeLessThan(n * abs)
  expect(Math.abs(Math.sqrt(sum((x) => x * x)) - stats.l2)).toBeLessThan(Math.sqrt(n) * abs)
  expect(Math.abs(values.reduce((a, x) => Math.max(a, Math.abs(x)), 0) - stats.max_abs)).toBeLessThan(abs)
  expect(Math.abs((values[0] as number) - stats.first)).toBeLessThan(abs)
  expect(Math.abs((values.at(-1) as number) - stats.last)).toBeLessThan(abs)
}

const plain = async (model: Model, name: string): Promise<Float32Array> =>
  logitsOf(model, inputOf(tensors(`models/${name}/inputs.safetensors`), "plain"))

test.each(["llama", "llama3-rope"])("%s is the same described by transformers 4", async (name) => {
  const backend = await cpu({ kernels: "reference" })
  const files = memoryFiles([
    ["config.json", readFileSync(folder(`models/${name}/v4/config.json`))],
    ["model.safetensors", readFileSync(folder(`models/${name}/model.safetensors`))],
  ])
  const [new5, old4] = [await loadCausalLM(folder(`models/${name}`), { backend }), await loadFrom(files, { backend })]
  expect(await plain(old4, name)).toEqual(await plain(new5, name))
  expect(old4.config.rope_theta).toBe(10000)
})

test("rotary scaling changes the logits", async () => {
  const backend = await cpu({ kernels: "reference" })
  const name = "llama3-rope"
  const config = json(`models/${name}/config.json`)
  const weights = readFileSync(folder(`models/${name}/model.safetensors`))
  const logits = async (rope: object): Promise<Float32Array> => {
    const text = JSON.stringify({ ...config, rope_parameters: { rope_theta: 10000, ...rope } })
    const files = memoryFiles([
      ["config.json", new TextEncoder().encode(text)],
      ["model.safetensors", weights],
    ])
    return plain(await loadFrom(files, { backend }), name)
  }
  const unscaled = await logits({ rope_type: "default" })
  expect(
    difference(unscaled, await plain(await loadCausalLM(folder(`models/${name}`), { backend }), name)),
  ).toBeGreaterThan(1e-3)
  expect(await logits({ type: "linear", factor: 1 })).toEqual(unscaled)
  expect(difference(unscaled, await logits({ type: "linear", factor: 4 }))).toBeGreaterThan(1e-3)
})

test("four shards", async () => {
  const expected = json("safetensors/sharded/expected.json")
  const values = tensors("safetensors/sharded/expected.safetensors")
  const model = await loadCausalLM(folder("safetensors/sharded"), { backend: await cpu({ kernels: "reference" }) })
  const logits = await logitsOf(model, { ids: values.get("input_ids") as Int32Array, batch: 2, tokens: 12 })
  expect(difference(logits, values.get("plain.logits") as Float32Array)).toBeLessThan(expected.tolerance.logits_abs)
  expect(model.params.size).toBe(expected.tensors)
})

test("weights larger than a buffer are split by rows", async () => {
  const backend = await cpu({ kernels: "reference", maxBufferBytes: 20_000 })
  const model = await loadCausalLM(folder("models/llama"), { backend })
  const table = model.sites.get("model.embed_tokens")
  expect(table?.base.parts.length).toBe(2)
  const values = tensors("models/llama/expected.safetensors")
  expect(difference(await plain(model, "llama"), values.get("plain.logits") as Float32Array)).toBeLessThan(5e-5)
})

test("sites and parameters are spelled as in the file; a tied head shares its weight", async () => {
  const backend = await cpu({ kernels: "reference" })
  for (const name of names) {
    const model = await loadCausalLM(folder(`models/${name}`), { backend })
    const file = await openSafetensors(await nodeFile(folder(`models/${name}/model.safetensors`)))
    expect([...model.params.keys()].sort()).toEqual([...file.tensors.keys()].sort())
    const layers = model.config.num_hidden_layers as number
    expect(model.sites.size).toBe(7 * layers + 2)
    const [head, table] = [model.sites.get("lm_head"), model.sites.get("model.embed_tokens")]
    const tied = name !== "llama"
    expect(head?.tiedTo).toBe(tied ? "model.embed_tokens" : undefined)
    expect(head?.base === table?.base).toBe(tied)
    expect(table).toMatchObject({ kind: "embedding", in: 128, out: 64, param: "model.embed_tokens.weight" })
    expect(model.sites.get("model.layers.0.self_attn.k_proj")).toMatchObject({ kind: "linear", in: 64, out: 32 })
  }
})

test("biases of attention and mlp", async () => {
  const backend = await cpu({ kernels: "reference" })
  const config = { ...json("models/llama/config.json"), attention_bias: true, mlp_bias: true }
  const source = await openSafetensors(await nodeFile(folder("models/llama/model.safetensors")))
  const bias = (path: string, length: number, value: number) =>
    [`${path}.bias`, { dtype: "F32", shape: [length], data: new Float32Array(length).fill(value) }] as const
  const load = async (value: number): Promise<Model> => {
    const all = await Promise.all([...source.tensors.keys()].map(async (n) => [n, await source.read(n)] as const))
    const biases = [0, 1].flatMap((layer) =>
      Object.entries({ q: 64, k: 32, v: 32, o: 64, gate: 172, up: 172, down: 64 }).map(([n, length]) =>
        bias(`model.layers.${layer}.${n.length > 1 ? "mlp" : "self_attn"}.${n}_proj`, length, value),
      ),
    )
    const files = memoryFiles([
      ["config.json", new TextEncoder().encode(JSON.stringify(config))],
      ["model.safetensors", serializeSafetensors([...all, ...biases])],
    ])
    return loadFrom(files, { backend })
  }
  const expected = tensors("models/llama/expected.safetensors").get("plain.logits") as Float32Array
  expect(difference(await plain(await load(0), "llama"), expected)).toBeLessThan(5e-5)
  const shifted = await load(0.1)
  expect(shifted.sites.get("model.layers.1.mlp.down_proj")?.bias).toBe("model.layers.1.mlp.down_proj.bias")
  expect(difference(await plain(shifted, "llama"), expected)).toBeGreaterThan(0.1)
})
