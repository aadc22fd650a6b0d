/**
 * The one error class of this package. It carries the same brand as the errors of @peftjs/core, so that core's
 * `isPeftError` knows it although this package does not depend on core. Codes are listed in docs/errors.md.
 */

/** Every code this package throws. A code never changes its meaning within a major version; messages may. */
export type SafetensorsErrorCode =
  | "E_FILE_NOT_FOUND"
  | "E_NOT_A_DIRECTORY"
  | "E_NOT_A_FILE"
  | "E_PATH"
  | "E_READ"
  | "E_WRITE"
  | "E_SAFETENSORS_HEADER"
  | "E_SAFETENSORS_LAYOUT"
  | "E_SAFETENSORS_SIZE"
  | "E_SAFETENSORS_INDEX"
  | "E_SHARD_MISSING"
  | "E_TENSOR_NOT_FOUND"
  | "E_TENSOR_ROWS"
  | "E_TENSOR_CONVERT"
  | "E_TENSOR_WRITE"

/** Shared through the global symbol registry, so that two copies of a package still know each other's errors. */
const brand: unique symbol = Symbol.for("peftjs.error") as never

/** An error a program may act on: `code` is stable, the message says what was given and what to do. */
export class SafetensorsError extends Error {
  readonly code: SafetensorsErrorCode
  constructor(code: SafetensorsErrorCode, message: string, options?: { cause?: unknown }) {
    super(`${message} (${code})`, options)
    this.name = "SafetensorsError"
    this.code = code
    Object.defineProperty(this, brand, { value: true })
  }
}

/** Throws; usable inside an expression. */
export function fail(code: SafetensorsErrorCode, message: string, cause?: unknown): never {
  throw new SafetensorsError(code, message, cause === undefined ? undefined : { cause })
}
