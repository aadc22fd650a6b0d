import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, expect, test, vi } from "vitest"
import { createBackend } from "../src/backend.ts"
import { referenceGemm } from "../src/gemm-reference.ts"
import { gemmGflops, cpu as portable } from "../src/index.ts"
import { cpu } from "../src/node.ts"
import { findBlas } from "../src/node-blas.ts"
import { blasCandidates } from "../src/node-blas-search.ts"
import { distance, floats, numbers, upload, values } from "./helpers.ts"

afterEach(() => vi.unstubAllEnvs())

const blas = await findBlas(process.env.PEFT_BLAS)
const levels = ["reference", "wasm", ...(blas ? (["blas"] as const) : [])] as const

test.each(levels)("batched matmul of every type, transposed or not: %s", async (kernels) => {
  const backend = await cpu({ kernels })
  expect(backend.info.kernels).toBe(kernels)
  for (const [batch, m, n, k] of [
    [1, 1, 1, 1],
    [3, 5, 7, 9],
    [2, 16, 33, 20],
    [0, 2, 3, 4],
    [2, 0, 3, 4],
    [2, 3, 4, 0],
  ] as const) {
    for (const dtype of ["f32", "f16", "bf16"] as const) {
      for (const transA of [false, true]) {
        for (const transB of [false, true]) {
          const a = floats(backend, numbers(batch * m * k, 1))
          const b = floats(backend, numbers(batch * k * n, 2), dtype)
          const expected = Array.from({ length: batch * m * n }, (_, flat) => {
            const [i, j, s] = [Math.floor(flat / n) % m, flat % n, Math.floor(flat / (m * n))]
            let sum = 0
            for (let p = 0; p < k; p++) {
              const x = a.values[s * m * k + (transA ? p * m + i : i * k + p)] as number
              sum += x * (b.values[s * k * n + (transB ? j * k + p : p * n + j)] as number)
            }
            return sum
          })
          const out = backend.kernels.matmul(a.buffer, b.buffer, { batch, m, n, k, transA, transB })
          expect(out.dtype).toBe("f32")
          expect(distance(await values(backend, out), expected)).toBeLessThan(2e-6)
        }
      }
    }
  }
})

test("matmul refuses integers and operands of another size", async () => {
  const backend = await portable()
  const dims = { batch: 1, m: 1, n: 1, k: 2, transA: false, transB: false }
  const x = upload(backend, [1, 2], "i32")
  expect(() => backend.kernels.matmul(x, x, dims)).toThrow(expect.objectContaining({ code: "E_UNSUPPORTED" }))
  const y = upload(backend, [1, 2])
  expect(() => backend.kernels.matmul(y, y, { ...dims, k: 3 })).toThrow(expect.objectContaining({ code: "E_INTERNAL" }))
})

test("wasm where it is possible, and a clear error where it is not", async () => {
  expect((await portable()).info).toMatchObject({ kernels: "wasm" })
  const spy = vi.spyOn(WebAssembly, "Module").mockImplementation(function forbidden() {
    throw new WebAssembly.CompileError("forbidden")
  })
  expect((await portable()).info).toEqual({ kernels: "reference" })
  await expect(portable({ kernels: "wasm" })).rejects.toMatchObject({ code: "E_UNSUPPORTED" })
  spy.mockRestore()
  await expect(portable({ kernels: "blas" as "wasm" })).rejects.toMatchObject({ code: "E_UNSUPPORTED" })
})

test("PEFT_BLAS=off turns BLAS off", async () => {
  vi.stubEnv("PEFT_BLAS", "off")
  expect((await cpu()).info.kernels).toBe("wasm")
  await expect(cpu({ kernels: "blas" })).rejects.toMatchObject({ code: "E_BLAS" })
})

test("a BLAS that was named and cannot be used is an error, not a silent second choice", async () => {
  const missing = join(tmpdir(), "no-such-blas.so")
  await expect(cpu({ blas: missing })).rejects.toMatchObject({ code: "E_BLAS" })
  vi.stubEnv("PEFT_BLAS", missing)
  await expect(cpu()).rejects.toThrow(missing)
  expect((await cpu({ kernels: "wasm" })).info.kernels).toBe("wasm")
})

test.runIf(process.platform === "linux")("a library without sgemm is refused by name", async () => {
  await expect(cpu({ blas: "libc.so.6" })).rejects.toThrow(/libc\.so\.6 has no sgemm/)
})

test("the BLAS of Python packages is found in the environment and beside each python3 on PATH", () => {
  const root = mkdtempSync(join(tmpdir(), "blas-"))
  const place = (...path: string[]): string => {
    const file = join(root, ...path)
    mkdirSync(join(file, ".."), { recursive: true })
    writeFileSync(file, "")
    return file
  }
  place("usr", "bin", "python3")
  const expected = [
    place("venv", "lib", "python3.11", "site-packages", "scipy_openblas32", "lib", "libscipy_openblas.so"),
    place("usr", "lib", "python3.12", "dist-packages", "numpy.libs", "libscipy_openblas64_-6bb31eeb.so"),
  ]
  place("usr", "lib", "python3.12", "dist-packages", "numpy.libs", "libgfortran-8a9d71bc.so.5.0.0")
  const env = { PATH: `${join(root, "empty")}:${join(root, "usr", "bin")}`, VIRTUAL_ENV: join(root, "venv") }
  const found = (processor: string) => blasCandidates(env, "linux", processor).filter((path) => path.startsWith(root))
  expect(found("AMD EPYC")).toEqual(expected)
  expect(blasCandidates({}, "linux", "AMD EPYC")[0]).toBe("libopenblas.so.0")

  // MKL is the first choice on Intel's processors, and the last on others.
  const mkl = place("venv", "lib", "libmkl_rt.so.3")
  expect(found("AMD EPYC")).toEqual([...expected, mkl])
  expect(found("Intel(R) Xeon(R) Processor")).toEqual([mkl, ...expected])
  expect(blasCandidates({}, "linux", "Intel(R) Xeon(R) Processor")[0]).toBe("libmkl_rt.so.3")
})

test("the rate of a product is a plausible number, and measuring leaves nothing behind", async () => {
  const backend = await portable()
  const free = vi.spyOn(backend, "free")
  expect(await gemmGflops(backend, 64, 2)).toBeGreaterThan(0.01)
  expect(free).toHaveBeenCalledTimes(5)
})

test("without WebAssembly, map interprets and nothing is fused", async () => {
  vi.stubGlobal("WebAssembly", undefined)
  const backend = createBackend(referenceGemm(), { kernels: "blas" })
  vi.unstubAllGlobals()
  expect(backend.kernels.softmax).toBeUndefined()
  const x = upload(backend, [1, 2, 3])
  const expr = { op: "exp", args: [{ op: "input", index: 0 }] } as const
  const out = backend.kernels.map(expr, [{ buffer: x, shape: [3] }], [], [3], "f32")
  expect(distance(await values(backend, out), [Math.E, Math.E ** 2, Math.E ** 3])).toBeLessThan(1e-7)
})
