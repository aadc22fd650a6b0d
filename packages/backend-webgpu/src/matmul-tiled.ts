/**
 * Matmul through workgroup memory: 8 × 8 invocations share tiles of 32 × 8 and 8 × 32 and compute 4 × 4 outputs each. These constants came
 * out best on average in llama.cpp's sweep over GPUs of four vendors (pull request 22241). Best for large products on real GPUs; barriers
 * make it slow where a CPU plays the GPU.
 */
import type { Gpu } from "./gpu.ts"
import { operandCode, operandHelpers } from "./matmul-operand.ts"
import { findMatrices, type Product, productParams, productValues } from "./matmul-product.ts"
import { store } from "./matmul-register.ts"

/** Rows and columns of the outputs of a workgroup. */
export const tiledSide = 32

export function tiledMatmul(gpu: Gpu, product: Product): void {
  const { outer, inner, m, n, k, accumulate } = product
  const [transA, transB] = [product.a.transposed, product.b.transposed]
  const [a, b] = [operandCode("a", product.a), operandCode("b", product.b)]
  const tail = k % 8 !== 0
  const key = `matmul tiled ${a.key} ${b.key}${tail ? " tail" : ""}${accumulate ? " add" : ""}`
  const program = gpu.program(key, () => ({
    inputs: [...a.bindings, ...b.bindings],
    outputs: [{ name: "c", type: "f32" }],
    params: [
      ...productParams,
      { name: "tiles_m", type: "u32" },
      { name: "tiles_n", type: "u32" },
      ...a.params,
      ...b.params,
    ],
    workgroupSize: [8, 8],
    helpers: `${operandHelpers([a, b])}\n${store(accumulate)}\n${fetch("a", transA, tail)}\n${fetch("b", !transB, tail)}
var<workgroup> a_tile: array<vec4f, 64>;
var<workgroup> b_tile: array<vec4f, 64>;`,
    body: body(transA, transB),
  }))
  const [tilesM, tilesN] = [Math.ceil(m / tiledSide), Math.ceil(n / tiledSide)]
  const options = {
    inputs: [...a.buffers, ...b.buffers],
    params: [...productValues(product), tilesM, tilesN, ...a.values, ...b.values],
    groups: tilesM * tilesN * outer * inner,
  }
  if (accumulate) gpu.update(program, { ...options, targets: [product.c.buffer] })
  else gpu.run(program, { ...options, outputs: [product.c.buffer] })
}

/**
 * What an invocation puts into its operand's tile: four neighbours along k, of row lane / 2 (tile [32, 8]), or where `turned` across k, of
 * step lane / 8 (tile [8, 32]). Zeros beyond k; rows beyond the matrix repeat its last or read a neighbour, and are not stored.
 */
function fetch(name: "a" | "b", turned: boolean, tail: boolean): string {
  const load = turned
    ? `let step = q + lane / 8u;
  ${tail ? "if (step >= p.k) { return vec4f(); }" : ""}
  return ${name}_4(base + step * p.${name}_stride + start + lane % 8u * 4u);`
    : `let step = q + lane % 2u * 4u;
  let at = base + min(start + lane / 2u, size - 1u) * p.${name}_stride + step;
  ${
    tail
      ? `if (step + 4u > p.k) {
    var v = vec4f();
    if (step < p.k) { v.x = ${name}_1(at); }
    if (step + 1u < p.k) { v.y = ${name}_1(at + 1u); }
    if (step + 2u < p.k) { v.z = ${name}_1(at + 2u); }
    return v;
  }`
      : ""
  }
  return ${name}_4(at);`
  return `fn fetch_${name}(base: u32, start: u32, size: u32, q: u32, lane: u32) -> vec4f {\n  ${load}\n}`
}

const four = [0, 1, 2, 3]
const part = ["x", "y", "z", "w"] as const

function body(transA: boolean, transB: boolean): string {
  // An invocation's rows and columns are four neighbours where loads run across k, else eight apart: then neighbours read other banks.
  const row = (i: number): string => (transA ? `i0 + local.y * 4u + ${i}u` : `i0 + local.y + ${8 * i}u`)
  const column = (j: number): string => `j0 + local.x + ${8 * j}u`
  const block = (h: number): string[] => [
    ...four.map((q) =>
      transA
        ? `let a${h}${q} = a_tile[${8 * (4 * h + q)}u + local.y];`
        : `let a${h}${q} = a_tile[(local.y + ${8 * q}u) * 2u + ${h}u];`,
    ),
    ...four.map((q) =>
      transB
        ? `let b${h}${q} = b_tile[(local.x + ${8 * q}u) * 2u + ${h}u];`
        : `let b${h}${q} = b_tile[${8 * (4 * h + q)}u + local.x];`,
    ),
    ...four.flatMap((q) => {
      const b = transB ? `vec4f(${four.map((j) => `b${h}${j}.${part[q]}`)})` : `b${h}${q}`
      return [
        `let s${h}${q} = ${b};`,
        ...four.map((i) => `c${i} += ${transA ? `a${h}${q}.${part[i]}` : `a${h}${i}.${part[q]}`} * s${h}${q};`),
      ]
    }),
  ]
  const put = (i: number): string =>
    transB
      ? four
          .map((j) => `put(at + ${column(j)}, select(0u, 1u, ${column(j)} < p.n), vec4f(c${i}.${part[j]}));`)
          .join(" ")
      : `let j = j0 + local.x * 4u; put(at + j, select(0u, p.n - j, j < p.n), c${i});`
  return `
let tile_x = group_index % p.tiles_n;
let tile_y = group_index / p.tiles_n % p.tiles_m;
let z = group_index / p.tiles_n / p.tiles_m;
if (z >= p.matrices) { return; }
${findMatrices}
let i0 = tile_y * ${tiledSide}u;
let j0 = tile_x * ${tiledSide}u;
${four.map((i) => `var c${i} = vec4f();`).join(" ")}
for (var r = 0u; r < p.repeat; r++) {
  for (var q = 0u; q < p.k; q += 8u) {
    a_tile[lane] = fetch_a(a_base + r * p.a_again, i0, p.m, q, lane);
    b_tile[lane] = fetch_b(b_base + r * p.b_again, j0, p.n, q, lane);
    workgroupBarrier();
    ${[...block(0), ...block(1)].join("\n    ")}
    workgroupBarrier();
  }
}
${four.map((i) => `if (${row(i)} < p.m) { let at = c_base + (${row(i)}) * p.c_stride; ${put(i)} }`).join("\n")}`
}
