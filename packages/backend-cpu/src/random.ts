/** Random words by Threefry-2x32: core's `randomWords`, four blocks at a time in WebAssembly, because dropout draws millions. */
import type { DeviceBuffer } from "@peftjs/core"
import { addressOf, type Memory } from "./buffers.ts"
import { perHeap } from "./heap.ts"
import { advance } from "./wasm-loop.ts"
import { type WasmFunction, wasmFunction } from "./wasm-module.ts"
import { type Code, i32, i32x4, op, v128 } from "./wasm-op.ts"

export function createRandomBits(memory: Memory): (key: readonly [number, number], n: number) => DeviceBuffer {
  return (key, n) => {
    const out = memory.alloc("u32", n)
    const at = addressOf(out)
    if (memory.heap && at !== undefined && n > 0) kernels(memory.heap).threefry?.(at, n, ...key)
    else fillRandom(out.data, key)
    return out
  }
}

const kernels = perHeap((heap) => heap.load([threefry()]))

const rotations = [
  [13, 15, 26, 6],
  [17, 29, 16, 24],
] as const

/** Without a heap. Fills `out`; word 2i and 2i+1 are the block with counter [i, 0]. */
function fillRandom(out: Uint32Array, key: readonly [number, number]): void {
  const k0 = key[0] | 0
  const k1 = key[1] | 0
  const k2 = 0x1bd11bda ^ k0 ^ k1
  const n = out.length
  for (let i = 0; i < n; i += 2) {
    let a = ((i >>> 1) + k0) | 0
    let b = k1
    for (let group = 0; group < 5; group++) {
      if ((group & 1) === 0) {
        a = (a + b) | 0
        b = ((b << 13) | (b >>> 19)) ^ a
        a = (a + b) | 0
        b = ((b << 15) | (b >>> 17)) ^ a
        a = (a + b) | 0
        b = ((b << 26) | (b >>> 6)) ^ a
        a = (a + b) | 0
        b = ((b << 6) | (b >>> 26)) ^ a
      } else {
        a = (a + b) | 0
        b = ((b << 17) | (b >>> 15)) ^ a
        a = (a + b) | 0
        b = ((b << 29) | (b >>> 3)) ^ a
        a = (a + b) | 0
        b = ((b << 16) | (b >>> 16)) ^ a
        a = (a + b) | 0
        b = ((b << 24) | (b >>> 8)) ^ a
      }
      // After group g the keys g+1 and g+2 (modulo 3) come in: 1 2, 2 0, 0 1, 1 2, 2 0.
      const phase = group % 3
      a = (a + (phase === 0 ? k1 : phase === 1 ? k2 : k0)) | 0
      b = (b + (phase === 0 ? k2 : phase === 1 ? k0 : k1) + group + 1) | 0
    }
    out[i] = a
    if (i + 1 < n) out[i + 1] = b
  }
}

function threefry(): WasmFunction {
  return wasmFunction("threefry", { out: "i32", n: "i32", k0: "i32", k1: "i32" }, (scope) => {
    const { out, n, k0, k1 } = scope.param
    const [a, b, counter] = [scope.local("v128"), scope.local("v128"), scope.local("v128")]
    const keys = [scope.local("v128"), scope.local("v128"), scope.local("v128")]
    const end = scope.local("i32")
    const key = (i: number): Code => op.get(keys[i % 3] as number)
    const third = i32.xor(i32.xor(op.get(k0), op.get(k1)), i32.const(0x1bd11bda))
    const rotated = (x: Code, by: number): Code =>
      v128.or(i32x4.shl(x, i32.const(by)), i32x4.shrU(x, i32.const(32 - by)))
    const round = (by: number): Code => [
      ...op.set(a, i32x4.add(op.get(a), op.get(b))),
      ...op.set(b, v128.xor(rotated(op.get(b), by), op.get(a))),
    ]
    const group = (g: number): Code => [
      ...(rotations[g % 2] as readonly number[]).flatMap(round),
      ...op.set(a, i32x4.add(op.get(a), key(g + 1))),
      ...op.set(b, i32x4.add(i32x4.add(op.get(b), key(g + 2)), i32x4.splatOf(g + 1))),
    ]
    return [
      ...[op.get(k0), op.get(k1), third].flatMap((word, i) => op.set(keys[i] as number, i32x4.splat(word))),
      ...op.set(counter, i32x4.const(0, 1, 2, 3)),
      ...op.set(end, i32.add(op.get(out), i32.shl(op.get(n), i32.const(2)))),
      ...op.loop([
        ...op.set(a, i32x4.add(op.get(counter), key(0))),
        ...op.set(b, key(1)),
        ...[0, 1, 2, 3, 4].flatMap(group),
        ...v128.store(op.get(out), v128.shuffle32([0, 4, 1, 5], op.get(a), op.get(b))),
        ...v128.store(op.get(out), v128.shuffle32([2, 6, 3, 7], op.get(a), op.get(b)), 16),
        ...op.set(counter, i32x4.add(op.get(counter), i32x4.splatOf(4))),
        ...advance(out, 32),
        ...i32.ltU(op.get(out), op.get(end)),
      ]),
    ]
  })
}
