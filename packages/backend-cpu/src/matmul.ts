/** The batched product and the sum of products of the contract over one of the three Gemms. */
import { type DeviceBuffer, type FusedKernels, invariant, type MatmulDims, PeftError } from "@peftjs/core"
import { addressOf, dataOf, f32Of, type Memory } from "./buffers.ts"
import type { Gemm, Matrix } from "./gemm.ts"
import type { FloatType } from "./half.ts"
import type { Heap } from "./heap.ts"
import { heapCopies } from "./heap-copy.ts"
import { packedProduct } from "./packed.ts"

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

export function createSumOfProducts(memory: Memory, heap: Heap, gemm: Gemm): FusedKernels["sumOfProducts"] {
  return (products, addend, { m, n }) => {
    const out = memory.alloc("f32", m * n)
    if (addend) copyInto(heap, out, addend)
    products.forEach(({ alpha, a, b, k, transA, transB }, i) => {
      const beta = i > 0 || addend ? 1 : 0
      if ("codes" in b) {
        const dims = { m, rows: transB ? n : k, columns: transB ? k : n, transpose: !transB }
        packedProduct(memory, gemm, a, b, dims, alpha, beta, out.data)
        return
      }
      invariant(
        a.length === m * k && b.length === k * n,
        `backend-cpu: a product of ${a.length} and ${b.length} elements as [${m}, ${k}] · [${k}, ${n}]`,
      )
      const [left, right] = [operand(a, transA ? m : k, transA), operand(b, transB ? k : n, transB)]
      gemm.run(m, n, k, alpha, left, right, beta, out.data, 0, n)
    })
    return out
  }
}

function copyInto(heap: Heap, out: DeviceBuffer, from: DeviceBuffer): void {
  const data = f32Of(from)
  invariant(from.length === out.length, `backend-cpu: ${from.length} elements cannot be added to ${out.length}`)
  const [to, at] = [addressOf(out), addressOf(from)]
  if (to === undefined || at === undefined) f32Of(out).set(data)
  else heapCopies(heap).copyRows(to, at, 4 * from.length, 1, 0, 0)
}

function operand(buffer: DeviceBuffer, ld: number, trans: boolean): Matrix {
  const { dtype } = buffer
  if (dtype !== "f32" && dtype !== "f16" && dtype !== "bf16") {
    throw new PeftError("E_UNSUPPORTED", `[backend-cpu] matmul takes f32, f16 and bf16 operands, not ${dtype}`)
  }
  return { data: dataOf(buffer) as Matrix["data"], dtype: dtype as FloatType, offset: 0, ld, trans }
}
