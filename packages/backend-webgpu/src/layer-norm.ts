/** Layer normalisation of rows (Ba et al. 2016) and its gradient, a workgroup per row; the variance by a second pass over differences. */
import { type DeviceBuffer, type FusedKernels, invariant } from "@peftjs/core"
import type { Gpu, Program } from "./gpu.ts"
import { produce } from "./launch.ts"
import { type RowText, rowsProgram } from "./norm-program.ts"

export function createLayerNorm(gpu: Gpu): NonNullable<FusedKernels["layerNorm"]> {
  return (x, weight, bias, { rows, n, eps }) => {
    invariant(
      x.length === rows * n && weight.length === n && bias.length === n,
      `backend-webgpu: layerNorm of ${x.length} elements with ${weight.length} weights as [${rows}, ${n}]`,
    )
    const inputs = [x, weight, bias]
    return produce(gpu, forward(gpu, inputs, n), { inputs, params: [rows, n, eps], groups: rows }, "f32", rows * n)
  }
}

/** dx = r·(g - mean(g) - x̂·mean(g·x̂)) with g = dy·w, x̂ = (x - mean)·r and r = 1 / sqrt(variance + eps). */
export function createLayerNormBackward(gpu: Gpu): NonNullable<FusedKernels["layerNormBackward"]> {
  return (x, weight, dy, { rows, n, eps }) => {
    invariant(
      x.length === rows * n && weight.length === n && dy.length === x.length,
      `backend-webgpu: layerNormBackward of ${x.length} elements with ${weight.length} weights as [${rows}, ${n}]`,
    )
    const inputs = [x, weight, dy]
    return produce(gpu, backward(gpu, inputs, n), { inputs, params: [rows, n, eps], groups: rows }, "f32", rows * n)
  }
}

function forward(gpu: Gpu, inputs: readonly DeviceBuffer[], n: number): Program {
  return rowsProgram(gpu, "layerNorm", ["x", "weight", "bias"], inputs, n, ({ overRow, all, reducer }) => ({
    helpers: `${reducer("all_x", "sum")}\n${reducer("all_squares", "sum")}`,
    body: `${mean({ overRow, all })}
var own = 0.0;
${overRow("let d = load_x(start + i) - origin - mean; own += d * d;")}
let scale = inverseSqrt(${all("all_squares", "own")} / f32(p.n) + p.eps);
${overRow("result[start + i] = (load_x(start + i) - origin - mean) * scale * load_weight(i) + load_bias(i);")}`,
  }))
}

function backward(gpu: Gpu, inputs: readonly DeviceBuffer[], n: number): Program {
  return rowsProgram(gpu, "layerNormBackward", ["x", "weight", "dy"], inputs, n, ({ overRow, all, reducer }) => ({
    helpers: `${reducer("all_x", "sum")}\n${reducer("all_sums", "sum", "vec3f")}`,
    body: `${mean({ overRow, all })}
var own = vec3f(0.0);
${overRow("let d = load_x(start + i) - origin - mean; let g = load_dy(start + i) * load_weight(i); own += vec3f(d * d, g, g * d);")}
let means = ${all("all_sums", "own")} / f32(p.n);
let scale = inverseSqrt(means.x + p.eps);
let along = means.z * scale * scale;
${overRow(`let g = load_dy(start + i) * load_weight(i);
  result[start + i] = scale * (g - means.y - (load_x(start + i) - origin - mean) * along);`)}`,
  }))
}

/**
 * The row's mean, counted from its first element: numbers that lie close together far from 0 then lose no digits, of which the division by
 * a small deviation would make large errors.
 */
function mean({ overRow, all }: Pick<RowText, "overRow" | "all">): string {
  return `let origin = load_x(start);
var own_x = 0.0;
${overRow("own_x += load_x(start + i) - origin;")}
let mean = ${all("all_x", "own_x")} / f32(p.n);`
}
