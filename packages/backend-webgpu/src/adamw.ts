/** One AdamW step in place (Loshchilov & Hutter 2019), in the order of operations of PyTorch's AdamW. */
import { type InPlaceKernels, invariant } from "@peftjs/core"
import type { Gpu } from "./gpu.ts"
import { groupsFor, threads, u32s } from "./launch.ts"

const factors = ["gradScale", "beta1", "rest1", "beta2", "rest2", "keep", "step", "root", "epsilon"] as const

export function createAdamW(gpu: Gpu): NonNullable<InPlaceKernels["adamw"]> {
  return (p, g, m, v, { learningRate, beta1, beta2, epsilon, weightDecay, correction1, correction2, gradScale }) => {
    const n = p.length
    const fits = [g, m, v].every((x) => x.length === n) && [p, g, m, v].every((x) => x.dtype === "f32")
    invariant(fits, "backend-webgpu: adamw's operands differ in length, or are not f32")
    if (n === 0) return
    const program = gpu.program("adamw", () => ({
      inputs: [{ name: "gradients", type: "f32" }],
      outputs: [
        { name: "values", type: "f32" },
        { name: "means", type: "f32" },
        { name: "squares", type: "f32" },
      ],
      params: [...u32s("n"), ...factors.map((name) => ({ name, type: "f32" }) as const)],
      workgroupSize: [threads],
      body: `if (index >= p.n) { return; }
let gradient = gradients[index] * p.gradScale;
let mean = p.beta1 * means[index] + p.rest1 * gradient;
let square = p.beta2 * squares[index] + p.rest2 * gradient * gradient;
means[index] = mean;
squares[index] = square;
values[index] = values[index] * p.keep - p.step * mean / (sqrt(square) / p.root + p.epsilon);`,
    }))
    // In f64 here: 1 - beta2 keeps its digits.
    const [keep, step, root] = [1 - learningRate * weightDecay, learningRate / correction1, Math.sqrt(correction2)]
    const params = [n, gradScale, beta1, 1 - beta1, beta2, 1 - beta2, keep, step, root, epsilon]
    gpu.update(program, { inputs: [g], targets: [p, m, v], params, groups: groupsFor(n) })
  }
}
