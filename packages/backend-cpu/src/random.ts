/** Random words by Threefry-2x32: core's `randomWords`, written without arrays because dropout draws millions. */

/** Fills `out`; word 2i and 2i+1 are the block with counter [i, 0]. */
export function fillRandom(out: Uint32Array, key: readonly [number, number]): void {
  const k0 = key[0] | 0
  const k1 = key[1] | 0
  const k2 = 0x1bd11bda ^ k0 ^ k1
  const n = out.length
  for (let i = 0; i < n; i += 2) {
    let a = ((i >>> 1) + k0) | 0
    let b = k1
    for (let group = 0; group < 5; group++) {
      if ((group & 1) === 0) {
        a = (a + b) | 0
        b = ((b << 13) | (b >>> 19)) ^ a
        a = (a + b) | 0
        b = ((b << 15) | (b >>> 17)) ^ a
        a = (a + b) | 0
        b = ((b << 26) | (b >>> 6)) ^ a
        a = (a + b) | 0
        b = ((b << 6) | (b >>> 26)) ^ a
      } else {
        a = (a + b) | 0
        b = ((b << 17) | (b >>> 15)) ^ a
        a = (a + b) | 0
        b = ((b << 29) | (b >>> 3)) ^ a
        a = (a + b) | 0
        b = ((b << 16) | (b >>> 16)) ^ a
        a = (a + b) | 0
        b = ((b << 24) | (b >>> 8)) ^ a
      }
      // After group g the keys g+1 and g+2 (modulo 3) come in: 1 2, 2 0, 0 1, 1 2, 2 0.
      const phase = group % 3
      a = (a + (phase === 0 ? k1 : phase === 1 ? k2 : k0)) | 0
      b = (b + (phase === 0 ? k2 : phase === 1 ? k0 : k1) + group + 1) | 0
    }
    out[i] = a
    if (i + 1 < n) out[i + 1] = b
  }
}
