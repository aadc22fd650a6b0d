/** Numbers as Python's json.dumps writes floats: bitsandbytes stores them as text. */

/** repr of a Python float: a point or an exponent of at least two digits, exponents below 1e-4 and from 1e16 on. */
export function pythonFloat(x: number): string {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "NaN" : x > 0 ? "Infinity" : "-Infinity"
  if (Object.is(x, -0)) return "-0.0"
  const [digits, exponent] = x.toExponential().split("e") as [string, string]
  const power = Number(exponent)
  if (x !== 0 && (power < -4 || power >= 16))
    return `${digits}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`
  const text = power < 0 && x !== 0 ? fixed(digits, power) : String(x)
  return text.includes(".") ? text : `${text}.0`
}

/** Digits of a number below 1 without an exponent. */
function fixed(digits: string, power: number): string {
  const sign = digits.startsWith("-") ? "-" : ""
  return `${sign}0.${"0".repeat(-power - 1)}${digits.replace(/[-.]/g, "")}`
}
