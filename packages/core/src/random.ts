/**
 * Counter-based random numbers: Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
 * A number depends on its key and position alone, so a recomputed block draws the same mask and every backend the same bits.
 */

/** Two 32-bit words. */
export type Key = readonly [number, number]

const rotations = [13, 15, 26, 6, 17, 29, 16, 24] as const

/** One block: 64 random bits for a counter under a key, as two u32. */
export function threefry(key: Key, counter: Key): [number, number] {
  const k0 = key[0] | 0
  const k1 = key[1] | 0
  const ks = [k0, k1, 0x1bd11bda ^ k0 ^ k1]
  let x0 = (counter[0] + k0) | 0
  let x1 = (counter[1] + k1) | 0
  for (let round = 0; round < 20; round++) {
    const r = rotations[round % 8] as number
    x0 = (x0 + x1) | 0
    x1 = ((x1 << r) | (x1 >>> (32 - r))) ^ x0
    if (round % 4 === 3) {
      const step = (round + 1) / 4
      x0 = (x0 + (ks[step % 3] as number)) | 0
      x1 = (x1 + (ks[(step + 1) % 3] as number) + step) | 0
    }
  }
  return [x0 >>> 0, x1 >>> 0]
}

/** n words as the kernel `randomBits` must draw them. */
export function randomWords(key: Key, n: number): Uint32Array {
  const out = new Uint32Array(n)
  for (let i = 0; i < n; i += 2) {
    const [a, b] = threefry(key, [i >>> 1, 0])
    out[i] = a
    if (i + 1 < n) out[i + 1] = b
  }
  return out
}

/** A key from a seed and what the numbers are for: [seed, step, micro-batch, path, stream]. Numbers count modulo 2^32; strings by their FNV-1a hash. */
export function keyOf(seed: number, ...parts: readonly (number | string)[]): Key {
  return parts.reduce<Key>(
    (key, part) => threefry(key, typeof part === "number" ? [part >>> 0, 1] : [hash(part), 2]),
    [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0],
  )
}

function hash(text: string): number {
  let h = 0x811c9dc5
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  return h >>> 0
}

/** n numbers of U[low, high) in f32. */
export function uniforms(key: Key, n: number, low: number, high: number): Float32Array {
  return Float32Array.from(randomWords(key, n), (word) => low + (high - low) * ((word >>> 8) * 2 ** -24))
}

/** n numbers of N(0, std²), by Box and Muller's transform. */
export function normals(key: Key, n: number, std: number): Float32Array {
  const out = new Float32Array(n)
  const words = randomWords(key, n + (n % 2))
  for (let i = 0; i < n; i += 2) {
    const radius = std * Math.sqrt(-2 * Math.log(((words[i] as number) + 1) * 2 ** -32))
    const angle = 2 * Math.PI * (words[i + 1] as number) * 2 ** -32
    out[i] = radius * Math.cos(angle)
    if (i + 1 < n) out[i + 1] = radius * Math.sin(angle)
  }
  return out
}
