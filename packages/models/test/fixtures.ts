/** The repository's golden fixtures as host arrays. */
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import type { Model, ModelInput, Tensor } from "@peftjs/core"
import { free } from "@peftjs/core"
import { parseSafetensors, toFloat32 } from "@peftjs/safetensors"

export const folder = (path: string): string => fileURLToPath(new URL(`../../../fixtures/${path}`, import.meta.url))

// biome-ignore lint/suspicious/noExplicitAny: expected.json has another shape in every fixture
export const json = (path: string): any => JSON.parse(readFileSync(folder(path), "utf8"))

/** Values by name: integers as Int32Array, floats as Float32Array. */
export function tensors(path: string): Map<string, Float32Array | Int32Array> {
  const file = parseSafetensors(readFileSync(folder(path)))
  return new Map(
    [...file.tensors].map(([name, { dtype, data }]) => [
      name,
      dtype === "I64" ? Int32Array.from(data as BigInt64Array, Number) : toFloat32(dtype, data),
    ]),
  )
}

export type Case = "plain" | "right" | "left" | "left_pos"

/** The batch of a padding case: two rows. */
export function inputOf(inputs: ReadonlyMap<string, Float32Array | Int32Array>, name: Case): ModelInput {
  const get = (key: string): Int32Array => inputs.get(key) as Int32Array
  const shape = { batch: 2, tokens: get("input_ids").length / 2 }
  if (name === "plain") return { ids: get("input_ids"), ...shape }
  const side = name === "right" ? "right" : "left"
  const padded = { ids: get(`${side}.input_ids`), mask: get(`${side}.attention_mask`), ...shape }
  return name === "left_pos" ? { ...padded, positions: get("left.position_ids") } : padded
}

/** Largest difference over the rows (of `width`) whose mask is 1, or over all. */
export function difference(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  rows?: { mask: Int32Array | undefined; width: number },
): number {
  if (actual.length !== expected.length) throw new Error(`${actual.length} values, expected ${expected.length}`)
  let worst = 0
  for (let i = 0; i < expected.length; i++) {
    if (rows?.mask && rows.mask[Math.floor(i / rows.width)] === 0) continue
    const d = Math.abs((actual[i] as number) - (expected[i] as number))
    worst = Number.isNaN(d) ? Number.NaN : Math.max(worst, d)
  }
  return worst
}

/** Reads a tensor and gives it back. */
export async function take(tensor: Tensor): Promise<Float32Array> {
  const data = (await tensor.data()) as Float32Array
  free(tensor)
  return data
}

export const logitsOf = (model: Model, input: ModelInput): Promise<Float32Array> => take(model.forward(input))
