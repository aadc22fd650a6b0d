/** The ways in which MoRA brings features together and spreads them again, as the published code numbers them. Knows no layer. */
import { PeftError } from "@peftjs/core"

/** There is no 5. */
export const types = {
  sharing: 1,
  "contiguous-interleave": 2,
  "contiguous-tile": 3,
  "strided-interleave": 4,
  rotation: 6,
} as const

export type MoraType = keyof typeof types
export type MoraNumber = (typeof types)[MoraType]

/** Which features of the input a group adds up, and over which of the output its value goes. */
export const groupings: Readonly<
  Record<
    Exclude<MoraType, "rotation">,
    { readonly sums: "strided" | "contiguous"; readonly spreads: "tile" | "interleave" }
  >
> = {
  sharing: { sums: "strided", spreads: "tile" },
  "contiguous-interleave": { sums: "contiguous", spreads: "interleave" },
  "contiguous-tile": { sums: "contiguous", spreads: "tile" },
  "strided-interleave": { sums: "strided", spreads: "interleave" },
}

/** The name of a type given by name or number. Throws E_OPTION. */
export function typeOf(given: unknown): MoraType {
  const found = Object.entries(types).find(([name, number]) => given === name || given === number)
  if (found) return found[0] as MoraType
  const known = Object.entries(types).map(([name, number]) => `"${name}" (${number})`)
  const five = given === 5 ? "; the published code has no 5" : ""
  throw new PeftError(
    "E_OPTION",
    `[mora] type (mora_type) = ${JSON.stringify(given)} must be one of ${known.join(", ")}${five}`,
  )
}

/** The type of the next cycle, of the 2 (1 ↔ 2, or 3 ↔ 4) or 4 (1 → 2 → 3 → 4 → 1) that restarts go through; rotation has no other. */
export function following(type: MoraType, among: 2 | 4): MoraType | undefined {
  if (type === "rotation") return undefined
  const number = types[type]
  return typeOf(among === 4 ? (number % 4) + 1 : number % 2 === 0 ? number - 1 : number + 1)
}
