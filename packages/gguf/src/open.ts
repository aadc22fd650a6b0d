/**
 * The header of a GGUF file: @huggingface/gguf parses it, here its bytes are handed over in ranges and everything is checked that later
 * reads rely on. Knows no model; names and shapes are the file's own, sizes turned round to [rows, columns].
 */
import type { GGUFParseOutput, gguf as Parse } from "@huggingface/gguf"
import { PeftError } from "@peftjs/core"
import { type ByteSource, elementCount, readRange } from "@peftjs/safetensors"
import { denseKinds, isPacked, type Kind, kinds, packedKinds } from "./kinds.ts"

/** One tensor of the file. */
export interface GgufTensor {
  readonly kind: Kind
  /** [rows, columns], or [n]. */
  readonly shape: readonly number[]
  /** First byte and the byte after the last, counted from the beginning of the file. */
  readonly start: number
  readonly end: number
}

export interface GgufFile {
  readonly source: ByteSource
  /** "general.architecture" and so on; lists are arrays, 64-bit numbers BigInts. */
  readonly metadata: Readonly<Record<string, unknown>>
  /** In the order of the header. */
  readonly tensors: ReadonlyMap<string, GgufTensor>
}

/**
 * Opens a file: reads and checks its header, nothing else.
 *
 * @throws E_GGUF (no such file, cut off, damaged, big-endian, a part of several), E_GGUF_TYPE (tensors of a type that is not supported), E_READ
 */
export async function openGguf(source: ByteSource): Promise<GgufFile> {
  // Loaded when it is needed: it brings much that is not.
  const library = await import("@huggingface/gguf")
  const parsed = await parse(source, library.gguf)
  const { metadata, tensorInfos, tensorDataOffset, littleEndian, tensorInfoByteRange } = parsed
  if (!littleEndian) throw ggufError(source, "it is big-endian; convert it to little-endian")
  if (tensorInfoByteRange[1] > source.size) throw cutOff(source)
  const values = metadata as unknown as Readonly<Record<string, unknown>>
  if (Number(values["split.count"] ?? 1) > 1)
    throw ggufError(source, "it is one of several parts; join them with llama.cpp's llama-gguf-split --merge")
  const tensors = new Map<string, GgufTensor>()
  const unknown: string[] = []
  for (const { name, shape: sizes, dtype, offset } of tensorInfos) {
    const called = library.GGMLQuantizationType[dtype] ?? `type ${dtype}`
    const kind = kinds.find((known) => known === called)
    if (!kind) {
      unknown.push(`${name} (${called})`)
      continue
    }
    const shape = sizes.map(Number).reverse()
    const start = Number(tensorDataOffset) + Number(offset)
    const end = start + bytesOf(source, name, kind, shape)
    if (end > source.size) throw cutOff(source, name)
    if (tensors.has(name)) throw ggufError(source, `the tensor ${JSON.stringify(name)} is there twice`)
    tensors.set(name, { kind, shape, start, end })
  }
  if (unknown.length > 0) throw typeError(source, unknown)
  return { source, metadata: values, tensors }
}

/** Bytes that the library asks for at a time. */
const asked = 2_000_000

async function parse(source: ByteSource, gguf: typeof Parse): Promise<GGUFParseOutput> {
  const magic = await readRange(source, 0, Math.min(4, source.size))
  if (new TextDecoder().decode(magic) !== "GGUF")
    throw ggufError(source, 'it does not begin with "GGUF"; is it another file under this name?')
  let failure: unknown
  const ranges = async (_: unknown, init?: RequestInit): Promise<Response> => {
    try {
      const range = (init?.headers as Record<string, string> | undefined)?.Range ?? ""
      const start = Number(/bytes=(\d+)-/.exec(range)?.[1])
      // It asks ahead; what it lacks it asks for again and again.
      if (start > source.size + asked) throw cutOff(source)
      const data = await readRange(source, Math.min(start, source.size), Math.min(start + asked, source.size))
      return new Response(data.slice())
    } catch (error) {
      failure = error
      throw error
    }
  }
  try {
    // The address is never asked: the bytes come from the source.
    return await gguf("https://localhost/file.gguf", { fetch: ranges as typeof fetch })
  } catch (cause) {
    if (failure) throw failure
    throw ggufError(source, `its header cannot be read: ${(cause as Error).message}`, cause)
  }
}

function bytesOf(source: ByteSource, name: string, kind: Kind, shape: readonly number[]): number {
  const elements = elementCount(shape)
  if (!Number.isSafeInteger(elements)) throw ggufError(source, `${name} claims ${elements} values`)
  if (!isPacked(kind)) return elements * (denseKinds[kind as keyof typeof denseKinds].bytes as number)
  const { values, bytes } = packedKinds[kind]
  if ((shape.at(-1) ?? 0) % values === 0) return (elements / values) * bytes
  throw ggufError(source, `${name} is ${kind} [${shape}], whose rows are not blocks of ${values} values`)
}

export function ggufError({ name }: ByteSource, problem: string, cause?: unknown): PeftError {
  return new PeftError("E_GGUF", `[gguf] ${name}: ${problem}`, { cause })
}

function cutOff(source: ByteSource, tensor?: string): PeftError {
  const where = tensor === undefined ? "its header does not end in it" : `${tensor} does not end in it`
  return ggufError(source, `${where}: the file of ${source.size} bytes was cut off; fetch it again`)
}

function typeError({ name }: ByteSource, found: readonly string[]): PeftError {
  const rest = found.length > 3 ? ` and ${found.length - 3} more` : ""
  return new PeftError(
    "E_GGUF_TYPE",
    `[gguf] ${name} holds ${found.slice(0, 3).join(", ")}${rest}; supported are ${kinds.join(", ")}: take such a file of the model, or make one with llama.cpp's llama-quantize`,
  )
}
