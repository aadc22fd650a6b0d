/** The formats of this package, for the adapter kit (tests/formats.ts). */
import type { WeightFormat } from "@peftjs/core"
import { q4_0, q4_1, q8_0 } from "../src/index.ts"

export const weights: Readonly<Record<string, WeightFormat>> = { q4_0: q4_0(), q4_1: q4_1(), q8_0: q8_0() }
