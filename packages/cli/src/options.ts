/** How single options are read from text. Must not know which command has which. */
import { PeftError } from "@peftjs/core"
import { type Command, Option } from "commander"
import { backendNames } from "./backend.ts"

interface Bounds {
  readonly min?: number
  readonly max?: number
}

/** An option that is a number. Parsing throws E_OPTION naming the option, what was given and what is allowed. */
export function numeric(flags: string, description: string, bounds: Bounds = {}): Option {
  const option = new Option(flags, description)
  return option.argParser((text) =>
    inside(option, text, text.trim() === "" ? Number.NaN : Number(text), bounds, "a number"),
  )
}

/** An option that is a whole number. */
export function whole(flags: string, description: string, bounds: Bounds = {}): Option {
  const option = new Option(flags, description)
  return option.argParser((text) =>
    inside(option, text, /^[+-]?\d+$/.test(text.trim()) ? Number(text) : Number.NaN, bounds, "a whole number"),
  )
}

function inside(option: Option, text: string, value: number, { min, max }: Bounds, kind: string): number {
  if (Number.isFinite(value) && value >= (min ?? value) && value <= (max ?? value)) return value
  const range = [min === undefined ? "" : ` at least ${min}`, max === undefined ? "" : ` at most ${max}`].join("")
  throw new PeftError("E_OPTION", `[cli] ${option.long} must be ${kind}${range}, not ${JSON.stringify(text)}`)
}

/** An option that may be given several times: all values, in order. */
export function repeated(flags: string, description: string): Option {
  return new Option(flags, description).argParser((text, before: string[] | undefined) => [...(before ?? []), text])
}

/** The values of `k=v …`: JSON where it parses, else the text itself. Throws E_OPTION. */
export function pairs(flag: string, given: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(
    given.map((text) => {
      const at = text.indexOf("=")
      if (at > 0) return [text.slice(0, at), jsonOrText(text.slice(at + 1))]
      throw new PeftError("E_OPTION", `[cli] ${flag} ${JSON.stringify(text)} must look like name=value`)
    }),
  )
}

function jsonOrText(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

/** An option that is a number of bytes: 16777216, 16MiB, 2GB. */
export function bytes(flags: string, description: string): Option {
  const option = new Option(flags, description)
  return option.argParser((text) => {
    const [, number, prefix = " ", binary] = /^(\d+(?:\.\d+)?) ?(?:([KMG])(i?))?B?$/.exec(text.trim()) ?? []
    const value = Math.floor(Number(number) * (binary ? 1024 : 1000) ** " KMG".indexOf(prefix))
    if (value >= 1) return value
    throw new PeftError(
      "E_OPTION",
      `[cli] ${option.long} must be a number of bytes such as 16777216, 16MiB or 2GB, not ${JSON.stringify(text)}`,
    )
  })
}

/** What every command that computes takes. */
export function commonOptions(command: Command): Command {
  return command
    .addOption(
      new Option("--backend <name>", "where it runs; auto: on the GPU if it works")
        .choices(backendNames)
        .default("cpu"),
    )
    .option("--device <name>", "of --backend cuda: gpu, gpu:1, or cpu, which is for tests; by default the first GPU")
    .addOption(
      bytes(
        "--max-buffer-bytes <n>",
        "largest buffer, where it shall be smaller than the device's own limit: 16MiB",
      ).env("PEFT_MAX_BUFFER"),
    )
    .option("--json", "print one JSON object on stdout and nothing else")
    .option("--debug", "show the stack of an error (also PEFT_DEBUG=1)")
}

/** Checked here and not by the parser, because a configuration file may give it. Throws E_OPTION. */
export function required<T>(value: T | undefined, flag: string): T {
  if (value !== undefined) return value
  throw new PeftError("E_OPTION", `[cli] ${flag} is missing; give it on the command line or in the --config file`)
}
