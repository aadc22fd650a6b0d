/**
 * A row times a stored matrix [n, k], as generation does for every token: a workgroup computes four outputs, its lanes read along k and
 * add up through workgroup memory. Where k does not run through neighbours, or a CPU plays the GPU, matmul-register.ts with one row is used.
 */
import type { Gpu } from "./gpu.ts"
import { operandCode, operandHelpers } from "./matmul-operand.ts"
import { findMatrices, type Product, productParams, productValues } from "./matmul-product.ts"
import { store } from "./matmul-register.ts"

const four = [0, 1, 2, 3]

/** For m = 1, with A not and B stored transposed. */
export function vectorMatmul(gpu: Gpu, product: Product): void {
  const { outer, inner, n, k, accumulate } = product
  const [a, b] = [operandCode("a", product.a), operandCode("b", product.b)]
  const tail = k % 4 !== 0
  const key = `matmul vector ${a.key} ${b.key}${tail ? " tail" : ""}${accumulate ? " add" : ""}`
  const program = gpu.program(key, () => ({
    inputs: [...a.bindings, ...b.bindings],
    outputs: [{ name: "c", type: "f32" }],
    params: [...productParams, { name: "tiles_n", type: "u32" }, ...a.params, ...b.params],
    workgroupSize: [64],
    helpers: `${operandHelpers([a, b])}\n${store(accumulate)}\nvar<workgroup> sums: array<vec4f, 64>;`,
    body: `
let j0 = group_index % p.tiles_n * 4u;
let z = group_index / p.tiles_n;
if (z >= p.matrices) { return; }
${findMatrices}
${four.map((j) => `var b_at${j} = b_base + min(j0 + ${j}u, p.n - 1u) * p.b_stride;`).join("\n")}
var sum = vec4f();
for (var r = 0u; r < p.repeat; r++) {
  let a_at = a_base + r * p.a_again;
  for (var q = lane * 4u; q + 4u <= p.k; q += 256u) {
    let x = a_4(a_at + q);
    sum += vec4f(${four.map((j) => `dot(x, b_4(b_at${j} + q))`)});
  }
  ${
    tail
      ? `let q = p.k - p.k % 4u + lane;
  if (q < p.k) { sum += a_1(a_at + q) * vec4f(${four.map((j) => `b_1(b_at${j} + q)`)}); }`
      : ""
  }
  ${four.map((j) => `b_at${j} += p.b_again;`).join(" ")}
}
sums[lane] = sum;
for (var half = 32u; half > 0u; half /= 2u) {
  workgroupBarrier();
  if (lane < half) { sums[lane] += sums[lane + half]; }
}
if (lane == 0u) { put(c_base + j0, p.n - j0, sums[0]); }`,
  }))
  const tilesN = Math.ceil(n / 4)
  const options = {
    inputs: [...a.buffers, ...b.buffers],
    params: [...productValues(product), tilesN, ...a.values, ...b.values],
    groups: tilesN * outer * inner,
  }
  if (accumulate) gpu.update(program, { ...options, targets: [product.c.buffer] })
  else gpu.run(program, { ...options, outputs: [product.c.buffer] })
}
