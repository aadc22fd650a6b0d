/** What the tests share: fixtures by path, recorded tensors, and how far numbers are apart. */
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { cpu } from "@peftjs/backend-cpu"
import { type Backend, free, type Weight, type WeightFormat } from "@peftjs/core"
import { parseSafetensors, type TensorData, toFloat32 } from "@peftjs/safetensors"

/** A file of this package's fixtures. */
export const fixture = (path: string): string => fileURLToPath(new URL(`fixtures/${path}`, import.meta.url))
/** A folder of the fixtures that all packages use. */
export const commonFixture = (path: string): string =>
  fileURLToPath(new URL(`../../../fixtures/${path}`, import.meta.url))

// biome-ignore lint/suspicious/noExplicitAny: recorded files have many shapes
export const json = (path: string): any => JSON.parse(readFileSync(fixture(path), "utf8"))

export function tensorsOf(file: string): ReadonlyMap<string, TensorData> {
  return parseSafetensors(readFileSync(file)).tensors
}

/** A recorded tensor as f32. */
export function f32(tensors: ReadonlyMap<string, TensorData>, name: string): Float32Array {
  const found = tensors.get(name)
  if (!found) throw new Error(`no tensor ${name}`)
  return toFloat32(found.dtype, found.data)
}

/** The largest difference; NaN counts as one. */
export function largest(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY
  let most = 0
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs((a[i] as number) - (b[i] as number))
    if (d > most || Number.isNaN(d)) most = d
  }
  return most
}

export const maxAbs = (values: ArrayLike<number>): number => Math.max(...Array.from(values, Math.abs))

/** Rows in blocks of three, as loading delivers them. */
export async function* blocksOf(values: Float32Array, columns: number): AsyncGenerator<Float32Array> {
  for (let at = 0; at < values.length; at += 3 * columns) yield values.slice(at, at + 3 * columns)
}

export async function encoded(
  format: WeightFormat,
  values: Float32Array,
  shape: readonly [number, number],
  options: { readonly backend?: Backend; readonly dtype?: "f32" | "f16" | "bf16" } = {},
): Promise<Weight> {
  const { backend = await cpu(), dtype = "f32" } = options
  return format.encode(backend, shape, blocksOf(values, shape[1]), { dtype })
}

/** All values of a weight. */
export async function valuesOf(weight: Weight): Promise<Float32Array> {
  const rows = weight.rows({ start: 0, end: weight.shape[0] })
  const values = (await rows.data()) as Float32Array
  free(rows)
  return values
}

/** What files hold of a weight. */
export async function storedOf(weight: Weight): Promise<Map<string, Uint8Array | Float32Array>> {
  const entries = [...(weight.stored ?? [])].map(async ([name, { data }]) => {
    const made = typeof data === "function" ? await data() : data
    return [name, made] as [string, Uint8Array | Float32Array]
  })
  return new Map(await Promise.all(entries))
}
