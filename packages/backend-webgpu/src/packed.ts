/**
 * Products with packed matrices straight from their bytes: every variant of matmul, whose second operand makes its elements. And rows of
 * such a matrix as f32. Knows layouts, no formats.
 */
import type { FusedKernels, PackedOperand } from "@peftjs/core"
import { invariant } from "@peftjs/core"
import type { Gpu } from "./gpu.ts"
import { groupsFor, produce, threads, u32s } from "./launch.ts"
import { multiply } from "./matmul.ts"
import { denseProduct } from "./matmul-product.ts"
import { packedElements } from "./packed-elements.ts"

export function createPackedMatmul(gpu: Gpu): FusedKernels["packedMatmul"] {
  const unpack = createUnpack(gpu)
  return (x, w, { m, rows, columns, transpose }) => {
    const [n, k] = transpose ? [columns, rows] : [rows, columns]
    invariant(x.length === m * k, `backend-webgpu: packedMatmul of ${x.length} elements as [${m}, ${k}]`)
    const dims = { batch: 1, m, n, k, transA: false, transB: !transpose }
    // Before there is a result that an error would leave behind.
    for (const buffer of [x, ...buffersOf(w)]) gpu.own(buffer)
    const out = gpu.alloc("f32", m * n)
    if (gpu.features.software) {
      // A CPU that plays the GPU would unpack the same bytes for every tile, and takes seconds to compile that.
      const dense = unpack(w, { start: 0, end: rows, columns })
      multiply(gpu, denseProduct(x, dense, out, dims))
      gpu.free(dense)
      return out
    }
    const product = denseProduct(x, w.codes, out, dims)
    multiply(gpu, { ...product, b: { ...product.b, elements: packedElements(w, columns) } })
    return out
  }
}

const buffersOf = ({ codes, book, scales, minimums, nested }: PackedOperand): PackedOperand["codes"][] => [
  ...[codes, book, scales],
  ...[minimums, nested?.scales, nested?.book].filter((buffer) => buffer !== undefined),
]

export function createUnpack(gpu: Gpu): FusedKernels["unpack"] {
  return (w, { start, end, columns }) => {
    const elements = packedElements(w, columns)
    const count = (end - start) * columns
    const program = gpu.program(`unpack ${elements.key}`, () => ({
      inputs: elements.bindings,
      outputs: [{ name: "result", type: "f32" }],
      params: [...u32s("count", "first"), ...elements.params],
      workgroupSize: [threads],
      helpers: elements.helpers,
      body: `let at = index * 4u;
if (at + 4u <= p.count) {
  let v = b_4(p.first + at);
  result[at] = v.x;
  result[at + 1u] = v.y;
  result[at + 2u] = v.z;
  result[at + 3u] = v.w;
} else {
  for (var i = at; i < p.count; i++) { result[i] = b_1(p.first + i); }
}`,
    }))
    const params = [count, start * columns, ...elements.values]
    return produce(
      gpu,
      program,
      { inputs: elements.buffers, params, groups: groupsFor(Math.ceil(count / 4)) },
      "f32",
      count,
    )
  }
}
