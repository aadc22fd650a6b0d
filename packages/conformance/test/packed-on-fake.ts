/** The fake backend with the packed kernels, on the host: sound, or with a mistake in what is read of the matrix. */
import type { DeviceBuffer, PackedOperand } from "@peftjs/core"
import { type HostPart, packedValues } from "../src/backend/host-packed.ts"
import { matmul } from "../src/fake-kernels.ts"
import type { FakeBackend } from "../src/index.ts"

export interface Mistakes {
  /** What is read in place of the matrix. */
  readonly read?: (part: HostPart) => HostPart
  /** Its values in place of those it has, for so many columns. */
  readonly values?: (part: HostPart, count: number, columns: number) => Float32Array
}

export function withPacked(sound: FakeBackend, { read = (part) => part, values }: Mistakes = {}): FakeBackend {
  const { upload, peek } = sound
  const f32 = (buffer: DeviceBuffer): Float32Array => Float32Array.from(peek(buffer))
  const bytes = (buffer: DeviceBuffer): Uint8Array => Uint8Array.from(peek(buffer))
  const valuesOf = (w: PackedOperand, count: number, columns: number): Float32Array => {
    const { layout, offset, skip, codes, scales, nested, minimums } = w
    const part = read({
      ...{ layout, offset, skip, codes: bytes(codes), scales: nested ? bytes(scales) : f32(scales) },
      ...(nested ? { nestedScales: f32(nested.scales) } : {}),
      ...(minimums ? { minimums: f32(minimums) } : {}),
    })
    return values?.(part, count, columns) ?? packedValues(part, count)
  }
  return {
    ...sound,
    kernels: {
      ...sound.kernels,
      unpack: (w, { start, end, columns }) => upload(valuesOf(w, end * columns, columns).slice(start * columns), "f32"),
      packedMatmul(x, w, { m, rows, columns, transpose }) {
        const [n, k] = transpose ? [columns, rows] : [rows, columns]
        const dims = { batch: 1, m, n, k, transA: false, transB: !transpose }
        return upload(matmul(peek(x), valuesOf(w, rows * columns, columns), dims), "f32")
      },
    },
  }
}
