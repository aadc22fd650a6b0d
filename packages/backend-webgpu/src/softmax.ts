/** Softmax and log-sum-exp of rows, a workgroup per row: the largest element is taken off first, so that no exponential overflows. */
import { type DType, type FusedKernels, invariant } from "@peftjs/core"
import type { Gpu, Program } from "./gpu.ts"
import { produce, u32s } from "./launch.ts"
import { rowGroup } from "./row-group.ts"
import { loaders, storageOf } from "./words.ts"

export function createSoftmax(gpu: Gpu): NonNullable<FusedKernels["softmax"]> {
  return (x, rows, n) => {
    invariant(x.length === rows * n, `backend-webgpu: softmax of ${x.length} elements as [${rows}, ${n}]`)
    const program = rowProgram(gpu, "softmax", x.dtype, n)
    return produce(gpu, program, { inputs: [x], params: [rows, n], groups: rows }, "f32", rows * n)
  }
}

export function createLogSumExp(gpu: Gpu): NonNullable<FusedKernels["logSumExp"]> {
  return (x, rows, n) => {
    invariant(x.length === rows * n, `backend-webgpu: logSumExp of ${x.length} elements as [${rows}, ${n}]`)
    const program = rowProgram(gpu, "logSumExp", x.dtype, n)
    return produce(gpu, program, { inputs: [x], params: [rows, n, 0xff800000], groups: rows }, "f32", rows)
  }
}

function rowProgram(gpu: Gpu, kernel: "softmax" | "logSumExp", dtype: DType, n: number): Program {
  const { lanes, needs, reducer, all } = rowGroup(gpu, n)
  const overRow = (statement: string): string =>
    `for (var i = start + lane; i < start + p.n; i += ${lanes}u) { ${statement} }`
  const ends = {
    softmax: overRow("result[i] = exp(load_x(i) - top) / sum;"),
    // A sum of 0 is a row that is empty or holds nothing but -∞, which is a parameter: WGSL has no literal for it.
    logSumExp: "if (lane == 0u) { result[group_index] = select(top + log(sum), bitcast<f32>(p.nothing), sum == 0.0); }",
  }
  return gpu.program(`${kernel} ${dtype} ${lanes}`, () => ({
    inputs: [{ name: "x", type: storageOf(dtype) }],
    outputs: [{ name: "result", type: "f32" }],
    params: u32s("rows", "n", ...(kernel === "logSumExp" ? ["nothing"] : [])),
    workgroupSize: [lanes],
    needs,
    helpers: [loaders([{ name: "x", dtype }]), reducer("all_max", "max"), reducer("all_sum", "sum")].join("\n"),
    // The lowest finite number instead of -∞: differences stay numbers.
    body: `if (group_index >= p.rows) { return; }
let start = group_index * p.n;
var own_top = -3.4028234663852886e38;
${overRow("own_top = max(own_top, load_x(i));")}
let top = ${all("all_max", "own_top")};
var own_sum = 0.0;
${overRow("own_sum += exp(load_x(i) - top);")}
let sum = ${all("all_sum", "own_sum")};
${ends[kernel]}`,
  }))
}
