/** How fast a backend multiplies: the yardstick that efficiency of a training step is measured against. */
import type { Backend } from "@peftjs/core"

/** Billions of f32 operations per second in a square product: the best of `runs` after one to warm up. */
export async function gemmGflops(backend: Backend, size = 1024, runs = 5): Promise<number> {
  const data = Float32Array.from({ length: size * size }, (_, i) => ((i * 7919) % 211) / 105.5 - 1)
  const a = backend.upload(data, "f32")
  const b = backend.upload(data, "f32")
  let best = Number.POSITIVE_INFINITY
  for (let i = 0; i <= runs; i++) {
    const start = performance.now()
    const c = backend.kernels.matmul(a, b, { batch: 1, m: size, n: size, k: size, transA: false, transB: true })
    await backend.flush()
    if (i > 0) best = Math.min(best, performance.now() - start)
    backend.free(c)
  }
  backend.free(a)
  backend.free(b)
  return (2 * size ** 3) / best / 1e6
}
