/**
 * What kernels work with: buffers over TensorFlow's tensors, made by calls of ops.
 * A buffer has a handle for each shape it was asked for in; they share memory. Tensors are never written, so buffers may share memory as well.
 * Knows no kernel.
 */
import {
  bytesPerElement,
  type DeviceBuffer,
  type DType,
  hostArray,
  invariant,
  isPeftError,
  PeftError,
  sizeOf,
  type TypedArray,
} from "@peftjs/core"
import { createConstants } from "./constants.ts"
import { type CudaBuffer, type Ops, opsOf, viewsOf } from "./ops.ts"
import type { TfHandle, TfRuntime, TfTensor } from "./tf-runtime.ts"

export interface DeviceStats {
  /** Since the backend was made: ops run, bytes copied to the device and from it. */
  readonly ops: number
  readonly bytesUp: number
  readonly bytesDown: number
  /** Now: buffers that are not freed, tensors kept because calls ask for them again and again, all handles that TensorFlow holds. */
  readonly buffers: number
  readonly constants: number
  readonly handles: number
}

export interface Device {
  /** A new buffer from a kernel's ops. `what` describes the call, for errors. Throws E_BUFFER_SIZE, E_KERNEL, E_OUT_OF_MEMORY. */
  produce(what: () => string, dtype: DType, length: number, body: (ops: Ops) => TfTensor): DeviceBuffer
  /** Several new buffers from one call. */
  produceAll(
    what: () => string,
    outputs: readonly { readonly dtype: DType; readonly length: number }[],
    body: (ops: Ops) => readonly TfTensor[],
  ): DeviceBuffer[]
  /** Gives buffers new values of the same number and type. */
  update(what: () => string, buffers: readonly DeviceBuffer[], body: (ops: Ops) => readonly TfTensor[]): void
  upload(data: TypedArray, dtype: DType): DeviceBuffer
  read(buffer: DeviceBuffer): TypedArray
  free(buffer: DeviceBuffer): void
  /** Waits for the device. */
  finish(): void
  stats(): DeviceStats
}

export function createDevice(runtime: TfRuntime, dtypes: readonly DType[], maxBufferBytes: number): Device {
  const counts = { ops: 0, bytesUp: 0, bytesDown: 0 }
  let buffers = 0
  const send = (...[type, shape, data]: Parameters<TfRuntime["createTensor"]>): TfTensor => {
    counts.bytesUp += data.byteLength
    return runtime.createTensor(type, shape, data)
  }
  const constants = createConstants(send, runtime.delete)

  function check(dtype: DType, length: number): void {
    if (!dtypes.includes(dtype))
      throw new PeftError("E_UNSUPPORTED", `[backend-cuda] cannot hold ${dtype}; it holds ${dtypes.join(", ")}`)
    const bytes = length * bytesPerElement[dtype]
    if (bytes > maxBufferBytes)
      throw new PeftError(
        "E_BUFFER_SIZE",
        `[backend-cuda] a buffer of ${length} ${dtype} elements needs ${bytes} bytes; at most ${maxBufferBytes} are allowed (maxBufferBytes); split it`,
      )
  }

  const wrap = (dtype: DType, length: number, tensor: TfTensor): CudaBuffer => {
    buffers++
    return { dtype, length, views: [tensor] }
  }
  const empty = (dtype: DType): TfTensor => send(dtype, [0], hostArray(dtype, 0))

  /** Runs a call; what it returns has handles of its own. */
  function call(what: () => string, body: (ops: Ops) => readonly TfTensor[]): TfTensor[] {
    const made = new Set<TfHandle>()
    const { ops, replaced } = opsOf(runtime, constants, send, made, counts)
    try {
      const results = body(ops).map((result) =>
        made.has(result.handle) ? result : ops.run("Identity", { T: { type: result.type } }, result),
      )
      for (const { handle } of results) made.delete(handle)
      return results
    } catch (error) {
      if (!isPeftError(error) || (error.code !== "E_KERNEL" && error.code !== "E_OUT_OF_MEMORY")) throw error
      const text = error.message.replace(/^\[backend-cuda\] /, "").replace(/ \(E_[A-Z_]+\)$/, "")
      throw new PeftError(error.code, `[backend-cuda] ${what()}: ${text}`, { cause: error })
    } finally {
      for (const handle of made) runtime.delete(handle)
      for (const handle of replaced) runtime.delete(handle)
      constants.trim()
    }
  }

  const device: Device = {
    produce(what, dtype, length, body) {
      return device.produceAll(what, [{ dtype, length }], (ops) => [body(ops)])[0] as DeviceBuffer
    },
    produceAll(what, outputs, body) {
      for (const { dtype, length } of outputs) check(dtype, length)
      if (outputs.every(({ length }) => length === 0)) return outputs.map(({ dtype }) => wrap(dtype, 0, empty(dtype)))
      const results = call(what, body)
      return outputs.map(({ dtype, length }, i) => {
        const { type, shape } = results[i] as TfTensor
        invariant(type === dtype && sizeOf(shape) === length, `backend-cuda: ${what()} made ${type} [${shape}]`)
        return wrap(dtype, length, results[i] as TfTensor)
      })
    },
    update(what, targets, body) {
      const results = call(what, body)
      for (const [i, target] of targets.entries()) {
        for (const view of viewsOf(target)) runtime.delete(view.handle)
        ;(target as CudaBuffer).views = [results[i] as TfTensor]
      }
    },
    upload(data, dtype) {
      check(dtype, data.length)
      return wrap(dtype, data.length, send(dtype, [data.length], data))
    },
    read(buffer) {
      const data = runtime.read(viewsOf(buffer)[0] as TfTensor) as TypedArray
      counts.bytesDown += data.byteLength
      return data
    },
    free(buffer) {
      for (const view of viewsOf(buffer)) runtime.delete(view.handle)
      ;(buffer as CudaBuffer).views = []
      buffers--
    },
    finish() {
      if (runtime.device.kind === "CPU") return
      // A copy to the host waits for everything that was enqueued before it.
      const x = send("f32", [1], new Float32Array(1))
      const y = runtime.executeOp("Neg", { T: { type: "f32" } }, [x.handle], 1)[0] as TfTensor
      runtime.read(y)
      for (const { handle } of [x, y]) runtime.delete(handle)
    },
    stats: () => ({ ...counts, buffers, constants: constants.count(), handles: runtime.count() }),
  }
  return device
}
