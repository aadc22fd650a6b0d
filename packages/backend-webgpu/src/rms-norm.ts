/** Root-mean-square normalisation of rows (Zhang & Sennrich 2019) and its gradient, a workgroup per row. */
import { type DeviceBuffer, type FusedKernels, invariant } from "@peftjs/core"
import type { Gpu, Program } from "./gpu.ts"
import { produce } from "./launch.ts"
import { rowsProgram } from "./norm-program.ts"

interface Dims {
  readonly rows: number
  readonly n: number
  readonly eps: number
}

export function createRmsNorm(gpu: Gpu): NonNullable<FusedKernels["rmsNorm"]> {
  return (x, weight, dims) => run(gpu, forward(gpu, [x, weight], dims.n), [x, weight], dims)
}

/** dx = s·w·dy - x · s³/n · Σ x·w·dy with s = 1 / sqrt(mean(x²) + eps). */
export function createRmsNormBackward(gpu: Gpu): NonNullable<FusedKernels["rmsNormBackward"]> {
  return (x, weight, dy, dims) => run(gpu, backward(gpu, [x, weight, dy], dims.n), [x, weight, dy], dims)
}

function run(gpu: Gpu, program: Program, inputs: readonly DeviceBuffer[], { rows, n, eps }: Dims): DeviceBuffer {
  const [x, weight, dy = x] = inputs as [DeviceBuffer, DeviceBuffer, DeviceBuffer?]
  invariant(
    x.length === rows * n && weight.length === n && dy.length === x.length,
    `backend-webgpu: rmsNorm of ${x.length} elements with ${weight.length} weights as [${rows}, ${n}]`,
  )
  return produce(gpu, program, { inputs, params: [rows, n, eps], groups: rows }, "f32", rows * n)
}

function forward(gpu: Gpu, inputs: readonly DeviceBuffer[], n: number): Program {
  return rowsProgram(gpu, "rmsNorm", ["x", "weight"], inputs, n, ({ overRow, all, reducer }) => ({
    helpers: reducer("all_squares", "sum"),
    body: `var own = 0.0;
${overRow("let value = load_x(start + i); own += value * value;")}
let scale = inverseSqrt(${all("all_squares", "own")} / f32(p.n) + p.eps);
${overRow("result[start + i] = load_x(start + i) * scale * load_weight(i);")}`,
  }))
}

function backward(gpu: Gpu, inputs: readonly DeviceBuffer[], n: number): Program {
  return rowsProgram(gpu, "rmsNormBackward", ["x", "weight", "dy"], inputs, n, ({ overRow, all, reducer }) => ({
    helpers: reducer("all_sums", "sum", "vec2f"),
    body: `var own = vec2f(0.0);
${overRow("let value = load_x(start + i); own += value * vec2f(value, load_weight(i) * load_dy(start + i));")}
let sums = ${all("all_sums", "own")} / f32(p.n);
let scale = inverseSqrt(sums.x + p.eps);
let along = sums.y * scale * scale * scale;
${overRow("result[start + i] = load_dy(start + i) * load_weight(i) * scale - load_x(start + i) * along;")}`,
  }))
}
