/** A small writer of GGUF files, so that tests make their own, good ones and bad ones. */

type Value = string | number | boolean | bigint | readonly string[] | readonly number[]

export interface Written {
  /** ggml's number of a type: 0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 8 Q8_0, 30 BF16. */
  readonly type: number
  /** [rows, columns]; the file has it turned round. */
  readonly shape: readonly number[]
  readonly data: Uint8Array
}

export interface FileOptions {
  readonly magic?: string
  readonly version?: number
  /** What the header says of how many tensors there are. */
  readonly tensorCount?: number
}

const alignment = 32
const padded = (n: number): number => Math.ceil(n / alignment) * alignment

/** Numbers are float32 where they have a fraction, else uint32; lists of numbers are int32. */
export function ggufBytes(
  metadata: Readonly<Record<string, Value>>,
  tensors: Readonly<Record<string, Written>>,
  { magic = "GGUF", version = 3, tensorCount }: FileOptions = {},
): Uint8Array {
  const parts: Uint8Array[] = []
  const put = (size: number, fill: (view: DataView) => void): void => {
    const part = new Uint8Array(size)
    fill(new DataView(part.buffer))
    parts.push(part)
  }
  const u32 = (x: number): void => put(4, (view) => view.setUint32(0, x, true))
  const u64 = (x: number | bigint): void => put(8, (view) => view.setBigUint64(0, BigInt(x), true))
  const text = (x: string): void => {
    const encoded = new TextEncoder().encode(x)
    u64(encoded.length)
    parts.push(encoded)
  }
  const value = (x: Value): void => {
    if (typeof x === "string") [u32(8), text(x)]
    else if (typeof x === "boolean") [u32(7), put(1, (view) => view.setUint8(0, x ? 1 : 0))]
    else if (typeof x === "bigint") [u32(10), u64(x)]
    else if (typeof x !== "number") {
      u32(9)
      u32(typeof x[0] === "number" ? 5 : 8)
      u64(x.length)
      for (const one of x) typeof one === "number" ? put(4, (view) => view.setInt32(0, one, true)) : text(one)
    } else if (Number.isInteger(x)) [u32(4), u32(x)]
    else [u32(6), put(4, (view) => view.setFloat32(0, x, true))]
  }
  parts.push(new TextEncoder().encode(magic))
  u32(version)
  u64(tensorCount ?? Object.keys(tensors).length)
  u64(Object.keys(metadata).length)
  for (const [key, one] of Object.entries(metadata)) [text(key), value(one)]
  let offset = 0
  for (const [name, { type, shape, data }] of Object.entries(tensors)) {
    text(name)
    u32(shape.length)
    for (const size of [...shape].reverse()) u64(size)
    u32(type)
    u64(offset)
    offset += padded(data.length)
  }
  const header = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let end = 0
  for (const part of parts) {
    header.set(part, end)
    end += part.length
  }
  const whole = new Uint8Array(padded(header.length) + offset)
  whole.set(header)
  let at = padded(header.length)
  for (const { data } of Object.values(tensors)) {
    whole.set(data, at)
    at += padded(data.length)
  }
  return whole
}
