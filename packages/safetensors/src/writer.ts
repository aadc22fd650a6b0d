/**
 * Writing files, byte for byte as the reference library does: tensors by decreasing dtype alignment, then by name, the
 * header padded with spaces to 8 bytes (safetensors 0.8.0, tensor.rs `prepare`). Tensor data may be made on demand, so
 * a checkpoint never has to be in memory whole. Where bytes go is FileSink's business.
 */
import type { FileSink } from "./byte-source.ts"
import { arrayName, arrayTag, type Dtype, dtypeRank, dtypes, isDtype, tensorBytes } from "./dtype.ts"
import { fail } from "./error.ts"
import { maxHeaderBytes, prefixBytes } from "./header.ts"
import { concat } from "./memory-files.ts"

/** A tensor to write whose elements are there. */
export interface TensorInput {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** The elements as the dtype's typed array (BF16: Uint16Array of codes), or as bytes in a Uint8Array or DataView. */
  readonly data: ArrayBufferView
}

/** A tensor to write; `data` may be a function that makes the elements when their turn has come, whole or in pieces that follow each other. */
export interface LazyTensorInput extends Omit<TensorInput, "data"> {
  readonly data: ArrayBufferView | (() => ArrayBufferView | Promise<ArrayBufferView> | AsyncIterable<ArrayBufferView>)
}

/** Tensors by name: a Map, or any list of pairs. Their order does not matter. */
export type TensorInputs<T extends LazyTensorInput = LazyTensorInput> = Iterable<readonly [string, T]>

interface Plan<T> {
  readonly header: Uint8Array
  /** In file order. */
  readonly entries: readonly { readonly name: string; readonly tensor: T; readonly byteLength: number }[]
}

/**
 * Writes a file; nothing is left behind if it fails.
 *
 * @param metadata becomes `__metadata__`; PEFT and transformers expect `{ format: "pt" }`. Left out if empty.
 * @throws E_TENSOR_WRITE for a duplicate or reserved name, an unknown dtype, a bad shape, data of another type or
 * size than dtype and shape say, text that is not well-formed; and what the sink and the `data` functions throw
 */
export async function writeSafetensors(
  sink: FileSink,
  path: string,
  tensors: TensorInputs,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const { header, entries } = plan(tensors, metadata)
  for (const { name, tensor } of entries) if (typeof tensor.data !== "function") tensorView(name, tensor, tensor.data)
  async function* chunks(): AsyncGenerator<Uint8Array> {
    yield header
    for (const { name, tensor, byteLength } of entries) {
      const data = typeof tensor.data === "function" ? await tensor.data() : tensor.data
      if (!(Symbol.asyncIterator in data)) {
        yield tensorView(name, tensor, data)
        continue
      }
      let given = 0
      for await (const piece of data) {
        const bytes = bytesOf(name, tensor, piece)
        given += bytes.byteLength
        if (given > byteLength) break
        yield bytes
      }
      checkSize(name, tensor, given)
    }
  }
  await sink.write(path, chunks())
}

/** The bytes of a file. Arguments and errors as for writeSafetensors. */
export function serializeSafetensors(
  tensors: TensorInputs<TensorInput>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const { header, entries } = plan(tensors, metadata)
  return concat([header, ...entries.map(({ name, tensor }) => tensorView(name, tensor, tensor.data))])
}

function plan<T extends LazyTensorInput>(
  tensors: TensorInputs<T>,
  metadata: Readonly<Record<string, string>>,
): Plan<T> {
  const names = new Set<string>()
  const entries = [...tensors].map(([name, tensor]) => {
    checkText(name)
    if (name === "__metadata__")
      fail("E_TENSOR_WRITE", `a tensor may not be called "__metadata__"; the format reserves it`)
    if (names.has(name)) fail("E_TENSOR_WRITE", `two tensors are called ${JSON.stringify(name)}; names must differ`)
    names.add(name)
    return { name, tensor, byteLength: checkedBytes(name, tensor) }
  })
  entries.sort((a, b) => dtypeRank(b.tensor.dtype) - dtypeRank(a.tensor.dtype) || compareCodePoints(a.name, b.name))
  let position = 0
  const members = entries.map(({ name, tensor: { dtype, shape }, byteLength }) => {
    const start = position
    position += byteLength
    return `${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [start, position] })}`
  })
  if (Object.keys(metadata).length > 0) members.unshift(`"__metadata__":${metadataJson(metadata)}`)
  // Assembled by hand: an object would put names such as "10" first.
  return { header: headerBytes(`{${members.join(",")}}`), entries }
}

function headerBytes(json: string): Uint8Array {
  const text = new TextEncoder().encode(json)
  const length = Math.ceil(text.byteLength / 8) * 8
  if (length > maxHeaderBytes)
    fail("E_TENSOR_WRITE", `the header takes ${length} bytes, readers accept ${maxHeaderBytes}; write several files`)
  const header = new Uint8Array(prefixBytes + length).fill(0x20)
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true)
  header.set(text, prefixBytes)
  return header
}

function metadataJson(metadata: Readonly<Record<string, string>>): string {
  for (const [key, value] of Object.entries(metadata)) {
    if (typeof value !== "string")
      fail("E_TENSOR_WRITE", `metadata ${JSON.stringify(key)} is a ${typeof value}; only strings can be stored`)
    checkText(key)
    checkText(value)
  }
  return JSON.stringify(metadata)
}

function checkText(text: string): void {
  if (/\p{Surrogate}/u.test(text)) fail("E_TENSOR_WRITE", `${JSON.stringify(text)} holds half a surrogate pair`)
}

function checkedBytes(name: string, { dtype, shape }: LazyTensorInput): number {
  const at = `tensor ${JSON.stringify(name)}`
  if (!isDtype(dtype))
    fail("E_TENSOR_WRITE", `${at} has dtype ${JSON.stringify(dtype)}; use one of ${dtypes.join(", ")}`)
  const size = tensorBytes(dtype, shape)
  if (!shape.every((d) => Number.isSafeInteger(d) && d >= 0) || !Number.isSafeInteger(size))
    fail(
      "E_TENSOR_WRITE",
      `${at}: ${dtype} [${shape}] is not a possible shape; sizes are integers and fill whole bytes`,
    )
  return size
}

const described = (name: string, { dtype, shape }: LazyTensorInput): string =>
  `tensor ${JSON.stringify(name)} is ${dtype} [${shape}]`

/** The bytes of a tensor's data, after checking that they are what dtype and shape promise. */
function tensorView(name: string, tensor: LazyTensorInput, data: ArrayBufferView): Uint8Array {
  const bytes = bytesOf(name, tensor, data)
  checkSize(name, tensor, bytes.byteLength)
  return bytes
}

function bytesOf(name: string, tensor: LazyTensorInput, data: ArrayBufferView): Uint8Array {
  const { dtype } = tensor
  const given = arrayTag(data)
  const allowed = [arrayName(dtype), "Uint8Array", "DataView", ...(dtype === "F16" ? ["Float16Array"] : [])]
  if (allowed.includes(given)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  fail("E_TENSOR_WRITE", `${described(name, tensor)}, its data a ${given}; allowed are ${allowed.join(", ")}`)
}

function checkSize(name: string, tensor: LazyTensorInput, given: number): void {
  const size = tensorBytes(tensor.dtype, tensor.shape)
  if (given === size) return
  fail("E_TENSOR_WRITE", `${described(name, tensor)}, which takes ${size} bytes; its data has ${given}`)
}

/** Order of UTF-8 bytes, which is that of code points; `<` on strings puts U+E000 to U+FFFF after the emoji. */
function compareCodePoints(a: string, b: string): number {
  let i = 0
  while (i < a.length && a[i] === b[i]) i++
  const [x, y] = [a.charCodeAt(i), b.charCodeAt(i)].map((unit) =>
    unit >= 0xd800 && unit < 0xe000 ? unit + 0x10000 : unit,
  )
  return i === a.length || i === b.length ? a.length - b.length : (x as number) - (y as number)
}
