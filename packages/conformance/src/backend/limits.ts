/** Lifetimes and sizes: nothing is left after a scope or a step, freed memory is not seen again, no buffer is larger than the limit. */
import type { Backend, DeviceBuffer, Model } from "@peftjs/core"
import { bytesPerElement, detachOverlays, engineOf, free, scope, tensor, unfreeze } from "@peftjs/core"
import { check, close, same, throwsCode } from "../assert.ts"
import type { Runner } from "../runner.ts"
import { toyModel } from "../toy-model.ts"
import { perturb, toyGradients, toyLosses, toyStep } from "../toy-training.ts"
import { tolerances } from "./tolerances.ts"

/** Bytes; of the toy model, the embedding, the head and the logits do not fit. */
const smallLimit = 576

export function limitChecks(
  makeBackend: (options: { maxBufferBytes?: number }) => Promise<Backend>,
  { it }: Runner,
): void {
  it("a scope leaves what it returns and nothing else", async () => {
    const backend = watched(await makeBackend({}))
    const engine = engineOf(backend)
    const kept = scope(engine, () => ({
      list: [tensor(backend, [1, 2], [2]).mul(3)],
      other: tensor(backend, [5], [1]).exp().log(),
    }))
    check(engine.liveBuffers === 2, `${engine.liveBuffers} buffers alive, not 2`)
    check(backend.live() === 2, `the backend was asked for ${backend.live()} buffers more than given back, not 2`)
    same((await kept.list[0]?.data()) ?? [], [3, 6], "what the scope returned")
    for (const t of [...kept.list, kept.other]) free(t)
    check(backend.live() === 0, `${backend.live()} buffers were left behind`)
  })

  it("after ten steps as many buffers live as after two, and none when all is taken off", async () => {
    const backend = watched(await makeBackend({}))
    const model = toyModel(backend)
    const base = backend.live()
    const training = unfreeze(model)
    const live: number[] = []
    for (let step = 0; step < 10; step++) {
      await toyStep(training, step)
      live.push(backend.live())
    }
    check(live[9] === live[1], `${live[1]} buffers after two steps, ${live[9]} after ten`)
    detachOverlays(training)
    check(backend.live() === base, `${backend.live() - base} buffers were left behind`)
  })

  it("the same training twice gives the same bits, also beside another on the same backend", async () => {
    const run = async (model: Model, losses: number[]): Promise<void> => {
      for (let step = 0; step < 4; step++) losses.push(await toyStep(model, step))
    }
    const alone: number[] = []
    await run(unfreeze(toyModel(await makeBackend({}))), alone)
    const backend = await makeBackend({})
    const [first, second]: [number[], number[]] = [[], []]
    await Promise.all([run(unfreeze(toyModel(backend)), first), run(unfreeze(toyModel(backend)), second)])
    same(first, alone, "the first of two trainings that take turns")
    same(second, alone, "the second of two trainings that take turns")
  })

  it("a buffer above the limit is refused (E_BUFFER_SIZE), one at it is not", async () => {
    const backend = await makeBackend({ maxBufferBytes: smallLimit })
    check(
      backend.supports.maxBufferBytes === smallLimit,
      `asked for maxBufferBytes ${smallLimit}, the backend has ${backend.supports.maxBufferBytes}`,
    )
    const n = smallLimit / 4
    const full = backend.upload(new Float32Array(n), "f32")
    await throwsCode("E_BUFFER_SIZE", () => backend.upload(new Float32Array(n + 1), "f32"), "upload")
    await throwsCode("E_BUFFER_SIZE", () => backend.kernels.randomBits([0, 0], n + 1), "randomBits")
    const doubled = { outer: 1, ns: [n, n], inner: 1 }
    await throwsCode("E_BUFFER_SIZE", () => backend.kernels.concat([full, full], doubled), "concat")
    const outer = { batch: 1, m: n, n: 2, k: 1, transA: false, transB: false }
    const [column, row] = [backend.upload(new Float32Array(n), "f32"), backend.upload(new Float32Array(2), "f32")]
    await throwsCode("E_BUFFER_SIZE", () => backend.kernels.matmul(column, row, outer), "matmul")
  })

  it("a model trains with buffers smaller than its matrices, to the same gradients", async () => {
    const [whole, split] = [
      unfreeze(toyModel(await makeBackend({}))),
      unfreeze(toyModel(watched(await makeBackend({ maxBufferBytes: smallLimit })))),
    ]
    for (const model of [whole, split]) perturb(model, 0)
    close(await toyLosses(split), await toyLosses(whole), tolerances.composed, "losses")
    const [a, b] = [await gradientsByPath(whole), await gradientsByPath(split)]
    check(b.size === a.size, `gradients of ${b.size} parameters, not ${a.size}`)
    for (const [path, gradient] of a) close(b.get(path) ?? [], gradient, tolerances.composed, path)
  })
}

/** Gradients of the model's own parameters; those of a matrix in parts are joined. */
async function gradientsByPath(model: Model): Promise<Map<string, number[]>> {
  const { gradients } = await toyGradients(model)
  const found = new Map<string, number[]>()
  for (const [path, value] of model.view.overlays) {
    const tensors = "parts" in value ? value.parts.map((p) => p.tensor) : [value]
    const joined: number[] = []
    for (const t of tensors) joined.push(...((await (t && gradients.get(t))?.data()) ?? []))
    found.set(path, joined)
  }
  for (const g of gradients.values()) free(g)
  return found
}

/** The same backend, counting buffers and refusing any above the limit or freed twice. */
export function watched(backend: Backend): Backend & { live(): number } {
  const alive = new Set<DeviceBuffer>()
  const { maxBufferBytes } = backend.supports
  const born = (buffer: DeviceBuffer): DeviceBuffer => {
    const bytes = buffer.length * bytesPerElement[buffer.dtype]
    check(bytes <= maxBufferBytes, `a buffer of ${bytes} bytes on a backend with a limit of ${maxBufferBytes}`)
    check(!alive.has(buffer), "a kernel returned a buffer that is alive already")
    alive.add(buffer)
    return buffer
  }
  const kernels = Object.entries(backend.kernels).map(([name, kernel]) => [
    name,
    (...args: readonly never[]) => {
      const result = (kernel as (...args: readonly never[]) => unknown)(...args)
      if (Array.isArray(result)) result.forEach(born)
      else if (result !== undefined) born(result as DeviceBuffer)
      return result
    },
  ])
  return {
    ...backend,
    live: () => alive.size,
    upload: (data, dtype) => born(backend.upload(data, dtype)),
    free(buffer) {
      check(alive.delete(buffer), "a buffer was freed that is not alive")
      backend.free(buffer)
    },
    kernels: Object.fromEntries(kernels),
  }
}
