/** Core, models and LoRA on the fake backend: immutable handles, required kernels only, buffers of 16 KiB that no matrix of this Llama but the keys' fits into. */
import { fileURLToPath } from "node:url"
import { cpu } from "@peftjs/backend-cpu"
import { fakeBackend } from "@peftjs/conformance"
import {
  adapt,
  assign,
  type Backend,
  engineOf,
  free,
  type Model,
  noGrad,
  scope,
  trainables,
  valueAndGradients,
} from "@peftjs/core"
import { loadCausalLM } from "@peftjs/models/node"
import { describe, expect, it } from "vitest"
import { lora } from "../src/index.ts"

const folder = fileURLToPath(new URL("../../../fixtures/models/llama", import.meta.url))
const ids = Int32Array.of(5, 17, 99, 3, 64, 127, 0, 42, 8, 1)
const input = { ids, batch: 1, tokens: ids.length }

async function step(model: Model): Promise<number> {
  const engine = engineOf(model.backend)
  const options = { training: true, gradientCheckpointing: true }
  const { value, gradients } = valueAndGradients(engine, () => model.losses(input, ids, options).mean())
  const loss = (await value.data())[0] as number
  free(value)
  scope(engine, () =>
    noGrad(engine, () => {
      for (const [parameter, gradient] of gradients) assign(parameter, parameter.sub(gradient.mul(0.3)))
    }),
  )
  for (const gradient of gradients.values()) free(gradient)
  return loss
}

async function losses(backend: Backend, steps: number): Promise<{ losses: number[]; live: number[] }> {
  const base = await loadCausalLM(folder, { backend })
  const model = adapt(base, lora({ r: 4, alpha: 8, dropout: 0.1 }), { targetModules: "all-linear" })
  expect(trainables(model).length).toBe(2 * 7 * 2)
  const found: { losses: number[]; live: number[] } = { losses: [], live: [] }
  for (let i = 0; i < steps; i++) {
    found.losses.push(await step(model))
    found.live.push(engineOf(backend).liveBuffers)
  }
  return found
}

describe("a Llama on the fake backend", () => {
  it("has the logits of the CPU backend, its matrices in parts", async () => {
    const backend = fakeBackend()
    const [fake, reference] = [
      await loadCausalLM(folder, { backend }),
      await loadCausalLM(folder, { backend: await cpu() }),
    ]
    const parts = [...fake.sites.values()].map((site) => site.base.parts.length)
    expect(Math.max(...parts)).toBeGreaterThan(1)
    const [a, b] = [await fake.forward(input).data(), await reference.forward(input).data()]
    for (const [i, x] of a.entries()) expect(Math.abs(x - (b[i] as number))).toBeLessThan(1e-5)
  })

  it("trains with LoRA, dropout and checkpointing: losses as on the CPU, no buffer left behind", async () => {
    const fake = await losses(fakeBackend({ deferred: true }), 6)
    const reference = await losses(await cpu(), 6)
    for (const [i, loss] of fake.losses.entries()) expect(loss).toBeCloseTo(reference.losses[i] as number, 4)
    expect(fake.losses.at(-1)).toBeLessThan((fake.losses[0] as number) - 0.05)
    expect(fake.live.at(-1)).toBe(fake.live[1])
  })
})
