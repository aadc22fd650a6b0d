/**
 * Two corrections to how @huggingface/tokenizers 0.2.0 turns bytes into text, where it differs from the Rust library it follows:
 * it drops a byte order mark, and writes one replacement character where Rust's byte fallback writes one per byte.
 * Knows the library's decoders, no tokenizer files.
 */
import { ByteFallbackDecoder } from "@huggingface/tokenizers"

interface ByteDecoder {
  readonly decoders?: readonly ByteDecoder[]
  text_decoder?: { decode(bytes: Uint8Array): string }
}

const lossy = new TextDecoder("utf-8", { ignoreBOM: true })
const strict = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true })
const fallback = {
  decode(bytes: Uint8Array): string {
    try {
      return strict.decode(bytes)
    } catch {
      return "\uFFFD".repeat(bytes.length)
    }
  },
}

/** Corrects a decoder and those inside it; `decoder` may be null, as the library leaves it. */
export function correctByteDecoders(decoder: object | null): void {
  const given = decoder as ByteDecoder | null
  given?.decoders?.forEach(correctByteDecoders)
  if (given?.text_decoder) given.text_decoder = given instanceof ByteFallbackDecoder ? fallback : lossy
}
