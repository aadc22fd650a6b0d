/** Rotary positions in the half-split layout: one pass, in which every pair is read and written once. */
import { type FusedKernels, invariant } from "@peftjs/core"
import type { Memory } from "./buffers.ts"
import { type Heap, perHeap } from "./heap.ts"
import { rowOf } from "./row-pass.ts"
import { overRows } from "./staging.ts"
import { advance, times } from "./wasm-loop.ts"
import { type WasmFunction, wasmFunction } from "./wasm-module.ts"
import { f32x4, i32, op } from "./wasm-op.ts"

const functions = perHeap((heap) => heap.load([turning()]))

export function createRope({ alloc }: Memory, heap: Heap): FusedKernels["rope"] {
  const turn = functions(heap).turn as (...args: number[]) => number
  return (x, cos, sin, { outer, rows, tokens, heads, dim }) => {
    const half = dim / 2
    const period = rows * tokens
    const angles = period * half
    invariant(
      x.length === outer * tokens * heads * dim && cos.length === angles && sin.length === angles,
      `backend-cpu: rope of ${x.length} elements with ${cos.length} angles as [${outer}, ${tokens}, ${heads}, ${dim}]`,
    )
    const out = alloc("f32", x.length)
    const width = heads * dim
    const parts = [
      { buffer: x, width, access: "read" },
      { buffer: cos, width: 0, access: "read" },
      { buffer: sin, width: 0, access: "read" },
      { buffer: out, width, access: "write" },
    ] as const
    overRows(heap, outer * tokens, parts, (count, [from, c, s, to], first) => {
      // The angles begin anew after each sequence where all sequences share them.
      for (let done = 0; done < count; ) {
        const at = (first + done) % period
        const run = Math.min(count - done, period - at)
        const [start, skip] = [4 * done * width, 4 * at * half]
        turn(
          (from as number) + start,
          (c as number) + skip,
          (s as number) + skip,
          (to as number) + start,
          run,
          heads,
          half,
        )
        done += run
      }
    })
    return out
  }
}

/** (x, cos, sin, y, rows, heads, half): as many rows of angles as of x. */
function turning(): WasmFunction {
  const params = { x: "i32", cos: "i32", sin: "i32", y: "i32", rows: "i32", heads: "i32", half: "i32" } as const
  return wasmFunction("turn", params, (scope) => {
    const { x, cos, sin, y, rows, heads, half } = scope.param
    const [bytes, head, x2, y2] = [scope.local("i32"), scope.local("i32"), scope.local("i32"), scope.local("i32")]
    const row = rowOf(scope, half)
    const { add, sub, mul } = f32x4
    const perHead = [
      ...op.set(x2, i32.add(op.get(x), op.get(bytes))),
      ...op.set(y2, i32.add(op.get(y), op.get(bytes))),
      ...row.pass((at) => [
        ...at.store(y, sub(mul(at.load(x), at.load(cos)), mul(at.load(x2), at.load(sin)))),
        ...at.store(y2, add(mul(at.load(x2), at.load(cos)), mul(at.load(x), at.load(sin)))),
      ]),
      ...[x, y].flatMap((pointer) => advance(pointer, i32.shl(op.get(bytes), i32.const(1)))),
    ]
    return [
      ...row.begin,
      ...op.set(bytes, i32.shl(op.get(half), i32.const(2))),
      ...times(rows, [
        ...op.set(head, op.get(heads)),
        ...times(head, perHead),
        ...[cos, sin].flatMap((pointer) => advance(pointer, op.get(bytes))),
      ]),
    ]
  })
}
