/** Values of a matrix that stream in, in pieces of any length, handed on block by block: what quantising has in common. Knows no format. */
import { PeftError } from "./errors.ts"

/** Takes values in order. */
export interface ValueBlocks {
  /** Throws E_SHAPE when more values come than there should be, and what a block throws. */
  push(values: Float32Array): void
  /** Hands on what is left. Throws E_SHAPE when fewer values came than there should be. */
  finish(): void
}

/**
 * `block` gets `size` values at a time, of `elements` in all; the last ones may be fewer. `at` is where the first of them stands. The array
 * is used again. `format` is for errors.
 */
export function valueBlocks(
  format: string,
  elements: number,
  size: number,
  block: (values: Float32Array, at: number) => void,
): ValueBlocks {
  const values = new Float32Array(size)
  let [filled, done] = [0, 0]
  const close = (): void => {
    block(filled === size ? values : values.subarray(0, filled), done)
    done += filled
    filled = 0
  }
  return {
    push(given) {
      const count = done + filled + given.length
      if (count > elements) throw valueCountError(format, count, elements)
      for (let from = 0; from < given.length; ) {
        const some = Math.min(size - filled, given.length - from)
        values.set(given.subarray(from, from + some), filled)
        filled += some
        from += some
        if (filled === size) close()
      }
    },
    finish() {
      if (done + filled !== elements) throw valueCountError(format, done + filled, elements)
      if (filled > 0) close()
    },
  }
}

/** E_SHAPE: as many values as came do not fill the matrix. */
export const valueCountError = (format: string, given: number, elements: number): PeftError =>
  new PeftError(
    "E_SHAPE",
    `[core] ${format} was given ${given} values or more for a matrix of ${elements}; give all rows`,
  )
