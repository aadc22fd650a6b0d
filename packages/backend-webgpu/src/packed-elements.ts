/**
 * How a shader makes the elements of a packed matrix out of its bytes: a value by code, times a scale.
 * Knows layouts, no formats and no kernel.
 */
import { invariant, type PackedOperand } from "@peftjs/core"
import type { Binding } from "./gpu.ts"
import type { Elements } from "./matmul-product.ts"

/** Functions b_1 and b_4 over rows of `columns` elements. */
export function packedElements(w: PackedOperand, columns: number): Elements {
  const { layout, offset, skip, minimums, nested } = w
  const { bits, blockSize } = layout
  invariant(w.codes.dtype === "u8" && w.book.dtype === "f32", "backend-webgpu: packed codes are u8, their book f32")
  // Four neighbours are in one block and begin at a byte.
  const byFours = [offset, columns, blockSize].every((n) => n % 4 === 0)
  const optional: readonly (readonly [Binding, PackedOperand["codes"]])[] = [
    ...(nested
      ? ([
          [{ name: "nested_scales", type: "f32" }, nested.scales],
          [{ name: "nested_book", type: "f32" }, nested.book],
        ] as const)
      : []),
    ...(minimums ? ([[{ name: "minimums", type: "f32" }, minimums]] as const) : []),
  ]
  return {
    key: `packed${bits}${nested ? " nested" : ""}${minimums ? " minimums" : ""}${byFours ? " by 4" : ""}`,
    bindings: [
      { name: "codes", type: "u32" },
      { name: "book", type: "f32" },
      { name: "scales", type: nested ? "u32" : "f32" },
      ...optional.map(([binding]) => binding),
    ],
    buffers: [w.codes, w.book, w.scales, ...optional.map(([, buffer]) => buffer)],
    params: [
      ...["w_offset", "w_skip", "w_block", "w_nested"].map((name) => ({ name, type: "u32" }) as const),
      { name: "w_shift", type: "f32" },
    ],
    values: [offset, skip, blockSize, layout.nested?.blockSize ?? 1, layout.nested?.offset ?? 0],
    helpers: [
      scale(nested !== undefined),
      `fn unpacked(value: f32, block: u32) -> f32 {
  return value * scale_of(block)${minimums ? " + minimums[block]" : ""};
}`,
      bits === 4 ? nibble : byte,
      `fn b_1(i: u32) -> f32 {
  let at = p.w_offset + i;
  return unpacked(value_at(at), at / p.w_block);
}`,
      byFours ? fourOf(bits, minimums !== undefined) : fourByOne,
    ].join("\n"),
  }
}

// The book has a pair for each byte: that of byte c ends with the value of code c.
const nibble = `fn value_at(at: u32) -> f32 {
  let word = codes[at >> 3u];
  let shift = ((at >> 1u) & 3u) * 8u + 4u - (at & 1u) * 4u;
  return book[((word >> shift) & 15u) * 2u + 1u];
}`

const byte = `fn value_at(at: u32) -> f32 { return book[(codes[at >> 2u] >> ((at & 3u) * 8u)) & 255u]; }`

const fourByOne = "fn b_4(i: u32) -> vec4f { return vec4f(b_1(i), b_1(i + 1u), b_1(i + 2u), b_1(i + 3u)); }"

function fourOf(bits: 4 | 8, low: boolean): string {
  const values =
    bits === 4
      ? `let half = codes[at >> 3u] >> ((at & 4u) * 4u);
  let c = (vec4u(half >> 4u, half, half >> 12u, half >> 8u) & vec4u(15u)) * 2u + 1u;`
      : "let c = (vec4u(codes[at >> 2u]) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u);"
  return `fn b_4(i: u32) -> vec4f {
  let at = p.w_offset + i;
  let block = at / p.w_block;
  let scale = scale_of(block);
  ${values}
  return vec4f(book[c.x], book[c.y], book[c.z], book[c.w]) * scale${low ? " + minimums[block]" : ""};
}`
}

function scale(nested: boolean): string {
  if (!nested) return "fn scale_of(block: u32) -> f32 { return scales[p.w_skip + block]; }"
  return `fn scale_of(block: u32) -> f32 {
  let at = p.w_skip + block;
  let code = (scales[at >> 2u] >> ((at & 3u) * 8u)) & 255u;
  return nested_book[code] * nested_scales[at / p.w_nested] + p.w_shift;
}`
}
