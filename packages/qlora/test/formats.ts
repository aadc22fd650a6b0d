/** The formats of this package, for the adapter kit (tests/formats.ts). */
import type { WeightFormat } from "@peftjs/core"
import { fp4, int8, nf4 } from "../src/index.ts"

export const weights: Readonly<Record<string, WeightFormat>> = {
  nf4: nf4(),
  "nf4, doubly quantised": nf4({ blockSize: 32, doubleQuant: true }),
  fp4: fp4(),
  int8: int8(),
}
