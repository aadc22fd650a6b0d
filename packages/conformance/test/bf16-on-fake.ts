/** The fake backend with bf16 beside its own types, rounded as told: numbers of 16 bits in an f32 buffer behind a handle of their own. */
import { bytesPerElement, type DeviceBuffer, type MapInput, PeftError, type TypedArray } from "@peftjs/core"
import type { FakeBackend } from "../src/index.ts"

/** The pattern of 16 bits for an f32. */
export type Rounding = (value: number) => number

const bits = new Uint32Array(1)
const float = new Float32Array(bits.buffer)
const word = (value: number): number => {
  float[0] = value
  return bits[0] as number
}

/** To nearest, ties to even. */
export const nearest: Rounding = (value) => {
  const w = word(value)
  return (w + 0x7fff + ((w >>> 16) & 1)) >>> 16
}
/** By cutting off the low half. */
export const truncated: Rounding = (value) => word(value) >>> 16

const widened = (pattern: number): number => {
  bits[0] = pattern << 16
  return float[0] as number
}

/** `sound` has to hold buffers of twice the bytes that this backend is to hold. */
export function withBf16(sound: FakeBackend, round: Rounding): FakeBackend {
  const maxBufferBytes = sound.supports.maxBufferBytes / 2
  /** Handles of bf16 to buffers of f32. */
  const wide = new Map<DeviceBuffer, DeviceBuffer>()
  const real = (buffer: DeviceBuffer): DeviceBuffer => wide.get(buffer) ?? buffer
  const wrap = (inner: DeviceBuffer): DeviceBuffer => {
    const handle = Object.freeze({ dtype: "bf16" as const, length: inner.length })
    wide.set(handle, inner)
    return handle
  }
  /** A result of the type of its argument. */
  const like = (x: DeviceBuffer | undefined, result: DeviceBuffer): DeviceBuffer =>
    x && wide.has(x) ? wrap(result) : result
  /** A result, which is refused where it is above the limit. */
  const limited = (result: DeviceBuffer): DeviceBuffer => {
    const bytes = result.length * bytesPerElement[result.dtype]
    if (bytes <= maxBufferBytes) return result
    sound.free(real(result))
    throw new PeftError("E_BUFFER_SIZE", `[fake] ${bytes} bytes; a buffer has at most ${maxBufferBytes}`)
  }
  const narrow = (values: TypedArray): Uint16Array => Uint16Array.from(values, (value) => round(value))
  const { kernels } = sound
  return {
    ...sound,
    supports: { maxBufferBytes, dtypes: [...sound.supports.dtypes, "bf16"] },
    upload: (data, dtype) =>
      limited(
        dtype === "bf16" ? wrap(sound.upload(Float32Array.from(data, widened), "f32")) : sound.upload(data, dtype),
      ),
    free(buffer) {
      sound.free(real(buffer))
    },
    peek: (buffer) => (wide.has(buffer) ? narrow(sound.peek(real(buffer))) : sound.peek(buffer)),
    async read(buffer) {
      const values = await sound.read(real(buffer))
      return wide.has(buffer) ? narrow(values) : values
    },
    kernels: {
      reduce: (op, x, axis) => limited(kernels.reduce(op, real(x), axis)),
      scatterAdd: (x, ids, dims) => limited(kernels.scatterAdd(real(x), ids, dims)),
      randomBits: (key, n) => limited(kernels.randomBits(key, n)),
      map(expr, inputs, scalars, shape, dtype) {
        const operands = inputs.map((x): MapInput => ({ ...x, buffer: real(x.buffer) }))
        if (dtype !== "bf16") return limited(kernels.map(expr, operands, scalars, shape, dtype))
        const exact = kernels.map(expr, operands, scalars, shape, "f32")
        const rounded = sound.upload(Float32Array.from(narrow(sound.peek(exact)), widened), "f32")
        sound.free(exact)
        return limited(wrap(rounded))
      },
      matmul: (a, b, dims) => limited(kernels.matmul(real(a), real(b), dims)),
      gather: (table, ids, dims) => limited(kernels.gather(real(table), ids, dims)),
      permute: (x, shape, axes) => limited(like(x, kernels.permute(real(x), shape, axes))),
      slice: (x, axis) => limited(like(x, kernels.slice(real(x), axis))),
      concat: (xs, axis) => limited(like(xs[0], kernels.concat(xs.map(real), axis))),
    },
  }
}
