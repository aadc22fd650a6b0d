/** How fast a backend multiplies: the yardstick that efficiency of a training step is measured against. */
import type { Backend } from "@peftjs/core"

/** Milliseconds after which no further product is begun. */
const enough = 500

/** Billions of f32 operations per second in square products: the median of `runs` after one to warm up, of fewer where they take long. */
export async function gemmGflops(backend: Backend, size = 1024, runs = 5): Promise<number> {
  const data = Float32Array.from({ length: size * size }, (_, i) => ((i * 7919) % 211) / 105.5 - 1)
  const a = backend.upload(data, "f32")
  const b = backend.upload(data, "f32")
  const times: number[] = []
  const begin = performance.now()
  for (let i = 0; i <= runs && (i <= 1 || performance.now() - begin < enough); i++) {
    const start = performance.now()
    const c = backend.kernels.matmul(a, b, { batch: 1, m: size, n: size, k: size, transA: false, transB: true })
    await backend.flush()
    if (i > 0) times.push(performance.now() - start)
    backend.free(c)
  }
  backend.free(a)
  backend.free(b)
  times.sort((x, y) => x - y)
  return (2 * size ** 3) / (times[times.length >> 1] as number) / 1e6
}
