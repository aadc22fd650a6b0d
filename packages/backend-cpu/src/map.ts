/** The elementwise kernel: checks operands, finds their layout and runs the loop made for it. */
import {
  type DeviceBuffer,
  type DType,
  type Expr,
  exprKey,
  invariant,
  type Layout,
  layoutOf,
  type MapInput,
  PeftError,
  type Shape,
  sizeOf,
} from "@peftjs/core"
import { type CpuBuffer, dataOf, type Memory } from "./buffers.ts"
import { interpretMap } from "./map-interpret.ts"
import { compileMap } from "./map-run.ts"

export type MapKernel = (
  expr: Expr,
  inputs: readonly MapInput[],
  scalars: readonly number[],
  shape: Shape,
  dtype: DType,
) => DeviceBuffer

/** Fills `out`, which has at least one element. */
export type MapRun = (
  out: CpuBuffer,
  inputs: readonly DeviceBuffer[],
  scalars: readonly number[],
  layout: Layout,
) => void

/** In WebAssembly where there is a heap, else interpreted. */
export function createMap(memory: Memory): MapKernel {
  const cache = new Map<string, MapRun>()
  return (expr, inputs, scalars, shape, dtype) => {
    if (dtype === "u8" || dtype === "u32") {
      throw new PeftError("E_UNSUPPORTED", `[backend-cpu] map writes f32, i32, f16 or bf16, not ${dtype}`)
    }
    for (const { buffer, shape } of inputs) {
      dataOf(buffer)
      invariant(
        buffer.length === sizeOf(shape),
        `backend-cpu: a buffer of ${buffer.length} elements was given the shape [${shape}]`,
      )
    }
    const layout = layoutOf(
      expr,
      inputs.map((x) => x.shape),
      shape,
    )
    const dtypes = inputs.map((x) => x.buffer.dtype)
    // Axes are part of the key: which loop a coordinate comes from depends on the sizes that were merged.
    const pattern = layout.strides.map((steps) => steps.map((s) => (s === 0 ? 0 : 1)).join("")).join()
    const key = `${exprKey(expr)}|${dtypes}|${dtype}|${scalars.length}|${layout.sizes.length}|${pattern}|${[...layout.loopOfAxis]}`
    let run = cache.get(key)
    if (run === undefined) {
      run = memory.heap
        ? compileMap(memory.heap, expr, dtypes, scalars.length, dtype, layout)
        : interpreted(expr, dtypes, dtype, layout)
      cache.set(key, run)
    }
    const n = sizeOf(shape)
    invariant(Number.isSafeInteger(n) && n >= 0, `backend-cpu: map got the shape [${shape}]`)
    const out = memory.alloc(dtype, n)
    if (n > 0)
      run(
        out,
        inputs.map((x) => x.buffer),
        scalars,
        layout,
      )
    return out
  }
}

function interpreted(expr: Expr, dtypes: readonly DType[], dtype: DType, layout: Layout): MapRun {
  const loop = interpretMap(expr, dtypes, dtype, layout)
  return (out, inputs, scalars, { sizes, strides }) =>
    loop(dataOf(out), inputs.map(dataOf), scalars, sizes, strides.flat())
}
