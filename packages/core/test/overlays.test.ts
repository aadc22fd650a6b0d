/** What adapters train beside their method, with a method that adds nothing of interest: biases, whole modules, rows of tokens. */
import { fakeBackend, toyGradients, toyLosses, toyModel, toyPaths, toySizes, toyStep } from "@peftjs/conformance"
import { describe, expect, it } from "vitest"
import {
  type AdapterMethod,
  type AdaptOptions,
  adapt,
  assign,
  detach,
  disable,
  enable,
  engineOf,
  free,
  type Model,
  noGrad,
  param,
  scope,
  type Tensor,
  tensor,
  trainables,
} from "../src/index.ts"

const shift: AdapterMethod = {
  kind: "site",
  specVersion: 1,
  name: "shift",
  config: {},
  sites: ["linear"],
  mergeable: false,
  init: ({ site, init }) => ({ params: { c: param(init.zeros([site.out])) } }),
  forward: (x, next, { c }) => next(x).add(c as Tensor),
}
const put = (model: Model, options: AdaptOptions): Model =>
  adapt(model, shift, { targetModules: ["down_proj"], ...options })
const names = (model: Model): string[] => trainables(model).map((t) => t.name)
const own = `${toyPaths.down}.c`

const everything: AdaptOptions = {
  bias: "all",
  modulesToSave: ["norm"],
  trainableTokenIndices: { embed_tokens: [3, 8], lm_head: [8, 0, 36] },
}

describe.each([
  ["whole weights", () => fakeBackend()],
  ["weights in parts", () => fakeBackend({ maxBufferBytes: 1664 })],
])("%s", (_, make) => {
  it("nothing changes at first, training helps, off is exactly the base, and the memory comes back", async () => {
    const backend = make()
    const model = toyModel(backend)
    const plain = await toyLosses(model)
    const before = backend.live()
    const view = put(model, everything)
    for (const [i, loss] of (await toyLosses(view)).entries()) expect(loss).toBeCloseTo(plain[i] as number, 5)
    const losses: number[] = []
    const live: number[] = []
    for (let step = 0; step < 8; step++) {
      losses.push(await toyStep(view, step))
      live.push(backend.live())
    }
    expect(losses.at(-1)).toBeLessThan(losses[0] as number)
    expect(live.at(-1)).toBe(live[1])
    const trained = await toyLosses(view)
    disable(view)
    expect(await toyLosses(view)).toEqual(plain)
    enable(view)
    expect(await toyLosses(view)).toEqual(trained)
    expect(await toyLosses(model)).toEqual(plain)
    expect(await toyLosses(detach(view))).toEqual(plain)
    expect(backend.live()).toBe(before)
  })

  it("the gradients of rows are those of the whole matrix", async () => {
    const model = toyModel(make())
    const { gradients: ofRows } = await toyGradients(put(model, everything))
    const whole = put(model, { modulesToSave: ["embed_tokens", "lm_head"] })
    const { gradients: ofAll } = await toyGradients(whole)
    const all = async (path: string): Promise<number[]> => {
      const parts = trainables(whole).filter(({ name }) => name.split("#")[0] === path)
      const values = await Promise.all(parts.map((part) => ofAll.get(part.tensor)?.data()))
      return values.flatMap((part) => [...(part ?? [])])
    }
    const width = toySizes.width
    const expected: [string, number[]][] = [
      [`${toyPaths.embedding}.weight`, [3, 8]],
      [`${toyPaths.head}.weight`, [8, 0, 36]],
    ]
    for (const [path, ids] of expected) {
      const found = [...ofRows].find(([t]) => t.shape.length === 2 && t.shape[0] === ids.length && t.shape[1] === width)
      const values = [...((await found?.[1].data()) ?? [])]
      const matrix = await all(path)
      for (const [slot, id] of ids.entries()) {
        for (let j = 0; j < width; j++)
          expect(values[slot * width + j]).toBeCloseTo(matrix[id * width + j] as number, 5)
      }
    }
    for (const g of [...ofRows.values(), ...ofAll.values()]) free(g)
  })
})

describe("what is trained", () => {
  const model = toyModel(fakeBackend())
  it.each<[string, AdaptOptions, string[]]>([
    ["nothing else", {}, [own]],
    ["all biases", { bias: "all" }, [own, `${toyPaths.up}.bias`]],
    ["biases of adapted layers, where there are any", { bias: "shift_only" }, [own]],
    ["a module, which gets no adapter", { modulesToSave: ["lm_head"], targetModules: "all-linear" }, []],
    ["by plain suffix", { modulesToSave: ["orm"] }, [own, `${toyPaths.norm}.weight`]],
    ["a whole layer", { modulesToSave: ["up_proj"] }, [own, `${toyPaths.up}.weight`, `${toyPaths.up}.bias`]],
    ["tokens", { trainableTokenIndices: [1] }, [own, `${toyPaths.embedding}.token_adapter.trainable_tokens_delta`]],
  ])("%s", (_, options, expected) => {
    const view = put(model, options)
    if (expected.length > 0) expect(names(view)).toEqual(expected)
    else expect(names(view)).not.toContain("lm_head.c")
  })

  it("the bias of an adapted layer is named apart from what the method calls bias", () => {
    const view = put(model, { targetModules: ["up_proj"], bias: "shift_only" })
    expect(names(view)).toEqual([`${toyPaths.up}.c`, `${toyPaths.up}.base_layer.bias`])
  })

  it.each<[string, AdaptOptions, string]>([
    ["a bias that is another method's", { bias: "lora_only" }, "E_OPTION"],
    ["a module that is not there", { modulesToSave: ["nothing"] }, "E_TARGET"],
    ["a module that takes all targets away", { modulesToSave: ["down_proj"] }, "E_TARGET"],
    ["tokens of a layer that is not there", { trainableTokenIndices: { nothing: [1] } }, "E_TARGET"],
    ["a token outside the vocabulary", { trainableTokenIndices: [37] }, "E_TOKEN_ID"],
    ["a token twice", { trainableTokenIndices: [1, 1] }, "E_OPTION"],
    ["no token", { trainableTokenIndices: [] }, "E_OPTION"],
    ["tokens of a whole module", { modulesToSave: ["embed_tokens"], trainableTokenIndices: [1] }, "E_OPTION"],
  ])("refused, without a trace: %s", (_, options, code) => {
    const { liveBuffers } = engineOf(model.backend)
    expect(() => put(model, options)).toThrow(code)
    expect(engineOf(model.backend).liveBuffers).toBe(liveBuffers)
  })
})

it("of two adapters the last one's values count, and the first one's again without it", async () => {
  const model = toyModel(fakeBackend())
  const one = put(model, { bias: "all" })
  const two = put(one, { bias: "all", name: "other" })
  const set = (name: string, value: number): void => {
    const found = trainables(two).find((t) => t.name === `${name}:${toyPaths.up}.bias`) as { tensor: Tensor }
    const { engine, shape } = found.tensor
    const values = new Float32Array(found.tensor.size).fill(value)
    scope(engine, () => noGrad(engine, () => assign(found.tensor, tensor(engine.backend, values, shape))))
  }
  set("default", 1)
  const first = await toyLosses(one)
  expect(await toyLosses(two)).not.toEqual(first)
  set("other", 2)
  expect(await toyLosses(two)).not.toEqual(first)
  disable(two, "other")
  expect(await toyLosses(two)).toEqual(first)
})
