/**
 * Copies that keep every bit: permute, slice and concat, whatever the type.
 * What is moved are units of 16 or 4 bytes where all runs are whole units; else elements, of which an invocation packs a word.
 */

import type { RequiredKernels } from "@peftjs/core"
import { type DeviceBuffer, type DType, invariant, permutedLoops, sizeOf } from "@peftjs/core"
import type { ElementType, Gpu, GpuBuffer, Program } from "./gpu.ts"
import { groupsFor, produce, threads, u32s } from "./launch.ts"
import { elementsPerWord } from "./words.ts"

/** What one invocation moves: `elements` of the buffer at once, or one by one, `packed` to a word. */
interface Unit {
  readonly type: ElementType
  readonly elements: number
  readonly packed: 1 | 2 | 4
}

/** The largest unit of which all those counts of elements are multiples. */
function unitOf(dtype: DType, ...counts: readonly number[]): Unit {
  const perWord = elementsPerWord(dtype)
  const whole = (elements: number): boolean => counts.every((n) => n % elements === 0)
  if (whole(perWord * 4)) return { type: "vec4<u32>", elements: perWord * 4, packed: 1 }
  if (whole(perWord)) return { type: "u32", elements: perWord, packed: 1 }
  return { type: "u32", elements: 1, packed: perWord as 2 | 4 }
}

const unitKey = (unit: Unit): string => `${unit.type}/${unit.packed}`

/** A copy in which the unit at `to` comes from the unit at `source(to)`; `count` is the number of units. */
function copyProgram(gpu: Gpu, key: string, unit: Unit, names: readonly string[], source: string): Program {
  return gpu.program(`${key} ${unitKey(unit)}`, () => ({
    inputs: [{ name: "x", type: unit.type }],
    outputs: [{ name: "result", type: unit.type }],
    params: u32s("count", ...names),
    workgroupSize: [threads],
    helpers: `fn source(to: u32) -> u32 {\n${source}\n}`,
    body:
      unit.packed === 1
        ? "if (index >= p.count) { return; }\nresult[index] = x[source(index)];"
        : `let first = index * ${unit.packed}u;
if (first >= p.count) { return; }
var word = 0u;
for (var e = 0u; e < ${unit.packed}u; e++) {
  if (first + e < p.count) {
    let at = source(first + e);
    word |= ${elementBits("x", "at", unit.packed as 2 | 4)} << (e * ${32 / unit.packed}u);
  }
}
result[index] = word;`,
  }))
}

/** The element's bits, in the low end of a word. */
function elementBits(name: string, at: string, packed: 2 | 4): string {
  const bits = 32 / packed
  return `extractBits(${name}[${at} / ${packed}u], (${at} % ${packed}u) * ${bits}u, ${bits}u)`
}

function copy(
  gpu: Gpu,
  program: Program,
  x: DeviceBuffer,
  length: number,
  unit: Unit,
  params: readonly number[],
): GpuBuffer {
  const count = length / unit.elements
  const groups = groupsFor(Math.ceil(count / unit.packed))
  return produce(gpu, program, { inputs: [x], params: [count, ...params], groups }, x.dtype, length)
}

export function createPermute(gpu: Gpu): RequiredKernels["permute"] {
  return (x, shape, axes) => {
    invariant(x.length === sizeOf(shape), `backend-webgpu: permute of ${x.length} elements as [${shape}]`)
    const { sizes, strides } = permutedLoops(shape, axes)
    const last = sizes.length - 1
    const unit = unitOf(x.dtype, strides[last] === 1 ? (sizes[last] as number) : 1)
    const [units, steps] = [
      sizes.map((size, i) => (i === last ? size / unit.elements : size)),
      strides.map((stride, i) => (i === last ? stride : stride / unit.elements)),
    ]
    const names = sizes.flatMap((_, i) => [`size${i}`, `stride${i}`])
    const source = sizes.map((_, i) => `at += rest % p.size${i} * p.stride${i}; rest = rest / p.size${i};`).reverse()
    const text = `var rest = to;\nvar at = 0u;\n${source.join("\n")}\nreturn at;`
    const program = copyProgram(gpu, `permute ${sizes.length}`, unit, names, text)
    return copy(
      gpu,
      program,
      x,
      x.length,
      unit,
      units.flatMap((size, i) => [size, steps[i] as number]),
    )
  }
}

export function createSlice(gpu: Gpu): RequiredKernels["slice"] {
  return (x, { outer, n, inner, start, length }) => {
    invariant(
      x.length === outer * n * inner && start >= 0 && start + length <= n,
      `backend-webgpu: slice ${start} + ${length} of ${x.length} elements as [${outer}, ${n}, ${inner}]`,
    )
    const runs = [length * inner, n * inner, start * inner] as const
    const unit = unitOf(x.dtype, ...runs)
    const source = "return to / p.run * p.stride + p.start + to % p.run;"
    const program = copyProgram(gpu, "slice", unit, ["run", "stride", "start"], source)
    return copy(
      gpu,
      program,
      x,
      outer * length * inner,
      unit,
      runs.map((run) => run / unit.elements),
    )
  }
}

/** One operand after the other is written to its place, whatever their number. */
export function createConcat(gpu: Gpu): RequiredKernels["concat"] {
  return (xs, { outer, ns, inner }) => {
    const runs = ns.map((n) => n * inner)
    const total = runs.reduce((a, b) => a + b, 0)
    const { dtype } = xs[0] as DeviceBuffer
    xs.forEach((x, i) => {
      gpu.own(x)
      const fits = x.dtype === dtype && x.length === outer * (runs[i] as number)
      invariant(fits, `backend-webgpu: concat's operand ${i} has ${x.length} elements of ${x.dtype}`)
    })
    const out = gpu.alloc(dtype, outer * total)
    const unit = unitOf(dtype, ...runs)
    const program = concatProgram(gpu, unit)
    let start = 0
    xs.forEach((x, i) => {
      const run = runs[i] as number
      const items = unit.packed === 1 ? x.length / unit.elements : Math.ceil(out.length / unit.packed)
      const params = [outer * total, run, total, start].map((n) => n / unit.elements)
      if (x.length > 0) gpu.update(program, { inputs: [x], targets: [out], params, groups: groupsFor(items) })
      start += run
    })
    return out
  }
}

/** Unit by unit of the operand; or, where a word may hold elements of two operands, word by word of the result. */
function concatProgram(gpu: Gpu, unit: Unit): Program {
  const bits = 32 / unit.packed
  return gpu.program(`concat ${unitKey(unit)}`, () => ({
    inputs: [{ name: "x", type: unit.type }],
    outputs: [{ name: "result", type: unit.type }],
    params: u32s("count", "run", "stride", "start"),
    workgroupSize: [threads],
    body:
      unit.packed === 1
        ? `let to = index / p.run * p.stride + p.start + index % p.run;
if (to >= p.count) { return; }
result[to] = x[index];`
        : `let first = index * ${unit.packed}u;
if (first >= p.count) { return; }
var word = result[index];
for (var e = 0u; e < ${unit.packed}u; e++) {
  let place = (first + e) % p.stride - p.start;
  if (first + e < p.count && place < p.run) {
    let at = (first + e) / p.stride * p.run + place;
    word = insertBits(word, ${elementBits("x", "at", unit.packed as 2 | 4)}, e * ${bits}u, ${bits}u);
  }
}
result[index] = word;`,
  }))
}
