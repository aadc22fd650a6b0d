/** Reading every block of a file, to say whether it can be used. Knows no model. */
import { readRange } from "@peftjs/safetensors"
import { unpackBlocks } from "./blocks.ts"
import { checkFinite } from "./formats.ts"
import { isPacked, packedKinds } from "./kinds.ts"
import type { GgufFile } from "./open.ts"

/** Blocks that are read at a time. */
const step = 1 << 16

/** Throws E_NOT_FINITE naming the first packed tensor with a scale or minimum that is no number, and E_READ. */
export async function checkScales({ source, tensors }: GgufFile): Promise<void> {
  for (const [name, { kind, start, end }] of tensors) {
    if (!isPacked(kind)) continue
    const bytes = step * packedKinds[kind].bytes
    for (let at = start; at < end; at += bytes)
      checkFinite(
        name,
        kind,
        unpackBlocks(kind, await readRange(source, at, Math.min(end, at + bytes))),
        (at - start) / packedKinds[kind].bytes,
      )
  }
}
