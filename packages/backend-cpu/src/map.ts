/** The elementwise kernel: checks operands, finds their layout and runs the loop made for it. */
import {
  type DeviceBuffer,
  type DType,
  type Expr,
  exprKey,
  invariant,
  type MapInput,
  PeftError,
  type Shape,
  sizeOf,
  type TypedArray,
} from "@peftjs/core"
import { dataOf, type Memory } from "./buffers.ts"
import { widen } from "./half.ts"
import { compileMap, type MapLoop } from "./map-compile.ts"
import { interpretMap } from "./map-interpret.ts"
import { checkOperand, type Layout, layoutOf } from "./map-layout.ts"

export type MapKernel = (
  expr: Expr,
  inputs: readonly MapInput[],
  scalars: readonly number[],
  shape: Shape,
  dtype: DType,
) => DeviceBuffer

/** `compile: false` interprets; by default code is generated where that is allowed. `exp` is what expressions call. */
export function createMap(memory: Memory, options: { compile?: boolean; exp: (x: number) => number }): MapKernel {
  const cache = new Map<string, MapLoop>()
  const compile = options.compile ?? mayCompile()
  return (expr, inputs, scalars, shape, dtype) => {
    if (dtype === "u8" || dtype === "u32") {
      throw new PeftError("E_UNSUPPORTED", `[backend-cpu] map writes f32, i32, f16 or bf16, not ${dtype}`)
    }
    const arrays = inputs.map((x) => dataOf(x.buffer))
    for (const x of inputs) checkOperand(x.buffer.length, x.shape)
    const layout = layoutOf(
      expr,
      inputs.map((x) => x.shape),
      shape,
    )
    const strides = layout.strides.flat()
    const dtypes = inputs.map((x) => x.buffer.dtype)
    // Axes are part of the key: which loop a coordinate comes from depends on the sizes that were merged.
    const pattern = layout.strides.map((steps) => steps.map((s) => (s === 0 ? 0 : 1)).join("")).join()
    const key = `${exprKey(expr)}|${dtypes}|${dtype}|${layout.sizes.length}|${pattern}|${[...layout.loopOfAxis]}`
    let loop = cache.get(key)
    if (loop === undefined) {
      loop =
        widening(expr, dtypes, dtype, layout) ??
        (compile ? compileMap(expr, dtypes, dtype, layout, options.exp) : interpretMap(expr, dtypes, dtype, layout))
      cache.set(key, loop)
    }
    const n = sizeOf(shape)
    invariant(Number.isSafeInteger(n) && n >= 0, `backend-cpu: map got the shape [${shape}]`)
    const out = memory.alloc(dtype, n)
    loop(out.data, arrays, scalars, layout.sizes, strides)
    return out
  }
}

/** A copy in f32 needs no loop of its own: weights that are read whole are the most frequent one. */
function widening(expr: Expr, inputs: readonly DType[], dtype: DType, { sizes, strides }: Layout): MapLoop | undefined {
  const [from] = inputs
  const plain = expr.op === "input" && expr.index === 0 && sizes.length === 1 && strides[0]?.[0] === 1
  if (!plain || dtype !== "f32" || (from !== "f32" && from !== "f16" && from !== "bf16")) return undefined
  return (out, [x]) => widen(x as TypedArray, from, 0, out.length, out as Float32Array)
}

function mayCompile(): boolean {
  try {
    new Function("")
    return true
  } catch {
    return false
  }
}
