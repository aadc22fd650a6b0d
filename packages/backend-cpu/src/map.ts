/** The elementwise kernel: checks operands, finds their layout and runs the loop made for it. */
import {
  type DeviceBuffer,
  type DType,
  type Expr,
  exprKey,
  type FusedKernels,
  invariant,
  type Layout,
  layoutOf,
  type MapInput,
  PeftError,
  type Shape,
  sizeOf,
} from "@peftjs/core"
import { type CpuBuffer, dataOf, type Memory } from "./buffers.ts"
import type { Heap } from "./heap.ts"
import type { MapType } from "./map-code.ts"
import { interpretMap } from "./map-interpret.ts"
import { compileMap } from "./map-run.ts"

export type MapKernel = (
  expr: Expr,
  inputs: readonly MapInput[],
  scalars: readonly number[],
  shape: Shape,
  dtype: DType,
) => DeviceBuffer

/** Fills `outs`, which have at least one element each. */
export type MapRun = (
  outs: readonly CpuBuffer[],
  inputs: readonly DeviceBuffer[],
  scalars: readonly number[],
  layout: Layout,
) => void

/** One expression: in WebAssembly where there is a heap, else interpreted. */
export function createMap(memory: Memory): MapKernel {
  const { heap } = memory
  const run = runner(memory, ([expr], dtypes, scalars, dtype, layout) =>
    heap
      ? compileMap(heap, [expr as Expr], dtypes, scalars, dtype, layout)
      : interpreted(expr as Expr, dtypes, dtype, layout),
  )
  return (expr, inputs, scalars, shape, dtype) => {
    if (dtype === "u8" || dtype === "u32") {
      throw new PeftError("E_UNSUPPORTED", `[backend-cpu] map writes f32, i32, f16 or bf16, not ${dtype}`)
    }
    return run([expr], inputs, scalars, shape, dtype)[0] as DeviceBuffer
  }
}

/** Several in one pass. */
export function createMaps(memory: Memory, heap: Heap): FusedKernels["maps"] {
  const run = runner(memory, (...given) => compileMap(heap, ...given))
  return (exprs, inputs, scalars, shape) => run(exprs, inputs, scalars, shape, "f32")
}

type Compile = (
  exprs: readonly Expr[],
  dtypes: readonly DType[],
  scalarCount: number,
  dtype: MapType,
  layout: Layout,
) => MapRun

/** Checks operands and keeps what has been compiled. */
function runner(
  memory: Memory,
  compile: Compile,
): (
  exprs: readonly Expr[],
  inputs: readonly MapInput[],
  scalars: readonly number[],
  shape: Shape,
  dtype: MapType,
) => readonly CpuBuffer[] {
  const cache = new Map<string, MapRun>()
  return (exprs, inputs, scalars, shape, dtype) => {
    for (const { buffer, shape } of inputs) {
      dataOf(buffer)
      invariant(
        buffer.length === sizeOf(shape),
        `backend-cpu: a buffer of ${buffer.length} elements was given the shape [${shape}]`,
      )
    }
    const layout = layoutOf(
      exprs,
      inputs.map((x) => x.shape),
      shape,
    )
    const dtypes = inputs.map((x) => x.buffer.dtype)
    // Axes are part of the key: which loop a coordinate comes from depends on the sizes that were merged.
    const pattern = layout.strides.map((steps) => steps.map((s) => (s === 0 ? 0 : 1)).join("")).join()
    const key = `${exprs.map(exprKey)}|${dtypes}|${dtype}|${scalars.length}|${layout.sizes.length}|${pattern}|${[...layout.loopOfAxis]}`
    const run = cache.get(key) ?? compile(exprs, dtypes, scalars.length, dtype, layout)
    cache.set(key, run)
    const n = sizeOf(shape)
    invariant(Number.isSafeInteger(n) && n >= 0, `backend-cpu: map got the shape [${shape}]`)
    const outs = exprs.map(() => memory.alloc(dtype, n))
    if (n > 0)
      run(
        outs,
        inputs.map((x) => x.buffer),
        scalars,
        layout,
      )
    return outs
  }
}

function interpreted(expr: Expr, dtypes: readonly DType[], dtype: MapType, layout: Layout): MapRun {
  const loop = interpretMap(expr, dtypes, dtype, layout)
  return ([out], inputs, scalars, { sizes, strides }) =>
    loop(dataOf(out as CpuBuffer), inputs.map(dataOf), scalars, sizes, strides.flat())
}
