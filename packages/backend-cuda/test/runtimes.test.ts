/** Each way into TensorFlow keeps the same promises: what goes up comes down, ops get their attributes, errors name the op, handles are counted. */
import { required } from "@peftjs/tests/backends"
import { describe, expect, it } from "vitest"
import type { TfRuntime, TfType } from "../src/tf-runtime.ts"
import { absent, runtimes } from "./open.ts"

it.runIf(required.includes("cuda"))("TensorFlow is there", () =>
  expect(
    runtimes.map(([way]) => way),
    absent.join("\n"),
  ).toContain("capi"),
)

it.skipIf(absent.length === 0)(`absent: ${absent.join("; ") || "none"}`, ({ skip }) => skip())

/** Bit patterns that a detour through another type would lose: -0, the smallest subnormal, NaN with a payload. */
const patterns: readonly (readonly [TfType, ArrayBufferView])[] = [
  ["f32", new Float32Array(Uint32Array.of(0x3f800000, 0x80000000, 1, 0x7fc00001).buffer)],
  ["f16", Uint16Array.of(0x3c00, 0x8000, 1, 0x7e01)],
  ["bf16", Uint16Array.of(0x3f80, 0x8000, 1, 0x7fc1)],
  ["i32", Int32Array.of(-1, 0, 2 ** 31 - 1, -(2 ** 31))],
  ["u32", Uint32Array.of(1, 0, 2 ** 31, 2 ** 32 - 1)],
  ["u8", Uint8Array.of(0, 1, 128, 255)],
  ["u16", Uint16Array.of(0, 1, 32768, 65535)],
  ["i64", BigInt64Array.of(-1n, 0n, 2n ** 62n, -(2n ** 63n))],
  ["bool", Uint8Array.of(0, 1, 1, 0)],
]

const bytes = (data: ArrayBufferView): number[] => [...new Uint8Array(data.buffer, data.byteOffset, data.byteLength)]

for (const [way, runtime] of runtimes)
  describe(way, () => {
    const scoped = <T>(body: (tensor: TfRuntime["createTensor"]) => T): T => {
      const made: number[] = []
      try {
        return body((...given) => {
          const tensor = runtime.createTensor(...given)
          made.push(tensor.handle)
          return tensor
        })
      } finally {
        for (const handle of made) runtime.delete(handle)
      }
    }

    it("names itself, its version and its device", () => {
      expect(runtime.version).toMatch(/^2\.\d+\.\d+/)
      expect(runtime.device.kind).toBe("CPU")
      expect(runtime.devices).toContainEqual(runtime.device)
    })

    it.each(patterns)("%s goes up and comes down bit by bit", (type, data) => {
      const before = runtime.count()
      const tensor = runtime.createTensor(type, [2, 2], data)
      expect([tensor.type, [...tensor.shape]]).toEqual([type, [2, 2]])
      const back = runtime.read(tensor)
      expect(back.constructor).toBe(data.constructor)
      expect(bytes(back)).toEqual(bytes(data))
      expect(runtime.count()).toBe(before + 1)
      runtime.delete(tensor.handle)
      expect(runtime.count()).toBe(before)
    })

    it("scalars, nothing, and a part of a larger array", () =>
      scoped((tensor) => {
        expect(bytes(runtime.read(tensor("f32", [], Float32Array.of(2.5))))).toEqual(bytes(Float32Array.of(2.5)))
        for (const type of ["f32", "f16", "u8"] as const)
          expect(runtime.read(tensor(type, [0, 3], new Uint8Array(0))).byteLength).toBe(0)
        const part = new Float32Array([9, 1, 2, 3, 9]).subarray(1, 4)
        expect(runtime.read(tensor("f32", [3], part))).toEqual(Float32Array.of(1, 2, 3))
      }))

    it("copies what it is given: writing into the array afterwards changes nothing", () =>
      scoped((tensor) => {
        const data = new Float32Array(4096).fill(1)
        const x = tensor("f32", [4096], data)
        data.fill(2)
        expect(runtime.read(x)).toEqual(new Float32Array(4096).fill(1))
        const read = runtime.read(x) as Float32Array
        read.fill(3)
        expect(runtime.read(x)).toEqual(new Float32Array(4096).fill(1))
      }))

    it("an op with types, bools, a string; its results have types and shapes", () =>
      scoped((tensor) => {
        const a = tensor("f32", [2, 3], Float32Array.of(1, 2, 3, 4, 5, 6))
        const flags = { transpose_a: { bool: false }, transpose_b: { bool: true } }
        const [product] = runtime.executeOp("MatMul", { T: { type: "f32" }, ...flags }, [a.handle, a.handle], 1)
        const attributes = { T: { type: "f32" }, equation: { string: "ij,kj->ki" }, N: { int: 2 } } as const
        const [einsum] = runtime.executeOp("Einsum", attributes, [a.handle, a.handle], 1)
        const [text] = runtime.executeOp("Cast", { SrcT: { type: "f32" }, DstT: { type: "bf16" } }, [a.handle], 1)
        for (const result of [product, einsum]) {
          expect([result?.type, [...(result?.shape ?? [])]]).toEqual(["f32", [2, 2]])
          expect(result && runtime.read(result)).toEqual(Float32Array.of(14, 32, 32, 77))
        }
        expect(text?.type).toBe("bf16")
        for (const result of [product, einsum, text]) if (result) runtime.delete(result.handle)
      }))

    it("whole numbers in a list, a float, a shape; several results", () =>
      scoped((tensor) => {
        const a = tensor("f32", [1, 4], Float32Array.of(-4, 3, -2, 1))
        const results = [
          ...runtime.executeOp("Squeeze", { T: { type: "f32" }, squeeze_dims: { ints: [0] } }, [a.handle], 1),
          ...runtime.executeOp("LeakyRelu", { T: { type: "f32" }, alpha: { float: 0.25 } }, [a.handle], 1),
          ...runtime.executeOp("Unpack", { T: { type: "f32" }, num: { int: 4 }, axis: { int: 1 } }, [a.handle], 4),
          ...runtime.executeOp(
            "PlaceholderWithDefault",
            { dtype: { type: "f32" }, shape: { shape: [1, 4] } },
            [a.handle],
            1,
          ),
        ]
        expect(results.map(({ shape }) => [...shape])).toEqual([[4], [1, 4], [1], [1], [1], [1], [1, 4]])
        expect(results[1] && runtime.read(results[1])).toEqual(Float32Array.of(-1, 3, -0.5, 1))
        for (const { handle } of results) runtime.delete(handle)
      }))

    it("errors name the op and TensorFlow's reason, and leave nothing behind", () =>
      scoped((tensor) => {
        const a = tensor("f32", [2], Float32Array.of(1, 2))
        const b = tensor("f32", [3], Float32Array.of(1, 2, 3))
        const before = runtime.count()
        const type = { T: { type: "f32" } } as const
        expect(() => runtime.executeOp("AddV2", type, [a.handle, b.handle], 1)).toThrow(
          expect.objectContaining({ code: "E_KERNEL", message: expect.stringMatching(/the op AddV2.*\[2\].*\[3\]/s) }),
        )
        expect(() => runtime.executeOp("NoSuchOp", {}, [], 1)).toThrow(/the op NoSuchOp failed: .*NoSuchOp/)
        expect(() => runtime.executeOp("Neg", type, [a.handle + 1_000_000], 1)).toThrow(/E_KERNEL/)
        expect(() => runtime.delete(a.handle + 1_000_000)).toThrow(/E_KERNEL/)
        expect(() => runtime.createTensor("f32", [3], new Float32Array(2))).toThrow(
          /8 bytes for f32 \[3\], which has 12/,
        )
        expect(runtime.count()).toBe(before)
      }))

    // Once: TensorFlow tries for ten seconds.
    it.runIf(way === runtimes[0]?.[0])("too much memory has its own code", () =>
      scoped((tensor) => {
        const dims = tensor("i32", [2], Int32Array.of(2 ** 21, 2 ** 21))
        const value = tensor("f32", [], Float32Array.of(1))
        const attributes = { T: { type: "f32" }, index_type: { type: "i32" } } as const
        expect(() => runtime.executeOp("Fill", attributes, [dims.handle, value.handle], 1)).toThrow(
          expect.objectContaining({ code: "E_OUT_OF_MEMORY" }),
        )
      }),
    )

    it("gives memory back", () => {
      const data = new Float32Array(2 ** 20)
      const once = (): void =>
        scoped((tensor) => {
          const x = tensor("f32", [data.length], data)
          const [y] = runtime.executeOp("Neg", { T: { type: "f32" } }, [x.handle], 1)
          if (y) runtime.delete(y.handle)
        })
      for (let i = 0; i < 20; i++) once()
      const before = process.memoryUsage.rss()
      // 2.4 GB go up.
      for (let i = 0; i < 300; i++) once()
      expect((process.memoryUsage.rss() - before) / 2 ** 20).toBeLessThan(250)
    })
  })
