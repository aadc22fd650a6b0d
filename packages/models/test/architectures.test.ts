/** Every architecture against transformers: logits in every padding, hidden states, loss and all gradients. */
import { cpu } from "@peftjs/backend-cpu"
import type { Model, Tensor } from "@peftjs/core"
import { bindModel, engineOf, free, hold, scope, trainables, unfreeze, valueAndGradients } from "@peftjs/core"
import { beforeAll, describe, expect, test } from "vitest"
import { turned } from "../src/index.ts"
import { loadCausalLM } from "../src/node.ts"
import { type Case, difference, folder, inputOf, json, logitsOf, take, tensors } from "./fixtures.ts"

type Stats = { shape: number[]; sum: number; abs_sum: number; l2: number; max_abs: number; first: number; last: number }
const names = ["llama", "llama-tied", "llama3-rope", "gpt2", "qwen2", "qwen3", "mistral", "mistral-swa"]
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
    // transformers lists the last layer's output after the norm only, and learned positions as part of the embeddings.
    free(states.splice(-2, 1)[0] as Tensor)
    if (name === "gpt2") states.splice(0, 2, await sumOf(states.slice(0, 2)))
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
      const gradient = asStored(model, name, await take(gradients.get(tensor) as Tensor))
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

/** A gradient as the files spell the parameter. */
function asStored(model: Model, name: string, values: Float32Array): Float32Array {
  const site = [...model.sites.values()].find(({ param, fanInFanOut }) => param === name && fanInFanOut)
  return site ? turned(values, site.out, site.in) : values
}

async function sumOf(states: Tensor[]): Promise<Tensor> {
  const [a, b] = states as [Tensor, Tensor]
  const sum = scope(a.engine, () => hold(a.add(b)))
  states.forEach(free)
  return sum
}
