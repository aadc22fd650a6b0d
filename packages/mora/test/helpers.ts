/** What the tests share: fixtures by path, and how far numbers are apart. */
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { parseSafetensors, toFloat32 } from "@peftjs/safetensors"

/** A file of this package's fixtures. */
export const fixture = (path: string): string => fileURLToPath(new URL(`fixtures/${path}`, import.meta.url))
/** A folder of the fixtures that all packages use. */
export const commonFixture = (path: string): string =>
  fileURLToPath(new URL(`../../../fixtures/${path}`, import.meta.url))

/** Recorded tensors by name, as f32. */
export function tensorsOf(file: string): Map<string, Float32Array> {
  const { tensors } = parseSafetensors(readFileSync(file))
  return new Map([...tensors].map(([name, t]) => [name, toFloat32(t.dtype, t.data)]))
}

/** The largest difference; NaN counts as one. */
export function largest(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY
  return Array.from(a, (x, i) => Math.abs(x - (b[i] as number))).reduce((m, d) => (d > m || Number.isNaN(d) ? d : m), 0)
}
