/**
 * What a kernel's call is made of: ops of TensorFlow on tensors and on buffers' views. What they make is gone when the call ends.
 * Knows no kernel.
 */
import { type DeviceBuffer, invariant, type Shape, sizeOf } from "@peftjs/core"
import type { Constants } from "./constants.ts"
import type { TfAttr, TfHandle, TfRuntime, TfTensor, TfType } from "./tf-runtime.ts"

/** A DeviceBuffer of this backend; no views are left once it has been freed. */
export interface CudaBuffer extends DeviceBuffer {
  views: TfTensor[]
}

export type Attributes = Readonly<Record<string, TfAttr>>

/** One call of a kernel. What its ops make is deleted when the call ends, except what the kernel returns. */
export interface Ops {
  /** Runs an op that has one output. */
  run(name: string, attributes: Attributes, ...inputs: readonly TfTensor[]): TfTensor
  /** Runs an op that has this many outputs. */
  runAll(outputs: number, name: string, attributes: Attributes, ...inputs: readonly TfTensor[]): TfTensor[]
  /** Gives memory back before the call ends. What this call did not make stays as it is. */
  drop(...tensors: readonly TfTensor[]): void
  /** Runs a part of a call; what it made is given back, except what it returns. */
  within<T extends readonly TfTensor[]>(part: () => T): T
  /** A buffer's elements in a shape, at no cost. */
  of(buffer: DeviceBuffer, shape: Shape): TfTensor
  /** A buffer's elements in a shape they have already, for where the shape does not matter. */
  any(buffer: DeviceBuffer): TfTensor
  /** Values of this call alone. */
  upload(type: TfType, shape: Shape, data: ArrayBufferView): TfTensor
  /** An f32 that may change from call to call. */
  scalar(value: number): TfTensor
  /** Whole numbers (i32 [n]), such as a shape. */
  ints(values: readonly number[]): TfTensor
  /** Fixed values, uploaded at most once. */
  readonly constant: Constants["get"]
  /** What calls compute alike, such as a mask: kept under a name, where it is not too large. */
  kept(name: string, make: () => TfTensor): TfTensor
}

export function viewsOf(buffer: DeviceBuffer): TfTensor[] {
  const { views } = buffer as CudaBuffer
  invariant(
    views !== undefined && views.length > 0,
    "backend-cuda: a buffer was used after it was freed, or belongs to another backend",
  )
  return views
}

/** The most shapes of a buffer that have a handle at a time. */
const maxViews = 4

/** The ops of one call; `made` is what it has to delete, and `replaced` what buffers gave up meanwhile. */
export function opsOf(
  runtime: TfRuntime,
  constants: Constants,
  send: TfRuntime["createTensor"],
  made: Set<TfHandle>,
  counts: { ops: number },
): { ops: Ops; replaced: TfHandle[] } {
  const replaced: TfHandle[] = []
  const ops: Ops = {
    run: (name, attributes, ...inputs) => ops.runAll(1, name, attributes, ...inputs)[0] as TfTensor,
    runAll(outputs, name, attributes, ...inputs) {
      counts.ops++
      const handles = inputs.map((x) => x.handle)
      const results = runtime.executeOp(name, attributes, handles, outputs)
      for (const { handle } of results) made.add(handle)
      return results
    },
    drop(...tensors) {
      for (const { handle } of tensors) if (made.delete(handle)) runtime.delete(handle)
    },
    within(part) {
      const before = new Set(made)
      const results = part()
      for (const { handle } of results) before.add(handle)
      for (const handle of made) {
        if (before.has(handle)) continue
        made.delete(handle)
        runtime.delete(handle)
      }
      return results
    },
    of(buffer, shape) {
      const views = viewsOf(buffer)
      const known = views.find((view) => sameShape(view.shape, shape))
      if (known) return known
      invariant(sizeOf(shape) === buffer.length, `backend-cuda: ${buffer.length} elements as [${shape}]`)
      const first = views[0] as TfTensor
      const view = ops.run("Reshape", { T: { type: first.type }, Tshape: { type: "i32" } }, first, ops.ints(shape))
      made.delete(view.handle)
      // The oldest of them, not deleted at once: this call may hold it.
      if (views.length === maxViews) replaced.push((views.splice(1, 1)[0] as TfTensor).handle)
      views.push(view)
      return view
    },
    any: (buffer) => viewsOf(buffer)[0] as TfTensor,
    scalar(value) {
      const known = constants.scalar(value)
      if (known) return known
      return ops.upload("f32", [], Float32Array.of(value))
    },
    upload(type, shape, data) {
      const fresh = send(type, shape, data)
      made.add(fresh.handle)
      return fresh
    },
    ints: (values) => constants.get("i32", [values.length], `${values}`, () => Int32Array.from(values)),
    constant: constants.get,
    kept(name, make) {
      const known = constants.find(name)
      if (known) return known
      const tensor = make()
      if (constants.keep(name, tensor)) made.delete(tensor.handle)
      return tensor
    },
  }
  return { ops, replaced }
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((size, axis) => size === b[axis])
}
