/** Errors of the whole project: a stable code, what was given, what is allowed, what to do. Codes are listed in docs/errors.md. */

/** Shared by every package and by second copies of core in one program, where `instanceof` would fail. */
const brand: unique symbol = Symbol.for("peftjs.error") as never

/**
 * An error a program may act on.
 * `code` never changes within a major version; the message may.
 */
export class PeftError extends Error {
  readonly code: string
  constructor(code: string, message: string, options?: { cause?: unknown }) {
    super(`${message} (${code})`, options)
    this.name = "PeftError"
    this.code = code
    Object.defineProperty(this, brand, { value: true })
  }
}

/** True for errors of this project, whichever copy of whichever package threw them. */
export function isPeftError(error: unknown): error is Error & { code: string } {
  return error instanceof Error && (error as unknown as Record<symbol, unknown>)[brand] === true
}

/** Throws E_INTERNAL: a broken invariant of this project, not the user's mistake. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new PeftError("E_INTERNAL", `internal: ${message}`)
}
