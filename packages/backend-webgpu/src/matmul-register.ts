/**
 * Matmul where every invocation computes a few rows of four outputs in registers, straight from global memory. No workgroup memory, no
 * barriers: best where a CPU plays the GPU and where the output is small. The sum over k can be cut into parts, see matmul-split.ts.
 */
import type { Gpu, GpuBuffer, ProgramParam } from "./gpu.ts"
import { operandCode, operandHelpers } from "./matmul-operand.ts"
import { findMatrices, type Product, productParams, productValues } from "./matmul-product.ts"

export interface RegisterTile {
  /** Rows of an invocation's tile: 1 or a multiple of 4. */
  readonly rows: number
  /** Columns: a multiple of 4. */
  readonly columns: number
  /** Parts of k; part s writes at `s · partStride` of C. */
  readonly parts: number
  readonly partStride: number
}

const tileParams: readonly ProgramParam[] = ["tiles_m", "tiles_n", "parts", "part_k", "part_stride"].map((name) => ({
  name,
  type: "u32",
}))

const lanes = 64

export function registerMatmul(gpu: Gpu, product: Product, tile: RegisterTile): void {
  const { outer, inner, m, n, k, accumulate } = product
  const [a, b] = [operandCode("a", product.a), operandCode("b", product.b)]
  const tail = k % 4 !== 0
  const { rows, columns, parts } = tile
  const key = `matmul register ${rows}x${columns} ${a.key} ${b.key}${tail ? " tail" : ""}${accumulate ? " add" : ""}`
  const program = gpu.program(key, () => ({
    inputs: [...a.bindings, ...b.bindings],
    outputs: [{ name: "c", type: "f32" }],
    params: [...productParams, ...tileParams, ...a.params, ...b.params],
    workgroupSize: [lanes],
    helpers: `${operandHelpers([a, b])}\n${store(accumulate)}`,
    body: body(tile, { transA: product.a.transposed, transB: product.b.transposed, tail }),
  }))
  const [tilesM, tilesN] = [Math.ceil(m / rows), Math.ceil(n / columns)]
  const partK = Math.ceil(k / parts / 4) * 4
  const options = {
    inputs: [...a.buffers, ...b.buffers],
    params: [...productValues(product), tilesM, tilesN, parts, partK, tile.partStride, ...a.values, ...b.values],
    groups: Math.ceil((tilesM * tilesN * outer * inner * parts) / lanes),
  }
  const target: GpuBuffer = product.c.buffer
  if (accumulate) gpu.update(program, { ...options, targets: [target] })
  else gpu.run(program, { ...options, outputs: [target] })
}

/** `put` writes the first `count` of four neighbours. */
export function store(accumulate: boolean): string {
  const line = (q: number): string => `if (count > ${q}u) { c[at + ${q}u] ${accumulate ? "+=" : "="} v[${q}]; }`
  return `fn put(at: u32, count: u32, v: vec4f) { ${[0, 1, 2, 3].map(line).join(" ")} }`
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i)
const part = ["x", "y", "z", "w"] as const

function body(
  { rows, columns }: RegisterTile,
  { transA, transB, tail }: { transA: boolean; transB: boolean; tail: boolean },
): string {
  const [is, blocks] = [range(rows), range(columns / 4)]
  const aAt = (i: number): string =>
    transA ? `a_base + i0 + ${i}u` : `a_base + min(i0 + ${i}u, p.m - 1u) * p.a_stride`
  const bAt = (j: number): string =>
    transB ? `b_base + min(j0 + ${j}u, p.n - 1u) * p.b_stride` : `b_base + j0 + ${j}u`
  // Four steps of k: a(i, q) is a number, b(q, g) four neighbours of a row of op(B).
  const aBlocks = range(Math.ceil(rows / 4))
  const loadA = transA
    ? aBlocks.flatMap((g) => range(4).map((q) => `let a${q}_${g} = a_4(a_at${4 * g} + (q + ${q}u) * p.a_stride);`))
    : is.map((i) => `let a${i} = a_4(a_at${i} + q);`)
  const loadB = transB
    ? range(columns).map((j) => `let b${j} = b_4(b_at${j} + q);`)
    : blocks.flatMap((g) => range(4).map((q) => `let b${q}_${g} = b_4(b_at${4 * g} + (q + ${q}u) * p.b_stride);`))
  const aOf = (i: number, q: number): string => (transA ? `a${q}_${i >> 2}.${part[i & 3]}` : `a${i}.${part[q]}`)
  const turned = (q: number, g: number): string =>
    `let t${q}_${g} = vec4f(${range(4).map((j) => `b${4 * g + j}.${part[q]}`)});`
  const bOf = (q: number, g: number): string => (transB ? `t${q}_${g}` : `b${q}_${g}`)
  const steps = range(4).flatMap((q) => [
    ...(transB ? blocks.map((g) => turned(q, g)) : []),
    ...is.flatMap((i) => blocks.map((g) => `c${i}_${g} += ${aOf(i, q)} * ${bOf(q, g)};`)),
  ])
  const oneA = is.map((i) => `let a${i} = a_1(${transA ? `a_at0 + ${i}u + q * p.a_stride` : `a_at${i} + q`});`)
  const oneB = blocks.map((g) =>
    transB
      ? `let b${g} = vec4f(${range(4).map((j) => `b_1(b_at${4 * g + j} + q)`)});`
      : `let b${g} = vec4f(${range(4).map((j) => `b_1(b_at0 + ${4 * g + j}u + q * p.b_stride)`)});`,
  )
  const oneStep = is.flatMap((i) => blocks.map((g) => `c${i}_${g} += a${i} * b${g};`))
  return `
let tile_x = index % p.tiles_n;
let tile_y = index / p.tiles_n % p.tiles_m;
let stack = index / p.tiles_n / p.tiles_m;
let z = stack / p.parts;
let part = stack % p.parts;
if (z >= p.matrices) { return; }
${findMatrices}
let i0 = tile_y * ${rows}u;
let j0 = tile_x * ${columns}u;
let first = part * p.part_k;
let last = min(p.k, first + p.part_k);
${is.flatMap((i) => blocks.map((g) => `var c${i}_${g} = vec4f();`)).join("\n")}
${(transA ? aBlocks.map((g) => 4 * g) : is).map((i) => `var a_at${i} = ${aAt(i)};`).join("\n")}
${(transB ? range(columns) : blocks.map((g) => 4 * g)).map((j) => `var b_at${j} = ${bAt(j)};`).join("\n")}
for (var r = 0u; r < p.repeat; r++) {
  var q = first;
  for (; q + 4u <= last; q += 4u) {
    ${[...loadA, ...loadB, ...steps].join("\n    ")}
  }
  ${tail ? `for (; q < last; q++) {\n    ${[...oneA, ...oneB, ...oneStep].join("\n    ")}\n  }` : ""}
  ${(transA ? aBlocks.map((g) => 4 * g) : is).map((i) => `a_at${i} += p.a_again;`).join(" ")}
  ${(transB ? range(columns) : blocks.map((g) => 4 * g)).map((j) => `b_at${j} += p.b_again;`).join(" ")}
}
let columns = select(0u, p.n - j0, j0 < p.n);
${is
  .map((i) => {
    const puts = blocks.map((g) => {
      const at = `c_base + part * p.part_stride + (i0 + ${i}u) * p.c_stride + j0 + ${4 * g}u`
      return `put(${at}, ${g === 0 ? "columns" : `max(columns, ${4 * g}u) - ${4 * g}u`}, c${i}_${g});`
    })
    return `if (i0 + ${i}u < p.m) { ${puts.join(" ")} }`
  })
  .join("\n")}`
}
