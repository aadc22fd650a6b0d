/** Lifetimes and sizes: nothing is left after a scope or a step, freed memory is not seen again, no buffer is larger than the limit. */
import type { Backend, DeviceBuffer, Model } from "@peftjs/core"
import {
  assign,
  bytesPerElement,
  detachOverlays,
  engineOf,
  free,
  input,
  noGrad,
  scope,
  tensor,
  unfreeze,
} from "@peftjs/core"
import { check, close, same, throwsCode } from "../assert.ts"
import type { Runner } from "../runner.ts"
import { toyModel } from "../toy-model.ts"
import { perturb, toyGradients, toyLosses, toyStep } from "../toy-training.ts"
import { fusedCases } from "./fused.ts"
import { checkKernelsWithin } from "./kernel-check.ts"
import { requiredCases } from "./kernels.ts"
import { toleranceOf } from "./tolerances.ts"

/** Bytes; of the toy model, the embedding, the head and the logits do not fit. */
const smallLimit = 576

export function limitChecks(
  backendOf: () => Promise<Backend>,
  makeBackend: (options: { maxBufferBytes: number }) => Promise<Backend>,
  { it }: Runner,
): void {
  /** The same device with an engine of its own: nobody else's buffers count, and no kernel is compiled again. */
  const apart = async (): Promise<Backend> => ({ ...(await backendOf()) })

  it("a scope leaves what it returns and nothing else", async () => {
    const backend = watched(await backendOf())
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

  it("an upload is a copy: what the host does with its memory afterwards does not matter", async () => {
    const backend = await backendOf()
    for (const n of [1, 5, 1024]) {
      const [host, ids] = [new Float32Array(n).fill(3), new Int32Array(n).fill(4)]
      const buffers = [backend.upload(host, "f32"), backend.upload(ids, "i32")]
      host.fill(-1)
      ids.fill(-1)
      const [values, words] = await Promise.all(buffers.map((buffer) => backend.read(buffer)))
      same(values as Float32Array, new Float32Array(n).fill(3), `${n} f32 values after the host's were overwritten`)
      same(words as Int32Array, new Int32Array(n).fill(4), `${n} i32 values after the host's were overwritten`)
      for (const buffer of buffers) backend.free(buffer)
    }
  })

  it("after ten steps as many buffers live as after two, and none when all is taken off", async () => {
    const backend = watched(await backendOf())
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
    await run(unfreeze(toyModel(await apart())), alone)
    const backend = await apart()
    const [first, second]: [number[], number[]] = [[], []]
    await Promise.all([run(unfreeze(toyModel(backend)), first), run(unfreeze(toyModel(backend)), second)])
    same(first, alone, "the first of two trainings that take turns")
    same(second, alone, "the second of two trainings that take turns")
  })

  let small: Promise<Backend> | undefined
  const smallOf = (): Promise<Backend> => (small ??= makeBackend({ maxBufferBytes: smallLimit }))

  it("a buffer above the limit is refused (E_BUFFER_SIZE), one at it is not", async () => {
    const backend = await smallOf()
    check(
      backend.supports.maxBufferBytes === smallLimit,
      `asked for maxBufferBytes ${smallLimit}, the backend has ${backend.supports.maxBufferBytes}`,
    )
    const n = smallLimit / 4
    const full = backend.upload(new Float32Array(n), "f32")
    const ids = backend.upload(new Int32Array(n), "i32")
    const [none, pair] = [backend.upload(new Float32Array(0), "f32"), backend.upload(new Float32Array(2), "f32")]
    const { kernels } = backend
    const outer = { batch: 1, m: n, n: 2, k: 1, transA: false, transB: false }
    const attempts: Readonly<Record<string, () => unknown>> = {
      upload: () => backend.upload(new Float32Array(n + 1), "f32"),
      map: () => kernels.map(input(0), [{ buffer: full, shape: [n] }], [], [2, n], "f32"),
      reduce: () => kernels.reduce("sum", none, { outer: n, n: 0, inner: 2 }),
      matmul: () => kernels.matmul(full, pair, outer),
      gather: () => kernels.gather(full, ids, { rows: n / 2, width: 2, n }),
      scatterAdd: () => kernels.scatterAdd(full, ids, { rows: n + 1, width: 1, n }),
      concat: () => kernels.concat([full, full], { outer: 1, ns: [n, n], inner: 1 }),
      randomBits: () => kernels.randomBits([0, 0], n + 1),
    }
    for (const [name, attempt] of Object.entries(attempts)) await throwsCode("E_BUFFER_SIZE", attempt, name)
    for (const buffer of [full, ids, none, pair]) backend.free(buffer)
  })

  for (const [name, cases] of Object.entries(requiredCases)) {
    it(`kernel ${name} at a limit of ${smallLimit} bytes: right where everything fits, refused where not`, async () => {
      const backend = await smallOf()
      await checkKernelsWithin(backend, cases(backend.supports.dtypes))
    })
  }

  it(`optional kernels at a limit of ${smallLimit} bytes`, async () => {
    const backend = await smallOf()
    for (const [name, cases] of Object.entries(fusedCases))
      if (name in backend.kernels) await checkKernelsWithin(backend, cases(backend.supports.dtypes))
  })

  it("a model trains with buffers smaller than its matrices, to the same gradients and losses", async () => {
    const [whole, split] = [unfreeze(toyModel(await apart())), unfreeze(toyModel(watched(await smallOf())))]
    for (const model of [whole, split]) perturb(model, 0)
    close(await toyLosses(split), await toyLosses(whole), toleranceOf("composed"), "losses")
    const [a, b] = [await gradientsByPath(whole), await gradientsByPath(split)]
    check(b.size === a.size, `gradients of ${b.size} parameters, not ${a.size}`)
    for (const [path, gradient] of a) close(b.get(path) ?? [], gradient, toleranceOf("composed"), path)
    const curves: [number[], number[]] = [[], []]
    for (let step = 0; step < 5; step++) {
      curves[0].push(await descend(whole, step))
      curves[1].push(await descend(split, step))
    }
    close(curves[1], curves[0], toleranceOf("training"), "losses of five steps")
  })
}

/** One step of plain gradient descent, which does not care how a matrix is split; the loss before it. */
async function descend(model: Model, step: number): Promise<number> {
  const engine = engineOf(model.backend)
  const { loss, gradients } = await toyGradients(model, { training: true, step })
  for (const [parameter, gradient] of gradients) {
    scope(engine, () => noGrad(engine, () => assign(parameter, parameter.sub(gradient.mul(0.3)))))
    free(gradient)
  }
  return loss
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
