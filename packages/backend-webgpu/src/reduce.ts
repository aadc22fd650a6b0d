/**
 * Sums and maxima over the middle axis, in a fixed order: no atomics, so the same bits at every call.
 * inner = 1: a workgroup per row; else an invocation per column. Where those are few and long, the axis is cut into pieces that are
 * reduced side by side, and the pieces' results once more.
 */

import type { RequiredKernels } from "@peftjs/core"
import { type Axis, type DeviceBuffer, type DType, invariant } from "@peftjs/core"
import type { Gpu, GpuBuffer, Program } from "./gpu.ts"
import { groupsFor, produce, threads, u32s } from "./launch.ts"
import { type Fold, rowGroup } from "./row-group.ts"
import { loaders, storageOf } from "./words.ts"

export function createReduce(gpu: Gpu): RequiredKernels["reduce"] {
  return (op, x, axis) => {
    const { outer, n, inner } = axis
    invariant(
      x.length === outer * n * inner,
      `backend-webgpu: reduce of ${x.length} elements as [${outer}, ${n}, ${inner}]`,
    )
    const pieces = piecesOf(axis)
    const first = pass(gpu, op, x, axis, pieces)
    if (pieces === 1) return first
    const result = pass(gpu, op, first, { outer, n: pieces, inner }, 1)
    gpu.free(first)
    return result
  }
}

/** Enough pieces to occupy a device, none of them short. */
function piecesOf({ outer, n, inner }: Axis): number {
  const [wanted, shortest] = inner === 1 ? [512, 2048] : [16384, 64]
  return Math.max(1, Math.min(Math.floor(n / shortest), Math.floor(wanted / Math.max(1, outer * inner))))
}

/** [outer, n, inner] → [outer, pieces, inner]. */
function pass(gpu: Gpu, op: Fold, x: DeviceBuffer, { outer, n, inner }: Axis, pieces: number): GpuBuffer {
  const items = outer * pieces * inner
  const each = Math.ceil(n / pieces)
  const program = inner === 1 ? rowProgram(gpu, op, x.dtype, each) : columnProgram(gpu, op, x.dtype)
  const params = inner === 1 ? [items, n, pieces, each] : [items, n, pieces, each, inner]
  // The bits of what nothing adds up to: 0 or -∞.
  const options = { inputs: [x], params: [...params, op === "sum" ? 0 : 0xff800000] }
  return produce(gpu, program, { ...options, groups: inner === 1 ? items : groupsFor(items) }, "f32", items)
}

function rowProgram(gpu: Gpu, op: Fold, dtype: DType, n: number): Program {
  const { lanes, needs, reducer, all } = rowGroup(gpu, n)
  return gpu.program(`reduce ${op} rows ${dtype} ${lanes}`, () => ({
    inputs: [{ name: "x", type: storageOf(dtype) }],
    outputs: [{ name: "result", type: "f32" }],
    params: u32s("items", "n", "pieces", "each", "nothing"),
    workgroupSize: [lanes],
    needs,
    helpers: [loaders([{ name: "x", dtype }]), reducer("total", op)].join("\n"),
    body: `if (group_index >= p.items) { return; }
let first = group_index % p.pieces * p.each;
let row = group_index / p.pieces * p.n;
let end = row + min(p.n, first + p.each);
var value = bitcast<f32>(p.nothing);
for (var i = row + first + lane; i < end; i += ${lanes}u) { ${folded(op, "load_x(i)")} }
let whole = ${all("total", "value")};
if (lane == 0u) { result[group_index] = whole; }`,
  }))
}

function columnProgram(gpu: Gpu, op: Fold, dtype: DType): Program {
  return gpu.program(`reduce ${op} columns ${dtype}`, () => ({
    inputs: [{ name: "x", type: storageOf(dtype) }],
    outputs: [{ name: "result", type: "f32" }],
    params: u32s("items", "n", "pieces", "each", "inner", "nothing"),
    workgroupSize: [threads],
    helpers: loaders([{ name: "x", dtype }]),
    body: `if (index >= p.items) { return; }
let column = index % p.inner;
let rest = index / p.inner;
let first = rest % p.pieces * p.each;
let end = min(p.n, first + p.each);
let start = rest / p.pieces * p.n * p.inner + column;
var value = bitcast<f32>(p.nothing);
for (var i = first; i < end; i++) { ${folded(op, "load_x(start + i * p.inner)")} }
result[index] = value;`,
  }))
}

const folded = (op: Fold, next: string): string => (op === "sum" ? `value += ${next};` : `value = max(value, ${next});`)
