/**
 * Copies an operand of a product into panels: `width` rows of op(A), or columns of op(B), side by side for every k.
 * The inner loop then reads both operands in order, whatever their layout, type or transposition was. Missing rows are zeros.
 */
import type { Matrix } from "./gemm.ts"
import { f16Table } from "./half.ts"

/** One panel: lane l at depth p comes from start + l·laneStep + p·depthStep and goes to `to` + p·width + l. */
interface Panel {
  readonly start: number
  readonly laneStep: number
  readonly depthStep: number
  readonly lanes: number
  readonly depth: number
  readonly width: number
  readonly to: number
}

/**
 * Packs lanes first…first+count-1 of `x`, rows of op(A) if `lanesAreRows`, else columns of op(B).
 * `width` is a multiple of 4; target is [panel][depth][width].
 */
export function packPanels(
  x: Matrix,
  lanesAreRows: boolean,
  first: number,
  count: number,
  depth: number,
  width: number,
  target: Float32Array,
): void {
  // Rows of op(A) are stored rows unless A is transposed; columns of op(B) are stored rows when B is.
  const laneStep = lanesAreRows !== x.trans ? x.ld : 1
  const depthStep = lanesAreRows !== x.trans ? 1 : x.ld
  const bits = x.dtype === "bf16" ? new Int32Array(target.buffer, target.byteOffset, target.length) : undefined
  for (let lane = 0, to = 0; lane < count; lane += width, to += width * depth) {
    const lanes = Math.min(width, count - lane)
    if (lanes < width) target.fill(0, to, to + width * depth)
    const panel = { start: x.offset + (first + lane) * laneStep, laneStep, depthStep, lanes, depth, width, to }
    if (bits !== undefined) packBf16(x.data as Uint16Array, panel, bits)
    else if (x.dtype === "f16") packF16(x.data as Uint16Array, f16Table(), panel, target)
    else packF32(x.data as Float32Array, panel, target)
  }
}

// The three loops differ in one expression; a function called per element would not be inlined where types differ.
// Four lanes at a time: four streams are read and whole groups written.

function packF32(x: Float32Array, panel: Panel, target: Float32Array): void {
  const { start, laneStep, depthStep, lanes, depth, width, to } = panel
  let l = 0
  for (; l + 4 <= lanes; l += 4) {
    const from = start + l * laneStep
    for (let p = 0, at = from, o = to + l; p < depth; p++, at += depthStep, o += width) {
      target[o] = x[at] as number
      target[o + 1] = x[at + laneStep] as number
      target[o + 2] = x[at + 2 * laneStep] as number
      target[o + 3] = x[at + 3 * laneStep] as number
    }
  }
  for (; l < lanes; l++) {
    const from = start + l * laneStep
    for (let p = 0, at = from, o = to + l; p < depth; p++, at += depthStep, o += width) target[o] = x[at] as number
  }
}

function packBf16(x: Uint16Array, panel: Panel, target: Int32Array): void {
  const { start, laneStep, depthStep, lanes, depth, width, to } = panel
  let l = 0
  for (; l + 4 <= lanes; l += 4) {
    const from = start + l * laneStep
    for (let p = 0, at = from, o = to + l; p < depth; p++, at += depthStep, o += width) {
      target[o] = (x[at] as number) << 16
      target[o + 1] = (x[at + laneStep] as number) << 16
      target[o + 2] = (x[at + 2 * laneStep] as number) << 16
      target[o + 3] = (x[at + 3 * laneStep] as number) << 16
    }
  }
  for (; l < lanes; l++) {
    const from = start + l * laneStep
    for (let p = 0, at = from, o = to + l; p < depth; p++, at += depthStep, o += width) {
      target[o] = (x[at] as number) << 16
    }
  }
}

function packF16(x: Uint16Array, table: Float32Array, panel: Panel, target: Float32Array): void {
  const { start, laneStep, depthStep, lanes, depth, width, to } = panel
  for (let l = 0; l < lanes; l++) {
    const from = start + l * laneStep
    for (let p = 0, at = from, o = to + l; p < depth; p++, at += depthStep, o += width) {
      target[o] = table[x[at] as number] as number
    }
  }
}
