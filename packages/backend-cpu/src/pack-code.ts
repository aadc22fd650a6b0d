/**
 * Packing of f32 in WebAssembly: whole panels of `width` lanes, side by side for every depth, times a factor. What pack.ts does for any
 * operand, for those in the heap.
 */
import { turned } from "./transpose.ts"
import { load32Lane } from "./wasm-byte-op.ts"
import { advance, times } from "./wasm-loop.ts"
import { type WasmFunction, wasmFunction } from "./wasm-module.ts"
import { type Code, f32x4, i32, op, v128 } from "./wasm-op.ts"

const parameters = {
  from: "i32",
  to: "i32",
  panels: "i32",
  depth: "i32",
  // Bytes from one lane, or one depth, to the next where they are not neighbours.
  step: "i32",
  factor: "f32",
} as const

/** Functions (from, to, panels, depth, step, factor): `across` where lanes are neighbours, `along` where depths are. */
export function packFunctions(width: number): WasmFunction[] {
  return [across(width), along(width)]
}

const vectors = (width: number): number[] => Array.from({ length: width / 4 }, (_, i) => i)

function across(width: number): WasmFunction {
  return wasmFunction(`across${width}`, parameters, ({ param, local }) => {
    const { from, to, panels, depth, step, factor } = param
    const [at, left, scale] = [local("i32"), local("i32"), local("v128")]
    const body = [
      ...vectors(width).flatMap((v) =>
        v128.store(op.get(to), f32x4.mul(v128.load(op.get(at), 16 * v), op.get(scale)), 16 * v),
      ),
      ...advance(at, op.get(step)),
      ...advance(to, 4 * width),
    ]
    return [
      ...op.set(scale, f32x4.splat(op.get(factor))),
      ...times(panels, [
        ...[...op.set(at, op.get(from)), ...op.set(left, op.get(depth))],
        ...times(left, body),
        ...advance(from, 4 * width),
      ]),
    ]
  })
}

function along(width: number): WasmFunction {
  return wasmFunction(`along${width}`, parameters, ({ param, local }) => {
    const { from, to, panels, depth, step, factor } = param
    const [left, scale, target] = [local("i32"), local("v128"), local("i32")]
    const lanes = [0, 1, 2, 3].map(() => local("i32"))
    const put = (index: number, value: Code): Code =>
      v128.store(op.get(target), f32x4.mul(value, op.get(scale)), 4 * width * index)
    const move = (depths: number): Code => [
      ...lanes.flatMap((lane) => advance(lane, 4 * depths)),
      ...advance(target, 4 * width * depths),
    ]
    const four = [
      ...turned(
        { local },
        lanes.map((lane) => v128.load(op.get(lane))),
        (depths) => depths.flatMap((values, i) => put(i, values)),
      ),
      ...move(4),
    ]
    const [first, ...others] = lanes as [number, number, number, number]
    const one = [
      ...put(
        0,
        others.reduce<Code>((value, lane, i) => load32Lane(i + 1, op.get(lane), value), v128.load32Zero(op.get(first))),
      ),
      ...move(1),
    ]
    const group = (index: number): Code => [
      ...op.set(first, op.get(from)),
      ...others.flatMap((lane, i) => op.set(lane, i32.add(op.get(lanes[i] as number), op.get(step)))),
      ...op.set(target, i32.add(op.get(to), i32.const(16 * index))),
      ...[...op.set(left, i32.shrU(op.get(depth), i32.const(2))), ...times(left, four)],
      ...[...op.set(left, i32.and(op.get(depth), i32.const(3))), ...times(left, one)],
      ...advance(from, i32.shl(op.get(step), i32.const(2))),
    ]
    return [
      ...op.set(scale, f32x4.splat(op.get(factor))),
      ...times(panels, [
        ...vectors(width).flatMap(group),
        ...advance(to, i32.mul(op.get(depth), i32.const(4 * width))),
      ]),
    ]
  })
}
