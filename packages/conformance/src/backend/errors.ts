/** Mistakes are reported by code, whatever the backend: before a kernel could do anything with them. */
import type { Backend } from "@peftjs/core"
import { adapt, attention, concat, crossEntropy, engineOf, scope, tensor, valueAndGradients } from "@peftjs/core"
import { check, throwsCode } from "../assert.ts"
import type { Runner } from "../runner.ts"
import { toyModel } from "../toy-model.ts"

export function errorChecks(backendOf: () => Promise<Backend>, otherOf: () => Promise<Backend>, { it }: Runner): void {
  it("E_SHAPE names the operation, and nothing is left behind", async () => {
    const backend = await backendOf()
    const engine = engineOf(backend)
    const before = engine.liveBuffers
    const attempts: Readonly<Record<string, () => unknown>> = {
      tensor: () => tensor(backend, [1, 2, 3], [2, 2]),
      add: () => tensor(backend, [1, 2, 3], [3]).add(tensor(backend, [1, 2], [2])),
      matmul: () => tensor(backend, [1, 2, 3], [1, 3]).matmul(tensor(backend, [1, 2], [2, 1])),
      reshape: () => tensor(backend, [1, 2, 3], [3]).reshape([2, 2]),
      slice: () => tensor(backend, [1, 2, 3], [3]).slice(0, 1, 4),
      permute: () => tensor(backend, [1, 2, 3], [1, 3]).permute([0, 0]),
      sum: () => tensor(backend, [1, 2, 3], [3]).sum(1),
      concat: () => concat([tensor(backend, [1, 2], [1, 2]), tensor(backend, [1], [1, 1])], 0),
      attention: () =>
        attention(...([1, 2, 3].map((n) => tensor(backend, Array(n).fill(0), [1, 1, n, 1])) as [never, never, never])),
      crossEntropy: () => crossEntropy(tensor(backend, [1, 2], [1, 2]), tensor(backend, [0, 1], [2], "i32")),
      forward: () => toyModel(backend).forward({ ids: Int32Array.of(1, 2, 3), batch: 2, tokens: 2 }),
    }
    for (const [name, attempt] of Object.entries(attempts))
      await throwsCode("E_SHAPE", () => scope(engine, attempt), name)
    check(engine.liveBuffers === before, `${engine.liveBuffers - before} buffers were left behind`)
  })

  it("E_TOKEN_ID: ids outside the vocabulary never reach a kernel", async () => {
    const backend = await backendOf()
    for (const id of [-1, 37, 2 ** 31 - 1]) {
      const forward = (): unknown =>
        scope(engineOf(backend), () => toyModel(backend).forward({ ids: Int32Array.of(1, id), batch: 1, tokens: 2 }))
      await throwsCode("E_TOKEN_ID", forward, `id ${id}`)
    }
  })

  it("E_FREED: a tensor after its scope", async () => {
    const backend = await backendOf()
    const engine = engineOf(backend)
    let lost: ReturnType<typeof tensor> | undefined
    scope(engine, () => {
      lost = tensor(backend, [1], [1])
    })
    await throwsCode("E_FREED", () => lost?.add(1), "add")
    await throwsCode("E_FREED", () => lost?.data(), "data")
  })

  it("E_DEVICE: tensors of two backends", async () => {
    const [backend, other] = [await backendOf(), await otherOf()]
    await throwsCode(
      "E_DEVICE",
      () =>
        scope(engineOf(backend), () =>
          scope(engineOf(other), () => tensor(backend, [1], [1]).add(tensor(other, [1], [1]))),
        ),
      "add",
    )
  })

  it("E_NO_GRAD: a loss without anything trainable", async () => {
    const backend = await backendOf()
    const engine = engineOf(backend)
    const before = engine.liveBuffers
    await throwsCode(
      "E_NO_GRAD",
      () => valueAndGradients(engine, () => tensor(backend, [1], [1]).mul(2)),
      "valueAndGradients",
    )
    check(engine.liveBuffers === before, `${engine.liveBuffers - before} buffers were left behind`)
  })

  it("E_TARGET: a target that selects nothing", async () => {
    const backend = await backendOf()
    const method = {
      kind: "site",
      specVersion: 1,
      name: "none",
      config: {},
      sites: ["linear"],
      mergeable: false,
    } as const
    const nothing = {
      ...method,
      init: () => ({ params: {} }),
      forward: (x: never, next: (x: never) => never) => next(x),
    }
    await throwsCode(
      "E_TARGET",
      () => scope(engineOf(backend), () => adapt(toyModel(backend), nothing as never, { targetModules: ["q_porj"] })),
      "adapt",
    )
  })
}
