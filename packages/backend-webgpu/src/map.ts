/**
 * The elementwise kernel, one pass whatever the expression. An invocation makes one element, or four where the innermost loop allows it.
 * An operand moves with the output, stands still, or is found by the coordinates of the loops; which, is part of a program's key.
 */

import type { RequiredKernels } from "@peftjs/core"
import {
  type DType,
  type Expr,
  exprKey,
  inputsOf,
  invariant,
  type Layout,
  layoutOf,
  type MapInput,
  PeftError,
  sizeOf,
} from "@peftjs/core"
import type { Gpu, Program } from "./gpu.ts"
import { groupsFor, produce, threads, u32s } from "./launch.ts"
import { codeOf, useOf } from "./map-code.ts"
import { encoder, loaders, storageOf, typesOf, type Width } from "./words.ts"

export function createMap(gpu: Gpu): RequiredKernels["map"] {
  return (expr, inputs, scalars, shape, dtype) => {
    if (dtype === "u8" || dtype === "u32")
      throw new PeftError("E_UNSUPPORTED", `[backend-webgpu] map writes f32, i32, f16 or bf16, not ${dtype}`)
    const length = sizeOf(shape)
    if (length === 0) return gpu.alloc(dtype, 0)
    const used = inputsOf(expr)
    const operands = used.map((index) => operandAt(inputs, index))
    if (used.length >= gpu.maxBindings)
      throw new PeftError(
        "E_UNSUPPORTED",
        `[backend-webgpu] a map of ${used.length} operands; this device takes ${gpu.maxBindings - 1}; compute it in two maps`,
      )
    const use = useOf(expr)
    const layout = layoutOf(
      expr,
      operands.map((x) => x.shape),
      shape,
    )
    // Buffers are padded to 16 bytes: where nothing broadcasts, any length will do.
    const width: Width = layout.sizes.length === 1 || (layout.sizes.at(-1) as number) % 4 === 0 ? 4 : 1
    const dtypes = operands.map((x) => x.buffer.dtype)
    const plan = planOf(expr, used, dtypes, dtype, layout, width)
    const program = gpu.program(keyOf(expr, dtypes, dtype, layout, width), () => build(plan))
    const params = [
      Math.ceil(length / (width * plan.perThread)),
      length,
      ...layout.sizes.map((size, loop) => (loop === layout.sizes.length - 1 ? Math.ceil(size / width) : size)),
      ...plan.steps.flatMap(({ vector, strides }) =>
        strides.map(([, stride]) => (vector ? Math.ceil(stride / width) : stride)),
      ),
      ...use.scalars.map((index) => scalars[index] as number),
      ...(use.needsInfinity ? [0x7f800000] : []),
    ]
    const options = { inputs: operands.map((x) => x.buffer), params, groups: groupsFor(params[0] as number) }
    return produce(gpu, program, options, dtype, length)
  }
}

function operandAt(inputs: readonly MapInput[], index: number): MapInput {
  const x = inputs[index]
  invariant(x?.buffer.length === sizeOf(x?.shape ?? []), `backend-webgpu: map operand ${index} does not fit its shape`)
  return x as MapInput
}

function keyOf(expr: Expr, dtypes: readonly DType[], dtype: DType, layout: Layout, width: Width): string {
  const pattern = layout.strides.map((strides) => strides.map((s) => (s === 0 ? 0 : 1)).join(""))
  return `map ${exprKey(expr)} ${dtypes} ${dtype} ${pattern} ${layout.sizes.length} ${[...layout.loopOfAxis].join(";")} x${width}`
}

/** How an operand is found: by the number of the invocation, or by the loops along which it moves (with their strides). */
interface Step {
  readonly index: number
  readonly name: string
  readonly dtype: DType
  readonly whole: boolean
  /** Moves along the innermost loop; otherwise one element serves a whole vector. */
  readonly vector: boolean
  readonly strides: readonly (readonly [loop: number, stride: number])[]
}

interface Plan {
  readonly expr: Expr
  readonly dtype: DType
  readonly width: Width
  readonly layout: Layout
  readonly steps: readonly Step[]
  /** Values an invocation makes: two where each is half a word. */
  readonly perThread: 1 | 2
}

function planOf(
  expr: Expr,
  used: readonly number[],
  dtypes: readonly DType[],
  dtype: DType,
  layout: Layout,
  width: Width,
): Plan {
  const steps = used.map((index, k): Step => {
    const strides = layout.strides[k] as readonly number[]
    const whole = strides.every((s) => s !== 0)
    const moving = strides.flatMap((s, loop) => (s === 0 ? [] : [[loop, s] as const]))
    const vector = strides.at(-1) !== 0
    return { index, name: `x${index}`, dtype: dtypes[k] as DType, whole, vector, strides: whole ? [] : moving }
  })
  const half = dtype === "f16" || dtype === "bf16"
  return { expr, dtype, width, layout, steps, perThread: half && width === 1 ? 2 : 1 }
}

function build(plan: Plan): Omit<Program, "key"> {
  const { expr, dtype, width, layout, steps } = plan
  const { F, U } = typesOf(width)
  const use = useOf(expr)
  const half = dtype === "f16" || dtype === "bf16" ? dtype : undefined
  const step = (index: number): Step => steps.find((s) => s.index === index) as Step
  const offset = ({ index, whole, strides }: Step): string =>
    whole ? "i" : strides.map(([loop]) => `c${loop} * p.x${index}_${loop}`).join(" + ") || "0u"
  const code = codeOf(expr, width, {
    input: (index) => `${F}(load_${step(index).name}(${offset(step(index))}))`,
    words: (index) => `${U}(${step(index).name}[${offset(step(index))}])`,
    scalar: (index) => `p.s${index}`,
    coordinate: (axis) => coordinate(layout, axis, width),
  })
  const widthOf = (s: Step): Width => (s.vector ? width : 1)
  return {
    inputs: steps.map((s) => ({ name: s.name, type: storageOf(s.dtype, widthOf(s)) })),
    outputs: [{ name: "result", type: storageOf(dtype, width) }],
    params: [
      ...u32s("count", "length"),
      ...u32s(...layout.sizes.map((_, loop) => `size${loop}`)),
      ...u32s(...steps.flatMap((s) => s.strides.map(([loop]) => `x${s.index}_${loop}`))),
      ...use.scalars.map((index) => ({ name: `s${index}`, type: "f32" }) as const),
      ...(use.needsInfinity ? u32s("infinity") : []),
    ],
    workgroupSize: [threads],
    helpers: [
      loaders(steps.map((s) => ({ name: s.name, dtype: s.dtype, width: widthOf(s) }))),
      half ? encoder(half, width) : "",
      code.functions,
      `fn value(i: u32) -> ${F} {`,
      loopsAreRead(plan) ? decode(layout.sizes.length) : "",
      code.statements,
      `return ${code.result};\n}`,
    ].join("\n"),
    body: `if (index >= p.count) { return; }\n${store(dtype, width)}`,
  }
}

const loopsAreRead = ({ layout, steps }: Plan): boolean =>
  layout.loopOfAxis.size > 0 || steps.some((s) => s.strides.length > 0)

/** The coordinates c0, c1, … of invocation i. */
function decode(loops: number): string {
  const inner = Array.from({ length: loops - 1 }, (_, k) => loops - 1 - k)
  return [
    "var rest = i;",
    ...inner.map((loop) => `let c${loop} = rest % p.size${loop}; rest = rest / p.size${loop};`),
    "let c0 = rest;",
  ].join("\n")
}

function coordinate(layout: Layout, axis: number, width: Width): string {
  const { F } = typesOf(width)
  const loop = layout.loopOfAxis.get(axis)
  if (loop === undefined) return `${F}(0.0)`
  if (width === 1 || loop < layout.sizes.length - 1) return `${F}(f32(c${loop}))`
  return `vec4f(c${loop} * 4u + vec4u(0u, 1u, 2u, 3u))`
}

function store(dtype: DType, width: Width): string {
  if (dtype === "f32") return "result[index] = value(index);"
  if (dtype === "i32")
    return width === 1 ? "result[index] = i32(value(index));" : "result[index] = bitcast<vec4u>(vec4i(value(index)));"
  if (width === 4) return "let h = half_bits(value(index));\nresult[index] = h.xz | (h.yw << vec2u(16u));"
  return `var word = half_bits(value(index * 2u));
if (index * 2u + 1u < p.length) { word |= half_bits(value(index * 2u + 1u)) << 16u; }
result[index] = word;`
}
