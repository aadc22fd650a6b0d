/** Handles, sizes, counts and errors of the backend. On every way into TensorFlow that there is. */
import { call, constant, type Expr, input, isPeftError, scalar } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { createBackend } from "../src/backend.ts"
import { absent, runtimes } from "./open.ts"

it.skipIf(absent.length === 0)(`absent: ${absent.join("; ") || "none"}`, ({ skip }) => skip())

for (const [way, runtime] of runtimes)
  describe(way, () => {
    it("counts ops, bytes and buffers", async () => {
      const backend = createBackend(runtime)
      const { kernels } = backend
      const x = backend.upload(Float32Array.of(1, 2, 3, 4), "f32")
      const start = backend.stats()
      expect([start.ops, start.bytesUp, start.bytesDown, start.buffers]).toEqual([0, 16, 0, 1])
      const double = call("add", call("mul", input(0), constant(2)), constant(1))
      const y = kernels.map(double, [{ buffer: x, shape: [4] }], [], [4], "f32")
      expect(await backend.read(y)).toEqual(Float32Array.of(3, 5, 7, 9))
      const { ops, bytesUp, bytesDown, buffers, constants } = backend.stats()
      expect([ops, bytesUp, bytesDown, buffers, constants]).toEqual([2, 24, 16, 2, 2])
      // Known by now: nothing is uploaded again.
      const z = kernels.map(double, [{ buffer: y, shape: [2, 2] }], [], [2, 2], "f32")
      expect(backend.stats().bytesUp).toBe(24)
      for (const buffer of [x, y, z]) backend.free(buffer)
      expect(backend.stats().buffers).toBe(0)
    })

    it("a number that changes from call to call is not kept, one that stays is", async () => {
      const backend = createBackend(runtime)
      const x = backend.upload(Float32Array.of(1), "f32")
      const times = (factor: number): void =>
        backend.free(
          backend.kernels.map(call("mul", input(0), scalar(0)), [{ buffer: x, shape: [1] }], [factor], [1], "f32"),
        )
      for (let i = 0; i < 100; i++) times(i)
      expect(backend.stats().constants).toBe(0)
      for (let i = 0; i < 100; i++) times(0.5)
      expect(backend.stats().constants).toBe(1)
      expect(backend.stats().bytesUp).toBe(4 + 4 * 102)
      // However many stay, few are kept.
      for (let i = 0; i < 100; i++) for (let again = 0; again < 3; again++) times(1000 + i)
      expect(backend.stats().constants).toBe(16)
      backend.free(x)
    })

    it("one handle serves a shape that is asked for again, and all of a buffer's go with it", () => {
      const backend = createBackend(runtime)
      const { kernels } = backend
      const x = backend.upload(
        Float32Array.from({ length: 12 }, (_, i) => i),
        "f32",
      )
      const turn = (rows: number): void => backend.free(kernels.permute(x, [rows, 12 / rows], [1, 0]))
      for (const rows of [2, 3, 4, 6]) turn(rows)
      const { ops } = backend.stats()
      turn(6)
      expect(backend.stats().ops).toBe(ops + 1)
      // The oldest shapes made way.
      turn(2)
      expect(backend.stats().ops).toBe(ops + 3)
      const { handles, constants } = backend.stats()
      backend.free(x)
      expect(backend.stats().handles).toBeLessThan(handles)
      expect(backend.stats().constants).toBe(constants)
    })

    it("an expression's equal parts are one op, truth stays bool, and its shape is one that is there", async () => {
      const backend = createBackend(runtime)
      const x = backend.upload(Float32Array.of(-2, 0, 1, 3), "f32")
      const opsOf = async (expr: Expr, expected: readonly number[]): Promise<number> => {
        const { ops } = backend.stats()
        const y = backend.kernels.map(expr, [{ buffer: x, shape: [2, 2] }], [], [2, 2], "f32")
        const used = backend.stats().ops - ops
        expect([...(await backend.read(y))]).toEqual(expected)
        backend.free(y)
        return used
      }
      const square = call("mul", input(0), input(0))
      expect(await opsOf(call("add", square, call("neg", square)), [0, 0, 0, 0])).toBe(3)
      const inside = call("mul", call("lt", constant(-1), input(0)), call("le", input(0), constant(2)))
      expect(await opsOf(call("select", inside, input(0), constant(9)), [9, 0, 1, 9])).toBe(4)
      expect(await opsOf(call("select", input(0), constant(1), constant(0)), [1, 0, 1, 1])).toBe(2)
      backend.free(x)
    })

    it("waits for a GPU by a copy to the host, which leaves nothing behind", async () => {
      const gpu = { ...runtime, device: { ...runtime.device, kind: "GPU" as const } }
      let reads = 0
      const backend = createBackend({ ...gpu, read: (tensor) => [runtime.read(tensor), reads++][0] as ArrayBufferView })
      const before = runtime.count()
      await backend.flush()
      expect([reads, runtime.count()]).toEqual([1, before])
    })

    it("errors name the kernel and its shapes, and leave nothing behind", () => {
      const backend = createBackend(runtime)
      const x = backend.upload(Float32Array.of(1, 2), "f32")
      const y = backend.upload(Float32Array.of(1, 2, 3), "f32")
      const { handles } = backend.stats()
      const sum = call("add", input(0), input(1))
      const attempt = (): unknown =>
        backend.kernels.map(
          sum,
          [
            { buffer: x, shape: [2] },
            { buffer: y, shape: [3] },
          ],
          [],
          [3],
          "f32",
        )
      let found: unknown
      try {
        attempt()
      } catch (error) {
        found = error
      }
      expect(isPeftError(found) && found.code).toBe("E_KERNEL")
      expect((found as Error).message).toMatch(
        /^\[backend-cuda\] map of f32 \[2\], f32 \[3\] to f32 \[3\]: .*AddV2.*Incompatible shapes.*\(E_KERNEL\)$/s,
      )
      expect(backend.stats().handles).toBe(handles)
      for (const buffer of [x, y]) backend.free(buffer)
      expect(() => backend.free(x)).toThrow(/after it was freed/)
    })
  })
