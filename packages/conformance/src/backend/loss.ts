/** A device that goes away: everything after says so and nothing hangs, and another device works. */
import type { Backend, DeviceBuffer } from "@peftjs/core"
import { call, engineOf, input, isPeftError, unfreeze } from "@peftjs/core"
import { check, same, throwsCode } from "../assert.ts"
import type { Runner } from "../runner.ts"
import { toyModel } from "../toy-model.ts"
import { toyLosses, toyStep } from "../toy-training.ts"

/** What settles only when a device answers has this long, in milliseconds. */
const patience = 3000

export function lossChecks<B extends Backend>(
  makeBackend: () => Promise<B>,
  lose: ((backend: B) => void | Promise<void>) | undefined,
  { it }: Runner,
): void {
  if (!lose) {
    it("a device that the kit is not told how to lose declares no `lost`", async () => {
      const { lost } = await makeBackend()
      check(lost === undefined, "the backend declares `lost`; give testBackend `lose`, so that it can be seen to hold")
    })
    return
  }

  it("a lost device: calls throw E_DEVICE_LOST, a read begun before settles, free is silent, `lost` resolves", async () => {
    const backend = await makeBackend()
    const { kernels, lost } = backend
    check(lost instanceof Promise, "the device can be lost, but the backend declares no `lost`")
    const x = backend.upload(Float32Array.of(1, 2, 3), "f32")
    const y = kernels.map(call("neg", input(0)), [{ buffer: x, shape: [3] }], [], [3], "f32")
    const ids = backend.upload(Int32Array.of(0), "i32")
    const pending = backend.read(y).then(
      (values) => same(values, [-1, -2, -3], "a read begun before the loss"),
      (error: unknown) => throwsCode("E_DEVICE_LOST", () => Promise.reject(error), "a read begun before the loss"),
    )
    await lose(backend)
    await within(pending, "a read begun before the loss")
    const error = await within(lost, "`lost`")
    check(isPeftError(error) && error.code === "E_DEVICE_LOST", `lost resolved to ${String(error)}, not E_DEVICE_LOST`)
    for (const [name, attempt] of Object.entries(calls(backend, x, ids)))
      await within(throwsCode("E_DEVICE_LOST", attempt, name), name)
    for (const buffer of [x, y, ids]) backend.free(buffer)
  })

  it("a training whose device is lost ends with E_DEVICE_LOST, keeps nothing, and another device takes its place", async () => {
    const backend = await makeBackend()
    const engine = engineOf(backend)
    const model = unfreeze(toyModel(backend))
    const losses = await toyLosses(model)
    const before = engine.liveBuffers
    await lose(backend)
    await within(
      throwsCode("E_DEVICE_LOST", () => toyStep(model, 0), "a step"),
      "a step",
    )
    check(engine.liveBuffers === before, `${engine.liveBuffers - before} buffers were left behind`)
    const other = await makeBackend()
    check(engineOf(other) !== engine, "the backend made afterwards is the lost one")
    same(await toyLosses(unfreeze(toyModel(other))), losses, "losses on a backend made afterwards")
  })
}

/** One call of everything that reaches the device. */
function calls(backend: Backend, x: DeviceBuffer, ids: DeviceBuffer): Readonly<Record<string, () => unknown>> {
  const { kernels } = backend
  const axis = { outer: 1, n: 3, inner: 1 }
  const rows = { rows: 3, width: 1, n: 1 }
  return {
    upload: () => backend.upload(Float32Array.of(1), "f32"),
    map: () => kernels.map(call("neg", input(0)), [{ buffer: x, shape: [3] }], [], [3], "f32"),
    reduce: () => kernels.reduce("sum", x, axis),
    matmul: () => kernels.matmul(x, x, { batch: 1, m: 3, n: 3, k: 1, transA: false, transB: false }),
    gather: () => kernels.gather(x, ids, rows),
    scatterAdd: () => kernels.scatterAdd(x, ids, { rows: 2, width: 3, n: 1 }),
    permute: () => kernels.permute(x, [3, 1], [1, 0]),
    slice: () => kernels.slice(x, { ...axis, start: 1, length: 2 }),
    concat: () => kernels.concat([x, x], { outer: 1, ns: [3, 3], inner: 1 }),
    randomBits: () => kernels.randomBits([0, 0], 3),
    read: () => backend.read(x),
    flush: () => backend.flush(),
  }
}

/** The promise's value; fails where it does not settle in time. */
async function within<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not settle within ${patience} ms of the loss`)), patience)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
