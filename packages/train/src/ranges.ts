/** Refusing numbers out of range, by the name the user gave them. */
import { PeftError } from "@peftjs/core"

/** @throws E_OPTION naming the first number that `allowed` refuses; undefined ones are left out */
export function requireNumbers(
  values: Readonly<Record<string, number | undefined>>,
  allowed: (value: number) => boolean,
  range: string,
): void {
  for (const [name, value] of Object.entries(values))
    if (value !== undefined && !(Number.isFinite(value) && allowed(value)))
      throw new PeftError("E_OPTION", `[train] ${name} is ${value}; it must be ${range}`)
}

/** @throws E_OPTION unless every number is a whole one of at least `least` */
export function requireWhole(values: Readonly<Record<string, number | undefined>>, least: number): void {
  requireNumbers(values, (value) => Number.isInteger(value) && value >= least, `a whole number of at least ${least}`)
}
