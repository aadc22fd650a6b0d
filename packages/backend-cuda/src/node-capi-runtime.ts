/**
 * TensorFlow through its C API: no compiler, any element type up and down, one device for every op.
 * An op that has no kernel for the device fails: nothing is placed elsewhere in silence.
 * Must not know where the library lies, nor kernels.
 */
import { PeftError } from "@peftjs/core"
import type { Capi, Pointer } from "./node-capi.ts"
import type { TfAttr, TfDevice, TfHandle, TfRuntime, TfTensor, TfType } from "./tf-runtime.ts"
import { tfTypes } from "./tf-runtime.ts"
import { statusError } from "./tf-status.ts"
import { bytesFor, typeOf, viewAs } from "./tf-types.ts"

/** TensorFlow's state with its devices; there may be several in a process, but one is enough. */
export interface Context {
  readonly pointer: Pointer
  readonly devices: readonly TfDevice[]
}

/** Without GPUs when `gpu` is false: none is touched then. `memoryGrowth` false takes all of the GPU's memory at once. */
export function openContext(capi: Capi, options: { readonly gpu: boolean; readonly memoryGrowth: boolean }): Context {
  // ConfigProto: device_count = { "GPU": 0 }, or gpu_options.allow_growth.
  const noGpu = [0x0a, 0x07, 0x0a, 0x03, 0x47, 0x50, 0x55, 0x10, 0x00]
  const growth = [0x32, 0x02, 0x20, options.memoryGrowth ? 1 : 0]
  const proto = Uint8Array.from(options.gpu ? growth : noGpu)
  const made = capi.newContextOptions()
  try {
    capi.setConfig(made, proto, proto.length, capi.status.pointer)
    check(capi, "the configuration of TensorFlow")
    const pointer = capi.newContext(made, capi.status.pointer)
    check(capi, "the start of TensorFlow")
    return { pointer, devices: listDevices(capi, pointer) }
  } finally {
    capi.deleteContextOptions(made)
  }
}

function listDevices(capi: Capi, context: Pointer): TfDevice[] {
  const { pointer: status } = capi.status
  const list = capi.listDevices(context, status)
  check(capi, "the list of devices")
  try {
    return Array.from({ length: capi.deviceCount(list) }, (_, i) => {
      const name = capi.deviceName(list, i, status)
      if (capi.deviceType(list, i, status) !== "GPU") return { name, kind: "CPU" as const }
      return { name, kind: "GPU" as const, memory: Number(capi.deviceMemory(list, i, status)) }
    }).filter(({ name }) => /:[CG]PU:\d+$/.test(name))
  } finally {
    capi.deleteDeviceList(list)
  }
}

/** Ops and tensors on one device of a context, behind handles of its own. */
export function capiRuntime(capi: Capi, context: Context, device: TfDevice): TfRuntime {
  const { pointer: status } = capi.status
  const pointers = new Map<TfHandle, Pointer>()
  const onGpu = device.kind === "GPU"
  const deviceName = capi.name(device.name)
  let made = 0

  const keep = (pointer: Pointer): TfHandle => {
    pointers.set(++made, pointer)
    return made
  }
  const pointerOf = (handle: TfHandle): Pointer => {
    const pointer = pointers.get(handle)
    if (pointer !== undefined) return pointer
    throw new PeftError("E_KERNEL", `[backend-cuda] the handle ${handle} is not of this runtime, or was deleted`)
  }

  /** What is not given is asked for when somebody looks: most callers know it. */
  const described = (pointer: Pointer): TfTensor => {
    let shape: readonly number[] | undefined
    let type: TfType | undefined
    return {
      handle: keep(pointer),
      get type() {
        type ??= typeOf(capi.handleType(pointer))
        return type
      },
      get shape() {
        shape ??= shapeOf(pointer)
        return shape
      },
    }
  }
  const shapeOf = (pointer: Pointer): number[] => {
    const rank = capi.handleRank(pointer, status)
    check(capi, "a shape")
    return Array.from({ length: rank }, (_, i) => Number(capi.handleDim(pointer, i, status)))
  }

  return {
    name: "TensorFlow C API",
    version: capi.version(),
    devices: context.devices,
    device,
    createTensor(type, shape, data) {
      const what = `an upload of ${type} [${shape}]`
      const tensor = hostTensor(capi, type, shape, data)
      let host: Pointer
      try {
        host = capi.newHandle(tensor, status)
        check(capi, what)
      } finally {
        capi.deleteTensor(tensor)
      }
      // Kernels for GPUs take most i32 operands from the host.
      if (!onGpu || type === "i32") return { handle: keep(host), type, shape }
      try {
        const there = capi.copyToDevice(host, context.pointer, deviceName, status)
        check(capi, what)
        return { handle: keep(there), type, shape }
      } finally {
        capi.deleteHandle(host)
      }
    },
    executeOp(name, attributes, inputs, outputs) {
      const what = `the op ${name}`
      const op = capi.newOp(context.pointer, capi.name(name), status)
      check(capi, what)
      try {
        if (onGpu) {
          capi.setDevice(op, deviceName, status)
          check(capi, what)
        }
        for (const handle of inputs) {
          capi.addInput(op, pointerOf(handle), status)
          check(capi, what)
        }
        for (const key in attributes) setAttribute(capi, op, key, attributes[key] as TfAttr)
        const results = new BigUint64Array(outputs)
        capi.execute(op, results, Int32Array.of(outputs), status)
        check(capi, what)
        return Array.from(results, described)
      } finally {
        capi.deleteOp(op)
      }
    },
    read(tensor) {
      const what = `a read of ${tensor.type} [${tensor.shape}]`
      const resolved = capi.resolve(pointerOf(tensor.handle), status)
      check(capi, what)
      try {
        const bytes = new Uint8Array(Number(capi.tensorBytes(resolved)))
        const from = capi.tensorData(resolved)
        if (bytes.length > 0 && from) capi.toHost(bytes, from, bytes.length)
        return viewAs(tensor.type, bytes.buffer)
      } finally {
        capi.deleteTensor(resolved)
      }
    },
    delete(handle) {
      capi.deleteHandle(pointerOf(handle))
      pointers.delete(handle)
    },
    count: () => pointers.size,
  }
}

function hostTensor(capi: Capi, type: TfType, shape: readonly number[], data: ArrayBufferView): Pointer {
  const bytes = bytesFor(type, shape, data)
  const dims = BigInt64Array.from(shape, BigInt)
  const tensor = capi.allocateTensor(tfTypes[type], dims, shape.length, bytes.length)
  const target = tensor && capi.tensorData(tensor)
  if (bytes.length > 0 && target) capi.toNative(target, bytes, bytes.length)
  if (tensor && (target || bytes.length === 0)) return tensor
  if (tensor) capi.deleteTensor(tensor)
  throw statusError(`an upload of ${type} [${shape}]`, 8, `no memory for ${bytes.length} bytes`)
}

const encoder = new TextEncoder()

function setAttribute(capi: Capi, op: Pointer, name: string, attr: TfAttr): void {
  const key = capi.name(name)
  if ("type" in attr) capi.setType(op, key, tfTypes[attr.type])
  else if ("int" in attr) capi.setInt(op, key, attr.int)
  else if ("ints" in attr) capi.setInts(op, key, BigInt64Array.from(attr.ints, BigInt), attr.ints.length)
  else if ("float" in attr) capi.setFloat(op, key, attr.float)
  else if ("bool" in attr) capi.setBool(op, key, attr.bool ? 1 : 0)
  else if ("string" in attr) {
    const bytes = encoder.encode(attr.string)
    capi.setString(op, key, bytes, bytes.length)
  } else {
    const dims = BigInt64Array.from(attr.shape, BigInt)
    capi.setShape(op, key, dims, dims.length, capi.status.pointer)
    check(capi, `the attribute ${name}`)
  }
}

function check({ status }: Capi, what: string): void {
  const code = status.code()
  if (code !== 0) throw statusError(what, code, status.message())
}
