/** Views of a model: several adapters, full fine-tuning, weights in parts, and what a failure leaves behind. */
import {
  fakeBackend,
  perturb,
  toyBatch,
  toyGradients,
  toyLosses,
  toyModel,
  toyPaths,
  toyStep,
} from "@peftjs/conformance"
import { describe, expect, it } from "vitest"
import {
  type AdapterMethod,
  adapt,
  adapterOf,
  detach,
  detachOverlays,
  disable,
  engineOf,
  free,
  PeftError,
  param,
  rowsPerPart,
  type Tensor,
  tensor,
  trainables,
  unfreeze,
  uploadDense,
} from "../src/index.ts"

/** y = W x + c, which only counts calls and fails where it is told to. */
function shift(options: { failAt?: string } = {}): AdapterMethod {
  return {
    kind: "site",
    specVersion: 1,
    name: "shift",
    config: {},
    sites: ["linear"],
    mergeable: false,
    setup: (_, init) => ({ unit: init.ones([1]) }),
    init({ site, init }) {
      if (site.path === options.failAt) throw new PeftError("E_RANK", "[shift] not here")
      return { params: { c: param(init.zeros([site.out])) } }
    },
    forward: (x, next, { c }, { shared }) => next(x).add((c as Tensor).mul(shared.unit as Tensor)),
  }
}

const up = { targetModules: ["up_proj"] }
const linear = { targetModules: "all-linear" }

describe("several adapters", () => {
  it("need different names, and are found by them", () => {
    const model = toyModel(fakeBackend())
    const one = adapt(model, shift(), up)
    expect(() => adapt(one, shift(), up)).toThrow(/E_ADAPTER_NAME/)
    expect(() => adapt(model, shift(), { ...up, name: "a/b" })).toThrow(/E_ADAPTER_NAME/)
    const two = adapt(one, shift(), { ...linear, name: "other" })
    expect(adapterOf(two, "other").sites.size).toBe(2)
    expect(adapterOf(two).sites.size).toBe(1)
    expect(() => adapterOf(two, "oth")).toThrow(/E_ADAPTER_NAME/)
    expect(() => adapterOf(model)).toThrow(/E_ADAPTER_NAME/)
  })

  it("have trainables with unique names; those of a disabled one are left out", () => {
    const model = adapt(adapt(toyModel(fakeBackend()), shift(), linear), shift(), { ...up, name: "other" })
    const names = (): string[] => trainables(model).map((t) => t.name)
    expect(names()).toEqual([`default:${toyPaths.up}.c`, `default:${toyPaths.down}.c`, `other:${toyPaths.up}.c`])
    disable(model, "default")
    expect(names()).toEqual([`other:${toyPaths.up}.c`])
  })

  it("leave the model they were put on alone", async () => {
    const model = toyModel(fakeBackend())
    const plain = await toyLosses(model)
    const view = adapt(model, shift(), linear)
    perturb(view, 0.5)
    expect(await toyLosses(view)).not.toEqual(plain)
    expect(await toyLosses(model)).toEqual(plain)
    expect(model.view.adapters.length).toBe(0)
  })
})

describe("a method that fails", () => {
  it("leaves no buffer and no half-made adapter", () => {
    const backend = fakeBackend()
    const model = toyModel(backend)
    const before = backend.live()
    expect(() => adapt(model, shift({ failAt: toyPaths.down }), linear)).toThrow(/E_RANK/)
    expect(backend.live()).toBe(before)
    expect(() => adapt(model, shift(), { targetModules: ["embed_tokens"] })).toThrow(/E_SITE_KIND/)
    expect(backend.live()).toBe(before)
  })
})

describe("unfreeze", () => {
  it("trains a copy of every parameter and leaves the base as it was", async () => {
    const backend = fakeBackend()
    const model = toyModel(backend)
    const [plain, before] = [await toyLosses(model), backend.live()]
    const view = unfreeze(model)
    expect(await toyLosses(view)).toEqual(plain)
    const { gradients } = await toyGradients(view)
    expect(gradients.size).toBe(model.params.size)
    for (const g of gradients.values()) free(g)
    const losses: number[] = []
    for (let step = 0; step < 10; step++) losses.push(await toyStep(view, step))
    expect(losses.at(-1)).toBeLessThan(losses[0] as number)
    expect(await toyLosses(model)).toEqual(plain)
    const off = detachOverlays(view)
    expect(await toyLosses(off)).toEqual(plain)
    expect(backend.live()).toBe(before)
  })

  it("takes a filter; vectors do not decay, matrices do", () => {
    const view = unfreeze(toyModel(fakeBackend()), (path) => path.startsWith("model.layers") || path.includes("norm"))
    expect(trainables(view).map((t) => [t.name, t.decay])).toEqual([
      [`${toyPaths.up}.weight`, true],
      [`${toyPaths.up}.bias`, false],
      [`${toyPaths.down}.weight`, true],
      [`${toyPaths.norm}.weight`, false],
    ])
  })

  it("goes together with adapters", async () => {
    const view = unfreeze(adapt(toyModel(fakeBackend()), shift(), up), (path) => path === `${toyPaths.norm}.weight`)
    const { gradients } = await toyGradients(view)
    expect([...gradients.keys()].every((t) => trainables(view).some(({ tensor }) => tensor === t))).toBe(true)
    expect(gradients.size).toBe(2)
    expect(() => detach(view)).not.toThrow()
  })
})

describe("weights in parts", () => {
  it("are split by whole rows so that each part fits", () => {
    const backend = fakeBackend({ maxBufferBytes: 100 })
    const weight = uploadDense(
      backend,
      new Float32Array(35).map((_, i) => i),
      "f32",
      [7, 5],
    )
    expect(weight.parts.map(({ start, end }) => [start, end])).toEqual([
      [0, 5],
      [5, 7],
    ])
    expect(weight.shape).toEqual([7, 5])
    expect(weight.bytes).toBe(140)
    weight.free()
    expect(backend.live()).toBe(0)
  })

  it("are refused when not even one row fits", () => {
    const backend = fakeBackend({ maxBufferBytes: 100 })
    expect(rowsPerPart(backend, 25, "f32")).toBe(1)
    expect(() => rowsPerPart(backend, 26, "f32")).toThrow(/E_BUFFER_SIZE/)
  })

  it("give rows across parts, and products", async () => {
    const backend = fakeBackend({ maxBufferBytes: 100 })
    const weight = uploadDense(
      backend,
      new Float32Array(35).map((_, i) => i),
      "f32",
      [7, 5],
    )
    const ids = tensor(backend, [6, 0, 4], [3], "i32")
    expect([...(await weight.rows(ids).data())].filter((_, i) => i % 5 === 0)).toEqual([30, 0, 20])
    expect([...(await weight.rows({ start: 4, end: 6 }).data())]).toEqual([20, 21, 22, 23, 24, 25, 26, 27, 28, 29])
    const one = tensor(backend, [1, 0, 0, 0, 0], [1, 5])
    expect([...(await weight.matmul(one).data())]).toEqual([0, 5, 10, 15, 20, 25, 30])
    const last = tensor(backend, [0, 0, 0, 0, 0, 0, 1], [1, 7])
    expect([...(await weight.matmul(last, { transpose: true }).data())]).toEqual([30, 31, 32, 33, 34])
  })
})

describe("a model's inputs", () => {
  it("are checked before anything runs", () => {
    const model = toyModel(fakeBackend())
    const { input, labels } = toyBatch()
    expect(() => model.forward({ ...input, mask: Int32Array.of(1) })).toThrow(/E_SHAPE/)
    expect(() => model.forward({ ...input, positions: Int32Array.of(1) })).toThrow(/E_SHAPE/)
    expect(() => model.forward({ ids: new Int32Array(0), batch: 0, tokens: 0 })).toThrow(/E_SHAPE/)
    expect(() =>
      model.losses(
        input,
        labels.map(() => -100),
      ),
    ).toThrow(/E_NO_LABELS/)
    expect(() =>
      model.losses(
        input,
        labels.map(() => 37),
      ),
    ).toThrow(/E_TOKEN_ID/)
    expect(engineOf(model.backend).scope).toBeUndefined()
  })

  it("give logits for every token, or for the last of each row", async () => {
    const model = toyModel(fakeBackend())
    const { input } = toyBatch()
    const [all, last] = [await model.forward(input).data(), await model.lastLogits(input).data()]
    expect([...last.slice(0, 37)]).toEqual([...all.slice(6 * 37, 7 * 37)])
    expect([...last.slice(37)]).toEqual([...all.slice(13 * 37)])
  })
})
