/** The batched product of the contract over one of the three Gemms. */
import { type DeviceBuffer, invariant, type MatmulDims, PeftError } from "@peftjs/core"
import { dataOf, type Memory } from "./buffers.ts"
import type { Gemm, Matrix } from "./gemm.ts"
import type { FloatType } from "./half.ts"

export function createMatmul(
  memory: Memory,
  gemm: Gemm,
): (a: DeviceBuffer, b: DeviceBuffer, dims: MatmulDims) => DeviceBuffer {
  return (a, b, { batch, m, n, k, transA, transB }) => {
    invariant(
      a.length === batch * m * k && b.length === batch * k * n,
      `backend-cpu: matmul of ${a.length} and ${b.length} elements as ${batch} x ([${m}, ${k}] · [${k}, ${n}])`,
    )
    const left = operand(a, transA ? m : k, transA)
    const right = operand(b, transB ? k : n, transB)
    const out = memory.alloc("f32", batch * m * n)
    for (let i = 0; i < batch; i++) {
      const x = i === 0 ? left : { ...left, offset: i * m * k }
      const y = i === 0 ? right : { ...right, offset: i * k * n }
      gemm.run(m, n, k, 1, x, y, 0, out.data, i * m * n, n)
    }
    return out
  }
}

function operand(buffer: DeviceBuffer, ld: number, trans: boolean): Matrix {
  const { dtype } = buffer
  if (dtype !== "f32" && dtype !== "f16" && dtype !== "bf16") {
    throw new PeftError("E_UNSUPPORTED", `[backend-cpu] matmul takes f32, f16 and bf16 operands, not ${dtype}`)
  }
  return { data: dataOf(buffer) as Matrix["data"], dtype: dtype as FloatType, offset: 0, ld, trans }
}
