/** Whether a backend computes: a small product, map and sum whose results are known exactly. Catches broken drivers, not rounding. */
import { type Backend, call, type DeviceBuffer, input, PeftError, scalar } from "@peftjs/core"

/** Throws E_SELF_TEST when a result is wrong, and whatever the backend throws. Takes a moment: the shaders compile. */
export async function selfTest(backend: Backend): Promise<void> {
  const { matmul, map, reduce } = backend.kernels
  const [m, n, k] = [33, 20, 37]
  const a = Float32Array.from({ length: m * k }, (_, i) => (i % 7) - 3)
  const b = Float32Array.from({ length: n * k }, (_, i) => (i % 5) - 2)
  const made: DeviceBuffer[] = []
  const keep = <B extends DeviceBuffer>(buffer: B): B => {
    made.push(buffer)
    return buffer
  }
  try {
    const product = keep(
      matmul(keep(backend.upload(a, "f32")), keep(backend.upload(b, "f32")), {
        batch: 1,
        m,
        n,
        k,
        transA: false,
        transB: true,
      }),
    )
    const shape = [m, n]
    const mapped = keep(
      map(call("add", call("mul", input(0), scalar(0)), scalar(1)), [{ buffer: product, shape }], [2, 1], shape, "f32"),
    )
    const sums = keep(reduce("sum", mapped, { outer: m, n, inner: 1 }))
    const products = Array.from({ length: m * n }, (_, at) => {
      const [i, j] = [Math.floor(at / n), at % n]
      return Array.from({ length: k }, (_, q) => (a[i * k + q] ?? 0) * (b[j * k + q] ?? 0)).reduce((x, y) => x + y)
    })
    const doubled = products.map((x) => 2 * x + 1)
    const rows = Array.from({ length: m }, (_, i) => doubled.slice(i * n, (i + 1) * n).reduce((x, y) => x + y))
    for (const [name, buffer, expected] of [
      ["matmul", product, products],
      ["map", mapped, doubled],
      ["reduce", sums, rows],
    ] as const) {
      const got = await backend.read(buffer)
      const at = expected.findIndex((x, i) => got[i] !== x)
      if (at < 0) continue
      const what = `${name} gave ${got[at]} where ${expected[at]} is right`
      throw new PeftError("E_SELF_TEST", `[backend-webgpu] this device computes wrongly: ${what}; use the CPU backend`)
    }
  } finally {
    for (const buffer of made) backend.free(buffer)
  }
}
