/** The kit's assertions. They throw plain errors that say what was compared, so that any runner can show them. */
import { isPeftError } from "@peftjs/core"

/** Throws unless the condition holds. */
export function check(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(message)
}

/** Every element within `tolerance` · (1 + |expected|); NaN equals NaN and an infinity only itself. A tolerance of 0 wants equal numbers. */
export function close(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number, what: string): void {
  check(actual.length === expected.length, `${what}: ${actual.length} values, not ${expected.length}`)
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i] as number, expected[i] as number]
    const near = Number.isFinite(e) ? Math.abs(a - e) <= tolerance * (1 + Math.abs(e)) : Object.is(a, e)
    if (near) continue
    throw new Error(`${what}: value ${i} is ${a}, not ${e} (tolerance ${tolerance})`)
  }
}

/** Equal number for number. */
export function same(actual: ArrayLike<number>, expected: ArrayLike<number>, what: string): void {
  close(actual, expected, 0, what)
}

/** Throws unless the body fails with an error of that code. */
export async function throwsCode(code: string, body: () => unknown, what: string): Promise<void> {
  try {
    await body()
  } catch (error) {
    if (isPeftError(error) && error.code === code) return
    throw new Error(`${what}: expected ${code}, got ${String(error)}`, { cause: error })
  }
  throw new Error(`${what}: expected ${code}, but nothing was thrown`)
}
