/** Every tensor that bitsandbytes quantised: codes, statistics, values, names and JSON. */
import { readdirSync } from "node:fs"
import { cpu } from "@peftjs/backend-cpu"
import {
  type Backend,
  engineOf,
  free,
  hold,
  roundedTo,
  scope,
  type Tensor,
  tensor,
  valueAndGradients,
  type Weight,
  type WeightFormat,
} from "@peftjs/core"
import type { TensorData } from "@peftjs/safetensors"
import { describe, expect, it } from "vitest"
import { dynamicBook, fp4Book, nf4Book } from "../src/code-books.ts"
import { fp4, int8, nf4 } from "../src/index.ts"
import { encoded, f32, fixture, json, largest, maxAbs, storedOf, tensorsOf, valuesOf } from "./helpers.ts"

const expected = json("bnb/expected.json")
const text = (bytes: ArrayLike<number>): string => new TextDecoder().decode(Uint8Array.from(bytes))
const formats = { nf4, fp4 } as const
type Type = keyof typeof formats

it("the maps are bitsandbytes' own, to the last bit", () => {
  const books = tensorsOf(fixture("bnb/codebooks.safetensors"))
  expect(nf4Book.values).toEqual(f32(books, "nf4"))
  expect(fp4Book.values).toEqual(f32(books, "fp4"))
  expect(dynamicBook.values).toEqual(f32(books, "dynamic_signed_8bit"))
})

/** Codes in the order of their values: a step of one is a neighbour. */
const rank = (type: Type, code: number): number =>
  type === "nf4"
    ? code
    : ([3, 2, 5, 4, 7, 6, 1].indexOf(code & 7) - 7) * (code > 7 ? 1 : -1) * ((code & 7) === 0 ? 0 : 1)

/** How many codes differ, and by how many steps at most; the two zeros of FP4 are one value. */
function codesApart(type: Type, a: Uint8Array, b: Uint8Array): { count: number; most: number } {
  let [count, most] = [0, 0]
  for (let i = 0; i < b.length; i++)
    for (const shift of [4, 0]) {
      const [x, y] = [((a[i] as number) >> shift) & 15, ((b[i] as number) >> shift) & 15]
      const apart = Math.abs(rank(type, x) - rank(type, y))
      if (apart > 0) count++
      most = Math.max(most, apart)
    }
  return { count, most }
}

const stateOf = (name: string): string => `quant_state.bitsandbytes__${name}`

describe.each(Object.keys(expected.tensors))("%s", (name) => {
  const tensors = tensorsOf(fixture(`bnb/tensors/${name}.safetensors`))
  const { spec, variants } = expected.tensors[name]
  const W = tensors.get("W") as TensorData
  const dtype = ({ F32: "f32", F16: "f16", BF16: "bf16" } as const)[W.dtype as "F32"]
  const shape = spec.shape as [number, number]

  it.each(Object.keys(variants))("%s", async (variant) => {
    const [type, size, double] = variant.split(".") as [Type, string, string]
    const blockSize = Number(size.slice(2))
    const recorded = (key: string): TensorData => tensors.get(`${variant}.${key}`) as TensorData
    const format = formats[type]({ blockSize, doubleQuant: double === "dq" })
    const weight = await encoded(format, f32(tensors, "W"), shape, { dtype })
    const stored = await storedOf(weight)
    const one = variants[variant]

    const codes = recorded("weight").data as Uint8Array
    // All-zero blocks may be stored as either code; their values are compared below.
    expect(codesApart(type, stored.get("weight") as Uint8Array, codes).count).toBe(0)
    expect([...(weight.stored?.get("weight")?.shape ?? [])]).toEqual(recorded("weight").shape)
    expect(stored.get("weight.absmax")).toEqual(recorded("absmax").data)
    const state = text(stored.get(`weight.${stateOf(type)}`) as Uint8Array)
    expect(text(recorded(stateOf(type)).data as Uint8Array)).toBe(one.quant_state_json)
    if (double === "dq") {
      const [ours, theirs] = [JSON.parse(state), JSON.parse(one.quant_state_json)]
      expect(Math.abs(ours.nested_offset / theirs.nested_offset - 1)).toBeLessThanOrEqual(1e-6)
      expect(state.replace(/[^ ]*$/, "")).toBe(one.quant_state_json.replace(/[^ ]*$/, ""))
      const nested = f32(tensors, `${variant}.nested_absmax`)
      const far = largest(stored.get("weight.nested_absmax") as Float32Array, nested)
      expect(far).toBeLessThanOrEqual(1e-6 * Math.max(maxAbs(nested), 1e-38))
      const absmax = f32(tensors, `${variant}.absmax_dequantised`)
      const ownNested = stored.get("weight.nested_absmax") as Float32Array
      const scales = Array.from(stored.get("weight.absmax") as Uint8Array, (code, i) =>
        Math.fround((dynamicBook.values[code] as number) * (ownNested[i >> 8] as number) + ours.nested_offset),
      )
      expect(largest(scales, absmax)).toBeLessThanOrEqual(1e-6 * maxAbs(absmax))
    } else expect(state).toBe(one.quant_state_json)
    const keys = [...tensors.keys()].filter((key) => key.startsWith(`${variant}.`))
    const maps = double === "dq" ? ["weight.quant_map", "weight.nested_quant_map"] : ["weight.quant_map"]
    const wanted = keys.flatMap((key) => {
      const rest = key.slice(variant.length + 1)
      return /dequantised$/.test(rest) ? [] : [rest === "weight" ? rest : `weight.${rest}`]
    })
    expect([...stored.keys()].sort()).toEqual([...wanted, ...maps].sort())

    // bitsandbytes rounds what it hands out to the type the tensor had; its products, like ours, do not.
    const values = roundedTo(dtype, await valuesOf(weight))
    const scale = Math.max(maxAbs(values), 1e-30)
    const known = tensors.get(`${variant}.dequantised`)
    if (known) expect(largest(values, f32(tensors, `${variant}.dequantised`)) / scale).toBeLessThanOrEqual(1e-6)
    const { first, last, max_abs, abs_sum, sum, l2 } = one.dequantised
    expect(Math.abs((values[0] as number) - first) / scale).toBeLessThanOrEqual(1e-6)
    expect(Math.abs((values.at(-1) as number) - last) / scale).toBeLessThanOrEqual(1e-6)
    expect(Math.abs(maxAbs(values) - max_abs) / scale).toBeLessThanOrEqual(1e-6)
    const total = values.reduce((sum, x) => sum + Math.abs(x), 0)
    expect(Math.abs(total - abs_sum) / Math.max(abs_sum, 1e-30)).toBeLessThanOrEqual(1e-6)
    const [signed, squares] = [values.reduce((n, x) => n + x, 0), values.reduce((n, x) => n + x * x, 0)]
    expect(Math.abs(signed - sum) / Math.max(abs_sum, 1e-30)).toBeLessThanOrEqual(1e-6)
    expect(Math.abs(Math.sqrt(squares) - l2) / Math.max(l2, 1e-30)).toBeLessThanOrEqual(1e-6)
    weight.free()
  })
})

it("no recorded tensor is left out", () => {
  const files = readdirSync(fixture("bnb/tensors")).map((file) => file.replace(".safetensors", ""))
  expect(files.sort()).toEqual(Object.keys(expected.tensors).sort())
})

describe.each(Object.keys(expected.linear4bit))("layer %s as bitsandbytes saved it", (name) => {
  const file = tensorsOf(fixture(`bnb/linear4bit/${name}.safetensors`))
  const out = tensorsOf(fixture(`bnb/linear4bit/${name}.expected.safetensors`))
  const { spec, tolerance } = expected.linear4bit[name]
  const format: WeightFormat = formats[spec.quant_type as Type]({ doubleQuant: spec.double })
  const shape = [spec.out, spec.in] as const
  const own = new Map([...file].map(([key, t]) => [key.replace("proj.", ""), t]))

  it("forward, gradient, values, and back to the same bytes", async () => {
    const backend = await cpu()
    const names = format.files?.names([...own.keys()]) ?? []
    const weight = format.files?.read(
      backend,
      "proj",
      shape,
      new Map(names.map((key) => [key, own.get(key) as TensorData])),
    )
    if (!weight) throw new Error("no weight")
    const bias = own.get("bias") ? f32(own, "bias") : new Float32Array(spec.out)
    const { y, grad } = await products(backend, weight, f32(out, "x"), bias, f32(out, "grad_y"), shape)
    expect(largest(y, f32(out, "y"))).toBeLessThan(tolerance.y_abs)
    expect(largest(grad, f32(out, "grad_x"))).toBeLessThan(tolerance.grad_x_abs)
    expect(largest(await valuesOf(weight), f32(out, "dequantised"))).toBeLessThanOrEqual(tolerance.dequantised_abs)
    for (const [key, data] of await storedOf(weight)) {
      const before = own.get(key)?.data as Uint8Array
      expect(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), key).toEqual(
        new Uint8Array(before.buffer, before.byteOffset, before.byteLength),
      )
    }
    weight.free()
    expect(engineOf(backend).liveBuffers).toBe(0)
  })

  it("quantised here it holds the same", async () => {
    const dtype = spec.dtype === "bfloat16" ? "bf16" : "f32"
    const stored = await storedOf(await encoded(format, f32(out, "W"), shape, { dtype }))
    const bytes = (x: ArrayBufferView): number[] => [...new Uint8Array(x.buffer, x.byteOffset, x.byteLength)]
    for (const key of ["weight", "weight.absmax", "weight.quant_map"])
      expect(bytes(stored.get(key) as Uint8Array), key).toEqual(bytes(own.get(key)?.data as Uint8Array))
  })
})

async function products(
  backend: Backend,
  weight: Weight,
  x: Float32Array,
  bias: Float32Array,
  dy: Float32Array,
  [out, columns]: readonly [number, number],
): Promise<{ y: Float32Array; grad: Float32Array }> {
  const engine = engineOf(backend)
  const made = scope(engine, () => {
    const input = hold(tensor(backend, x, [x.length / columns, columns]))
    input.requiresGrad = true
    const up = tensor(backend, dy, [x.length / columns, out])
    const y = weight.matmul(input).add(tensor(backend, bias, [out]))
    const { value, gradients } = valueAndGradients(engine, () =>
      weight
        .matmul(input)
        .add(tensor(backend, bias, [out]))
        .mul(up)
        .sum(),
    )
    return { input, y, value, grad: gradients.get(input) as Tensor }
  })
  const result = { y: (await made.y.data()) as Float32Array, grad: (await made.grad.data()) as Float32Array }
  for (const t of Object.values(made)) free(t)
  return result
}

it("int8: codes, scales and values of LLM.int8()", async () => {
  const recorded = tensorsOf(fixture("bnb/int8_rowwise.safetensors"))
  const shape = recorded.get("W")?.shape as [number, number]
  const weight = await encoded(int8(), f32(recorded, "W"), shape)
  const stored = await storedOf(weight)
  expect(stored.get("weight")).toEqual(Uint8Array.from(recorded.get("CB")?.data as Int8Array))
  expect(stored.get("SCB")).toEqual(f32(recorded, "SCB"))
  const values = f32(recorded, "dequantised")
  expect(largest(await valuesOf(weight), values)).toBeLessThanOrEqual(1e-6 * maxAbs(values))
})

describe("rounding where two codes are equally near", () => {
  it("int8: a half of the largest value, of which torch's reciprocal takes a little", async () => {
    const values = Float32Array.of(1.4296875, 0.71484375, -0.71484375, 0.1)
    const stored = await storedOf(await encoded(int8(), values, [1, 4]))
    expect([...Int8Array.from(stored.get("weight") as Uint8Array)]).toEqual([127, 63, -63, 9])
  })

  it.each([
    { absmax: [529, 548, 28, 862], codes: [184, 192, 0, 240] },
    { absmax: [457, 158, 763, 147], codes: [198, 29, 255, 27] },
    { absmax: [250, 555, 651, 562], codes: [0, 198, 224, 199] },
  ])("scales quantised once more: $absmax of 1024", async ({ absmax, codes }) => {
    const values = Float32Array.from({ length: 256 }, (_, i) => (i % 64 === 0 ? (absmax[i / 64] as number) / 1024 : 0))
    const stored = await storedOf(await encoded(nf4({ doubleQuant: true }), values, [4, 64]))
    expect([...(stored.get("weight.absmax") as Uint8Array)]).toEqual(codes)
  })
})
