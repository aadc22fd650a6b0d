/**
 * Tensors that calls ask for again and again: shapes, axes, numbers of formulas. They are uploaded once and kept, the longest unused given
 * up first. Knows no kernel.
 */
import { type Shape, sizeOf } from "@peftjs/core"
import type { TfHandle, TfRuntime, TfTensor, TfType } from "./tf-runtime.ts"
import { bytesOf } from "./tf-types.ts"

export interface Constants {
  /** The tensor of a type and shape under a name; `values` is called where it is not kept yet. Valid until `trim`. */
  get(type: TfType, shape: Shape, name: string, values: () => ArrayBufferView): TfTensor
  /** What was kept under a name. */
  find(name: string): TfTensor | undefined
  /** Takes over a tensor that was computed; false where it is too large. */
  keep(name: string, tensor: TfTensor): boolean
  /** An f32 that was asked for before; undefined the first time, for numbers such as learning rates never come again. */
  scalar(value: number): TfTensor | undefined
  /** Gives up what is too much, when no call is under way. */
  trim(): void
  count(): number
}

const maxCount = 1024
const maxBytes = 64 * 2 ** 20
/** A step has few that change from step to step, and its many parameters ask for each of them. */
const maxScalars = 16

const bytesFor = ({ type, shape }: TfTensor): number => sizeOf(shape) * bytesOf(type)

export function createConstants(send: TfRuntime["createTensor"], drop: (handle: TfHandle) => void): Constants {
  const kept = new Map<string, TfTensor>()
  const scalars = new Map<string, TfTensor>()
  const seen = new Set<string>()
  let bytes = 0
  const put = (name: string, tensor: TfTensor): void => {
    kept.set(name, tensor)
    bytes += bytesFor(tensor)
  }
  const constants: Constants = {
    get(type, shape, name, values) {
      const key = `${type} ${shape}: ${name}`
      const known = constants.find(key)
      if (known) return known
      const tensor = send(type, shape, values())
      put(key, tensor)
      return tensor
    },
    find(name) {
      const known = kept.get(name)
      if (!known) return undefined
      // Moved to the end: the map's order is then the order of use.
      kept.delete(name)
      kept.set(name, known)
      return known
    },
    keep(name, tensor) {
      const fits = bytesFor(tensor) <= maxBytes / 4
      if (fits) put(name, tensor)
      return fits
    },
    scalar(value) {
      const name = Object.is(value, -0) ? "-0" : `${value}`
      const known = scalars.get(name)
      scalars.delete(name)
      if (known !== undefined || seen.has(name)) scalars.set(name, known ?? send("f32", [], Float32Array.of(value)))
      if (seen.size === maxCount) seen.clear()
      seen.add(name)
      return scalars.get(name)
    },
    trim() {
      for (const [name, tensor] of kept) {
        if (kept.size <= maxCount && bytes <= maxBytes) break
        bytes -= bytesFor(tensor)
        kept.delete(name)
        drop(tensor.handle)
      }
      for (const [name, tensor] of scalars) {
        if (scalars.size <= maxScalars) break
        drop(tensor.handle)
        scalars.delete(name)
      }
    },
    count: () => kept.size + scalars.size,
  }
  return constants
}
