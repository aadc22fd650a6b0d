/** Matrices that files hold the other way round: GPT-2's Conv1D, [in, out]. Knows no files and no models. */
import type { TensorArray } from "@peftjs/safetensors"

/** A row-major [rows, columns] as [columns, rows], a copy; elements stay as they are, bit patterns too. */
export function turned<T extends TensorArray>(values: T, rows: number, columns: number): T {
  const [from, to] = [values, values.slice()] as Record<number, unknown>[] as [T, T]
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) to[c * rows + r] = from[r * columns + c] as T[number]
  }
  return to
}
