/** What a backend says about itself, in both directions: what it declares works, what it does not declare is refused. */
import type { Backend, DType, TypedArray } from "@peftjs/core"
import { bytesPerElement, hostArray, input } from "@peftjs/core"
import { check, same, throwsCode } from "../assert.ts"
import type { Runner } from "../runner.ts"
import { fusedCases } from "./fused.ts"
import { halfValue } from "./half.ts"
import { checkKernel } from "./kernel-check.ts"

const allTypes = Object.keys(bytesPerElement) as DType[]
const required = [
  "map",
  "reduce",
  "matmul",
  "gather",
  "scatterAdd",
  "permute",
  "slice",
  "concat",
  "randomBits",
] as const
const optional: readonly string[] = [...Object.keys(fusedCases), "adamw"]

/** Values, as bf16 and f16 round them to nearest even; the patterns of 16 bits. */
const roundings: readonly (readonly [value: number, bf16: number, f16: number])[] = [
  [0, 0, 0],
  [-0, 0x8000, 0x8000],
  [1, 0x3f80, 0x3c00],
  [-2.5, 0xc020, 0xc100],
  [1 + 2 ** -8, 0x3f80, 0x3c04],
  [1 + 3 * 2 ** -8, 0x3f82, 0x3c0c],
  [1 + 2 ** -11, 0x3f80, 0x3c00],
  [1 + 3 * 2 ** -11, 0x3f80, 0x3c02],
  [65504, 0x4780, 0x7bff],
  [65520, 0x4780, 0x7c00],
  [2 ** -24, 0x3380, 0x0001],
  [2 ** -25, 0x3300, 0x0000],
  [3 * 2 ** -25, 0x33c0, 0x0002],
  [Number.POSITIVE_INFINITY, 0x7f80, 0x7c00],
]

export function manifestChecks(backendOf: () => Promise<Backend>, { it }: Runner): void {
  it("the manifest has its required parts", async () => {
    const { name, specVersion, supports, kernels } = await backendOf()
    check(name !== "", "a backend needs a name")
    check(specVersion === 1, `specVersion is ${specVersion}, not 1`)
    check(
      Number.isInteger(supports.maxBufferBytes) && supports.maxBufferBytes > 0,
      `maxBufferBytes is ${supports.maxBufferBytes}`,
    )
    for (const type of ["f32", "i32", "u32"] as const)
      check(supports.dtypes.includes(type), `${type} is required, but not declared`)
    for (const kernel of required) check(typeof kernels[kernel] === "function", `there is no kernel ${kernel}`)
    const known = [...required, ...optional]
    for (const [kernel, value] of Object.entries(kernels)) {
      check(known.includes(kernel), `the contract has no kernel ${kernel}`)
      check(typeof value === "function", `${kernel} is declared, but is ${String(value)}; leave out what there is not`)
    }
  })

  for (const dtype of allTypes) {
    it(`${dtype} works if declared and is refused if not`, async () => {
      const backend = await backendOf()
      const empty = hostArray(dtype, 0)
      if (!backend.supports.dtypes.includes(dtype)) {
        const half = dtype === "f16" || dtype === "bf16"
        await throwsCode("E_UNSUPPORTED", () => backend.upload(empty, dtype), `upload of ${dtype}`)
        if (half) await throwsCode("E_UNSUPPORTED", () => backend.kernels.map(input(0), [], [], [1], dtype), "map")
        return
      }
      for (const n of [0, 1, 3, 64, 129]) await roundtrip(backend, n, dtype)
      await widens(backend, dtype)
      if (dtype === "f16" || dtype === "bf16") await rounds(backend, dtype)
    })
  }
}

async function roundtrip(backend: Backend, n: number, dtype: DType): Promise<void> {
  const data = hostArray(dtype, n).map((_: number, i: number) => (i * 37) % 251) as TypedArray
  const buffer = backend.upload(data, dtype)
  const sent = data.slice()
  data.fill(5)
  check(buffer.dtype === dtype && buffer.length === n, `upload of ${n} ${dtype} made ${buffer.length} ${buffer.dtype}`)
  const read = await backend.read(buffer)
  check(read.constructor === sent.constructor, `read of ${dtype} gave a ${read.constructor.name}`)
  same(read, sent, `${n} ${dtype} uploaded and read`)
  read.fill(9)
  same(await backend.read(buffer), sent, "a buffer after the array read from it was written")
  backend.free(buffer)
}

async function widens(backend: Backend, dtype: DType): Promise<void> {
  const half = dtype === "f16" || dtype === "bf16"
  const data = half
    ? Uint16Array.from(roundings, ([, bf16, f16]) => (dtype === "bf16" ? bf16 : f16))
    : hostArray(dtype, 5).map((_: number, i: number) => i * 63)
  const expected = half ? Float64Array.from(data, (pattern) => halfValue(pattern, dtype)) : data
  await checkKernel(backend, {
    label: `map of ${dtype} to f32`,
    inputs: [{ data: data as TypedArray, dtype }],
    run: ({ kernels }, [x]) =>
      kernels.map(input(0), [{ buffer: x as never, shape: [data.length] }], [], [data.length], "f32"),
    expected,
  })
}

async function rounds(backend: Backend, dtype: "f16" | "bf16"): Promise<void> {
  const n = roundings.length
  await checkKernel(backend, {
    label: `map of f32 to ${dtype}`,
    inputs: [{ data: Float32Array.from(roundings, ([value]) => value) }],
    run: ({ kernels }, [x]) => kernels.map(input(0), [{ buffer: x as never, shape: [n] }], [], [n], dtype),
    expected: roundings.map(([, bf16, f16]) => (dtype === "bf16" ? bf16 : f16)),
    dtype,
  })
}
