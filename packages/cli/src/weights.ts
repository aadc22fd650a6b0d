/** How a base is stored, from the words of the command line. Must not know models or methods. */
import { PeftError, type WeightFormat } from "@peftjs/core"
import { ggufFormats } from "@peftjs/gguf"
import { fp4, int8, nf4 } from "@peftjs/qlora"
import type { Command } from "commander"
import { Option } from "commander"
import { whole } from "./options.ts"

/** As typed. */
export interface WeightFlags {
  readonly doubleQuant?: boolean
  readonly blockSize?: number
  readonly skipModules?: string
}

export const weightTypes = ["nf4", "fp4", "int8"] as const
export type WeightType = (typeof weightTypes)[number]

/** Formats in which a folder may be quantised already. */
export const storedFormats: readonly WeightFormat[] = [nf4(), fp4(), int8(), ...ggufFormats]

/** `choose: false` where the layers are those that are packed already. */
export function weightOptions(
  command: Command,
  name: "--type" | "--weights",
  description: string,
  options: { readonly choose?: boolean } = {},
): Command {
  const packing = command
    .addOption(new Option(`${name} <type>`, description).choices(weightTypes))
    .option("--double-quant", "quantise the scales as well: 4.13 bits a value instead of 4.5")
    .addOption(whole("--block-size <n>", "values under one scale: 32, 64, … 4096 (default: 64)", { min: 1 }))
  return options.choose === false
    ? packing
    : packing.option("--skip-modules <name,…>", "linear layers that stay as they are (default: the head)")
}

/** What loading is told. Throws E_OPTION. */
export function loadingAs(
  type: WeightType,
  { doubleQuant, blockSize, skipModules }: WeightFlags,
): { readonly weights: WeightFormat; readonly skipModules?: readonly string[] } {
  if (type === "int8" && (doubleQuant !== undefined || blockSize !== undefined)) {
    throw new PeftError(
      "E_OPTION",
      "[cli] int8 has one scale for each row: leave out --double-quant and --block-size, or take nf4 or fp4",
    )
  }
  const own = {
    ...(blockSize === undefined ? {} : { blockSize }),
    ...(doubleQuant === undefined ? {} : { doubleQuant }),
  }
  const weights = type === "int8" ? int8() : type === "fp4" ? fp4(own) : nf4(own)
  return { weights, ...(skipModules === undefined ? {} : { skipModules: names(skipModules) }) }
}

/** The same where the type may be missing: then nothing else may be said. Throws E_OPTION. */
export function loadingOf(
  flags: WeightFlags & { readonly weights?: WeightType },
): ReturnType<typeof loadingAs> | undefined {
  if (flags.weights !== undefined) return loadingAs(flags.weights, flags)
  const idle = (["doubleQuant", "blockSize", "skipModules"] as const).find((key) => flags[key] !== undefined)
  if (idle === undefined) return undefined
  const flag = idle.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)
  throw new PeftError("E_OPTION", `[cli] --${flag} means nothing without --weights; give nf4, fp4 or int8`)
}

const names = (text: string): string[] =>
  text
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "")
