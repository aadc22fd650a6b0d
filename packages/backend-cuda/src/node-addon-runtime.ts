/**
 * TensorFlow through the native addon of @tensorflow/tfjs-node-gpu, called directly: nothing of TensorFlow.js runs.
 * The addon takes and gives f32, i32, i64, u8 and bool; other types go up as bytes and Bitcast, and come down widened to i32. It keeps every array
 * that it is given, and chooses its device by itself: one per process, the last GPU that is visible.
 * Must not know where the addon lies, nor kernels.
 */
import { createRequire } from "node:module"
import { PeftError } from "@peftjs/core"
import type { TfAttr, TfDevice, TfRuntime, TfTensor, TfType } from "./tf-runtime.ts"
import { tfTypes } from "./tf-runtime.ts"
import { statusError } from "./tf-status.ts"
import { bytesFor, bytesOf, typeOf, viewAs } from "./tf-types.ts"

interface AddonAttr {
  readonly name: string
  readonly type: number
  readonly value: unknown
}

interface Result {
  readonly id: number
  readonly shape: number[]
  readonly dtype: number
}

/** What tfjs_binding.node exports. */
interface Addon {
  createTensor(shape: readonly number[], dtype: number, data: ArrayBufferView): number
  executeOp(name: string, attributes: AddonAttr[], inputs: readonly number[], outputs: number): Result[]
  tensorDataSync(id: number): ArrayBufferView
  deleteTensor(id: number): void
  isUsingGpuDevice(): boolean
  readonly TF_Version: string
  readonly TF_ATTR_STRING: number
  readonly TF_ATTR_INT: number
  readonly TF_ATTR_FLOAT: number
  readonly TF_ATTR_BOOL: number
  readonly TF_ATTR_TYPE: number
  readonly TF_ATTR_SHAPE: number
}

const uploaded: ReadonlySet<TfType> = new Set(["f32", "i32", "i64", "u8", "bool"])
/** How a type that cannot be read is turned into i32 on the device: first reinterpreted, then widened. */
const downward: Partial<Readonly<Record<TfType, { readonly bits?: TfType; readonly cast: boolean }>>> = {
  f16: { bits: "u16", cast: true },
  bf16: { bits: "u16", cast: true },
  u16: { cast: true },
  u8: { cast: true },
  u32: { bits: "i32", cast: false },
}

/**
 * Loads the addon (tfjs_binding.node). Throws what Node says when it cannot be loaded.
 * It computes on the last GPU that is visible, else on the CPU; `device` says which.
 */
export function addonRuntime(path: string): TfRuntime {
  const addon = createRequire(import.meta.url)(path) as Addon
  const cpu: TfDevice = { name: "/job:localhost/replica:0/task:0/device:CPU:0", kind: "CPU" }
  const gpu: TfDevice = { name: "/job:localhost/replica:0/task:0/device:GPU:0", kind: "GPU" }
  const devices = addon.isUsingGpuDevice() ? [cpu, gpu] : [cpu]
  let live = 0

  const attribute = ([name, attr]: [string, TfAttr]): AddonAttr => {
    if ("type" in attr) return { name, type: addon.TF_ATTR_TYPE, value: tfTypes[attr.type] }
    if ("int" in attr) return { name, type: addon.TF_ATTR_INT, value: attr.int }
    if ("ints" in attr) return { name, type: addon.TF_ATTR_INT, value: attr.ints }
    if ("float" in attr) return { name, type: addon.TF_ATTR_FLOAT, value: attr.float }
    if ("bool" in attr) return { name, type: addon.TF_ATTR_BOOL, value: attr.bool }
    if ("string" in attr) return { name, type: addon.TF_ATTR_STRING, value: attr.string }
    return { name, type: addon.TF_ATTR_SHAPE, value: attr.shape }
  }

  const runtime: TfRuntime = {
    name: "tfjs-node-gpu addon",
    version: addon.TF_Version,
    devices,
    device: devices.at(-1) as TfDevice,
    createTensor(type, shape, data) {
      // A copy: the addon keeps the array.
      const bytes = bytesFor(type, shape, data).slice().buffer
      if (uploaded.has(type)) {
        // An i64 travels as two i32.
        const array = type === "i64" ? new Int32Array(bytes) : viewAs(type, bytes)
        const handle = guarded(`an upload of ${type} [${shape}]`, () => addon.createTensor(shape, tfTypes[type], array))
        live++
        return { handle, type, shape }
      }
      const raw = runtime.createTensor("u8", [...shape, bytesOf(type)], new Uint8Array(bytes))
      try {
        return one(runtime, "Bitcast", { T: { type: "u8" }, type: { type } }, raw)
      } finally {
        runtime.delete(raw.handle)
      }
    },
    executeOp(name, attributes, inputs, outputs) {
      const results = guarded(`the op ${name}`, () =>
        addon.executeOp(name, Object.entries(attributes).map(attribute), inputs, outputs),
      )
      live += results.length
      return results.map(({ id, shape, dtype }) => ({ handle: id, shape, type: typeOf(dtype) }))
    },
    read(tensor) {
      const how = downward[tensor.type]
      if (how === undefined) {
        const data = guarded(`a read of ${tensor.type} [${tensor.shape}]`, () => addon.tensorDataSync(tensor.handle))
        return viewAs(tensor.type, data.buffer as ArrayBuffer)
      }
      const { bits, cast } = how
      const pattern = bits && one(runtime, "Bitcast", { T: { type: tensor.type }, type: { type: bits } }, tensor)
      const { handle, type } = pattern ?? tensor
      const wide = cast && one(runtime, "Cast", { SrcT: { type }, DstT: { type: "i32" } }, { ...tensor, handle })
      try {
        const words = runtime.read(wide || (pattern as TfTensor)) as Int32Array
        if (!cast) return viewAs(tensor.type, words.buffer as ArrayBuffer)
        return bytesOf(tensor.type) === 1 ? Uint8Array.from(words) : Uint16Array.from(words)
      } finally {
        for (const made of [pattern, wide]) if (made) runtime.delete(made.handle)
      }
    },
    delete(handle) {
      guarded("a delete", () => addon.deleteTensor(handle))
      live--
    },
    count: () => live,
  }
  return runtime
}

function one(runtime: TfRuntime, name: string, attributes: Record<string, TfAttr>, input: TfTensor): TfTensor {
  return runtime.executeOp(name, attributes, [input.handle], 1)[0] as TfTensor
}

/** The addon writes the status into its message: "Invalid TF_Status: 3\nMessage: …". */
function guarded<T>(what: string, call: () => T): T {
  try {
    return call()
  } catch (error) {
    const { message } = error as Error
    const status = /Invalid TF_Status: (\d+)\s+Message: ([\s\S]*)/.exec(message)
    if (status) throw statusError(what, Number(status[1]), status[2] as string, error)
    throw new PeftError("E_KERNEL", `[backend-cuda] ${what} failed: ${message}`, { cause: error })
  }
}
