/**
 * A backend with nothing but what the contract asks for: handles that cannot be looked into or written, required kernels only,
 * f32, i32, u32 and bytes only, small buffers. What runs on it runs on any backend; it is also the shortest example of one.
 */
import type { Backend, DeviceBuffer, DType, TypedArray } from "@peftjs/core"
import { bytesPerElement, invariant, PeftError, randomWords, sizeOf } from "@peftjs/core"
import * as host from "./fake-kernels.ts"

export interface FakeBackendOptions {
  /** 16 KiB unless told otherwise: a small model's matrices have to be split. */
  readonly maxBufferBytes?: number
  /** Run kernels only at the next read() or flush(), as a device with a command queue does. */
  readonly deferred?: boolean
  /** Whether the device can go away. */
  readonly losable?: boolean
  /** Whether it holds u8, which packed weights need; true unless told otherwise. */
  readonly bytes?: boolean
}

export interface FakeBackend extends Backend {
  /** Buffers made and not freed. */
  live(): number
  /** A copy of a buffer's values at once: for whoever builds another fake on this one. */
  peek(buffer: DeviceBuffer): TypedArray
  /** Takes the device away, where it is losable. */
  lose(): void
}

/**
 * Makes the fake backend. Its kernels throw E_UNSUPPORTED (element type), E_BUFFER_SIZE (larger than `maxBufferBytes`), E_FREED (used
 * or freed again after `free`), E_DEVICE (a handle it never made), E_DEVICE_LOST, E_INTERNAL (operands that do not have the sizes announced).
 */
export function fakeBackend(options: FakeBackendOptions = {}): FakeBackend {
  const { maxBufferBytes = 16 * 1024, deferred = false, losable = false, bytes: u8 = true } = options
  const dtypes: readonly DType[] = u8 ? ["f32", "i32", "u32", "u8"] : ["f32", "i32", "u32"]
  const memory = new Map<DeviceBuffer, () => TypedArray>()
  const freed = new WeakSet<DeviceBuffer>()
  const queue: (() => TypedArray)[] = []
  let made = 0
  let loss: PeftError | undefined
  let announce: (error: Error) => void = () => {}
  const lost = new Promise<Error>((resolve) => {
    announce = resolve
  })
  const present = (): void => {
    if (loss) throw loss
  }

  /** What a handle stands for; kept by whoever asked, even when the handle is freed before the queue runs. */
  const valuesOf = (buffer: DeviceBuffer): (() => TypedArray) => {
    present()
    const values = memory.get(buffer)
    if (values) return values
    if (freed.has(buffer)) throw new PeftError("E_FREED", "[fake] a buffer was used after it was freed")
    throw new PeftError("E_DEVICE", "[fake] a buffer of another backend; load everything on one")
  }
  // #region make
  const make = (dtype: DType, length: number, compute: () => TypedArray): DeviceBuffer => {
    present()
    if (!dtypes.includes(dtype)) throw new PeftError("E_UNSUPPORTED", `[fake] holds ${dtypes}, not ${dtype}`)
    const bytes = length * bytesPerElement[dtype]
    if (bytes > maxBufferBytes) {
      throw new PeftError("E_BUFFER_SIZE", `[fake] ${bytes} bytes; a buffer has at most ${maxBufferBytes}; split it`)
    }
    const values = once(compute)
    if (deferred) queue.push(values)
    else values()
    const handle = Object.freeze({ id: made++, dtype, length })
    memory.set(handle, values)
    return handle
  }
  // #endregion
  const run = async (): Promise<void> => {
    present()
    for (const values of queue.splice(0)) values()
  }
  const sized = (buffer: DeviceBuffer, length: number): (() => TypedArray) => {
    const values = valuesOf(buffer)
    invariant(buffer.length === length, `fake: an operand has ${buffer.length} elements, not ${length}`)
    return values
  }

  return {
    name: "fake",
    specVersion: 1,
    supports: { dtypes, maxBufferBytes },
    live: () => memory.size,
    peek: (buffer) => valuesOf(buffer)().slice(),
    ...(losable ? { lost } : {}),
    lose() {
      if (!losable) throw new PeftError("E_UNSUPPORTED", "[fake] this device cannot be lost; make it losable")
      loss = new PeftError("E_DEVICE_LOST", "[fake] the device was taken away")
      announce(loss)
    },
    // #region memory
    upload(data, dtype) {
      const copy = data.slice()
      return make(dtype, data.length, () => copy)
    },
    free(buffer) {
      if (!loss) valuesOf(buffer)
      memory.delete(buffer)
      freed.add(buffer)
    },
    async read(buffer) {
      const values = valuesOf(buffer)
      await run()
      return values().slice()
    },
    flush: run,
    // #endregion
    kernels: {
      map(expr, inputs, scalars, shape, dtype) {
        const operands = inputs.map((x) => ({ shape: x.shape, values: sized(x.buffer, sizeOf(x.shape)) }))
        const read = (): host.HostOperand[] => operands.map((x) => ({ shape: x.shape, data: x.values() }))
        return make(dtype, sizeOf(shape), () => host.map(expr, read(), scalars, shape, dtype))
      },
      reduce(op, x, axis) {
        const values = sized(x, axis.outer * axis.n * axis.inner)
        return make("f32", axis.outer * axis.inner, () => host.reduce(op, values(), axis))
      },
      // #region matmul
      matmul(a, b, dims) {
        const { batch, m, n, k } = dims
        const [x, y] = [sized(a, batch * m * k), sized(b, batch * k * n)]
        return make("f32", batch * m * n, () => host.matmul(x(), y(), dims))
      },
      // #endregion
      gather(table, ids, { rows, width, n }) {
        const [t, i] = [sized(table, rows * width), sized(ids, n)]
        return make("f32", n * width, () => host.gather(t(), i(), width))
      },
      scatterAdd(x, ids, { rows, width, n }) {
        const [t, i] = [sized(x, n * width), sized(ids, n)]
        return make("f32", rows * width, () => host.scatterAdd(t(), i(), rows, width))
      },
      permute(x, shape, axes) {
        const values = sized(x, sizeOf(shape))
        return make(x.dtype, x.length, () => host.permute(values(), x.dtype, shape, axes))
      },
      slice(x, axis) {
        const values = sized(x, axis.outer * axis.n * axis.inner)
        return make(x.dtype, axis.outer * axis.length * axis.inner, () => host.slice(values(), x.dtype, axis))
      },
      concat(xs, { outer, ns, inner }) {
        const runs = ns.map((n) => n * inner)
        const parts = xs.map((x, i) => sized(x, outer * (runs[i] as number)))
        const { dtype } = xs[0] as DeviceBuffer
        const length = outer * runs.reduce((a, b) => a + b, 0)
        return make(dtype, length, () =>
          host.concat(
            parts.map((values) => values()),
            dtype,
            outer,
            runs,
          ),
        )
      },
      randomBits: (key, n) => make("u32", n, () => randomWords(key, n)),
    },
  }
}

function once<T>(compute: () => T): () => T {
  let todo: (() => T) | undefined = compute
  let result: T
  return () => {
    if (todo) result = todo()
    todo = undefined
    return result
  }
}
